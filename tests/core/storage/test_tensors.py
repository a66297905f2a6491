"""Tensor files: equal content gives equal bytes, and a changed byte is found."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from core.storage.tensors import DamagedError, read_metadata, read_tensors, write_tensors

TENSORS = {
    "a": torch.arange(5, dtype=torch.uint8),
    "weight": torch.linspace(-1, 1, 6).reshape(2, 3).T,
    "half": torch.tensor([0.5, float("nan")], dtype=torch.bfloat16),
    "step": torch.tensor(7.0),
    "empty": torch.empty(0, 4),
    "flag": torch.tensor([True, False]),
    "long": torch.tensor([-(2**60)]),
}
METADATA = {"config": json.dumps({"model": {"width": 8}}), "note": "é"}


def assert_tensors(stored: dict[str, torch.Tensor]) -> None:
    assert stored.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert stored[name].dtype == tensor.dtype
        torch.testing.assert_close(stored[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_round_trip_here_and_with_the_library(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, METADATA)
    metadata, tensors = read_tensors(path)
    assert metadata == read_metadata(path) == METADATA
    assert_tensors(tensors)
    assert_tensors(load_file(path))


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", TENSORS, METADATA)
    write_tensors(tmp_path / "y", dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(contiguous, path, METADATA)
    metadata, tensors = read_tensors(path)
    assert metadata == METADATA
    assert_tensors(tensors)
    save_file(contiguous, path)
    assert read_metadata(path) == {}


def test_damaged_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"first": torch.zeros(4), "second": torch.zeros(4)}, {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert read_metadata(path) == {}
    with pytest.raises(DamagedError, match=r"x.safetensors is damaged: the tensor second does not have"):
        read_tensors(path)


@pytest.mark.parametrize("damage", [b"", b"\0" * 200, b"\xff" * 200, b"PK\3\4" + b"\0" * 100])
def test_another_file_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(damage)
    with pytest.raises(DamagedError, match=r"x.safetensors is truncated or damaged"):
        read_metadata(tmp_path / "x.safetensors")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x.safetensors"):
        read_metadata(tmp_path / "x.safetensors")


@seed(0)
@settings(max_examples=400, deadline=None, database=None)
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_is_found(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    write_tensors(path, TENSORS, METADATA)
    content = bytearray(path.read_bytes())
    position %= len(content)
    content[position] ^= 1 << bit
    path.write_bytes(content[:position] if cut else content)
    try:
        metadata, tensors = read_tensors(path)
    except DamagedError as error:
        message = str(error)
    else:
        assert {name: metadata[name] for name in METADATA} == METADATA
        assert_tensors(tensors)
        message = str(path)
    assert str(path) in message
