"""Atomic files hold the old or the new content, never a part of it."""

import errno
import json
import os
from pathlib import Path

import pytest

from core.storage.atomic import read_json, replaced_atomically, write_json


def test_new_content_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replaced_atomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_keeps_the_old_content_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with replaced_atomically(path) as temporary:
            temporary.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "file"
    with pytest.raises(FileNotFoundError, match=r"absent/file cannot be written: .*absent. Create it"):
        replaced_atomically(path).__enter__()
    assert not list(tmp_path.iterdir())


def test_json_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_json(path, {"rows": [1, 2.5, "é"]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"rows": [1, 2.5, "é"]}
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"rows": [float("nan")]}, allow_nan=False)
    assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_json(tmp_path / "table.json", {})
    finally:
        os.umask(previous)
    assert (tmp_path / "table.json").stat().st_mode & 0o777 == 0o640


def test_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    (tmp_path / "file.tmp").symlink_to("victim")
    with replaced_atomically(tmp_path / "file") as temporary:
        assert temporary.name != "file.tmp"
        temporary.write_text("new")
    assert (tmp_path / "victim").read_text() == "old"


def test_link_is_followed_to_its_target(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/file")
    with replaced_atomically(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").read_text() == "new"


def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "null", Path("/dev/null")):
        with replaced_atomically(path) as temporary:
            assert temporary == path
            temporary.write_text("new")
        assert not path.is_file()
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    with pytest.raises(IsADirectoryError, match=r"is a folder; it must be a file"):
        replaced_atomically(tmp_path).__enter__()


def test_temporaries_of_dead_processes_only_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "file[1]"
    for name in ("file[1].tmp", "file[1].7-00000000.tmp", "other.tmp"):
        (tmp_path / name).touch()
    with replaced_atomically(path) as first:
        first.write_text("first")
        with replaced_atomically(path) as second:
            assert {*tmp_path.iterdir()} == {first, second, tmp_path / "other.tmp"}
            second.write_text("second")
    assert path.read_text() == "first"
    assert {*tmp_path.iterdir()} == {path, tmp_path / "other.tmp"}


def test_longest_name_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / ("é" * 127), [1])
    assert [path.name for path in tmp_path.iterdir()] == ["é" * 127]


def test_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def fill() -> None:
        with replaced_atomically(path) as temporary, temporary.open("wb"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        fill()


@pytest.mark.parametrize("old", ["12", '"rows"', "0", "{", "rows"])
def test_json_with_a_checksum_is_verified(tmp_path: Path, old: str) -> None:
    path = tmp_path / "table.json"
    content = {"rows": [12, 2.5, "é"], "order": {"b": 1, "a": None}}
    write_json(path, content, checksum=True)
    assert read_json(path) == content
    path.write_text(path.read_text().replace(old, chr(ord(old[0]) ^ 1) + old[1:], 1))
    with pytest.raises(ValueError, match=r"table.json is damaged: "):
        read_json(path)
    write_json(path, content)
    assert read_json(path) == content


@pytest.mark.parametrize("damage", [b"", b"\0\0", b"[1]", b"\xff{}", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "table.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"table.json is damaged: "):
        read_json(tmp_path / "table.json")
