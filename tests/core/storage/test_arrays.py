"""Arrays are read as they were written, or refused by name."""

from pathlib import Path

import numpy as np
import pytest

from core.storage.arrays import json_path, read_array, write_array

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("mmap", [False, True])
def test_round_trip(tmp_path: Path, mmap: bool) -> None:
    write_array(tmp_path / "x.npy", ARRAY, {"of": [1, "a"]})
    array, content = read_array(tmp_path / "x.npy", mmap)
    np.testing.assert_array_equal(array, ARRAY)
    assert isinstance(array, np.memmap) == mmap
    assert content == {"of": [1, "a"]}


@pytest.mark.parametrize("file", ["x.npy", "x.npy.json"])
@pytest.mark.parametrize("place", [0, 20, -2])
def test_flipped_bit_is_found(tmp_path: Path, file: str, place: int) -> None:
    write_array(tmp_path / "x.npy", ARRAY, {"of": "some model"})
    content = bytearray((tmp_path / file).read_bytes())
    content[place] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} is damaged"):
        read_array(tmp_path / "x.npy")


def test_array_without_its_json_file_is_not_read(tmp_path: Path) -> None:
    write_array(tmp_path / "x.npy", ARRAY)
    json_path(tmp_path / "x.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"x.npy.json"):
        read_array(tmp_path / "x.npy")
