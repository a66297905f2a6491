"""A pack is complete or absent, and never mixed with another."""

import json
from pathlib import Path

import pytest

from core.storage import memory_map as pack
from core.storage.atomic import read_json, write_json
from core.storage.memory_map import index_path, new_pack, open_flat, read_index, user_cache

KIND, VERSION = "some pack", 3


def write(index: Path, payload: bytes, sha256: str = "0123456789abcdef and more") -> None:
    with new_pack(index, KIND, VERSION) as (file, content):
        file.write(payload)
        content |= {"sha256": sha256, "entries": [1, 2]}


def test_round_trip(tmp_path: Path) -> None:
    index = tmp_path / "new" / "x.pack.json"
    write(index, b"\x00\x07\xff")
    content = read_index(index, KIND, VERSION)
    assert content["entries"] == [1, 2]
    flat = open_flat(index, content)
    assert flat.tolist() == [0, 7, 255]
    assert not flat.flags.writeable
    assert {path.name for path in index.parent.iterdir()} == {index.name, "x.pack.0123456789abcdef.u8"}


def test_new_pack_replaces_the_older_one_only(tmp_path: Path) -> None:
    index = tmp_path / "[x]*.pack.json"
    write(index, b"old", "1")
    write(tmp_path / "x.pack.json", b"other", "2")
    write(index, b"new", "3")
    assert {path.name for path in tmp_path.glob("*.u8")} == {"[x]*.pack.3.u8", "x.pack.2.u8"}
    assert open_flat(index, read_index(index, KIND, VERSION)).tobytes() == b"new"


def test_failure_keeps_the_older_pack(tmp_path: Path) -> None:
    index = tmp_path / "x.pack.json"
    write(index, b"old")

    def fail(error: Exception) -> None:
        with new_pack(index, KIND, VERSION) as (file, _):
            file.write(b"half of the new")
            raise error

    with pytest.raises(ValueError, match=r"^bad source$"):
        fail(ValueError("bad source"))
    with pytest.raises(OSError, match=r"x.pack.json could not be .*No space left.*free space there"):
        fail(OSError(28, "No space left on device"))
    assert open_flat(index, read_index(index, KIND, VERSION)).tobytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="allow writing and free space there"):
        write(tmp_path / "file" / "x.pack.json", b"")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not the index of a pack"),
        ("[]", "is not the index of a pack"),
        ('{"kind": "other pack", "version": 3}', "is no index of a some pack, version 3"),
        ('{"kind": "some pack", "version": 2}', "is no index of a some pack, version 3"),
    ],
)
def test_foreign_index_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.pack.json").write_text(text)
    with pytest.raises(ValueError, match=f"x.pack.json {message}.*remove it and pack again"):
        read_index(tmp_path / "x.pack.json", KIND, VERSION)


@pytest.mark.parametrize("harm", ["remove", "cut", "append"])
def test_damaged_flat_file_is_rejected(tmp_path: Path, harm: str) -> None:
    index = tmp_path / "x.pack.json"
    write(index, b"content")
    flat = tmp_path / json.loads(index.read_text())["flat"]
    if harm == "remove":
        flat.unlink()
    else:
        flat.write_bytes(b"conten" if harm == "cut" else b"contents")
    with pytest.raises(ValueError, match=rf"{flat} is missing or cut short: remove x.pack.json"):
        read_index(index, KIND, VERSION)


def test_pack_is_next_to_its_source_or_in_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert index_path(tmp_path, "x", None) == tmp_path / "x.pack.json"
    first, second = (index_path(tmp_path / folder, "x", tmp_path / "cache") for folder in ("a", "b"))
    assert first.parent == second.parent == tmp_path / "cache"
    assert first != second
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert user_cache() == tmp_path / "home" / "helixwave"
    monkeypatch.setattr(pack.os, "access", lambda *_: False)
    assert index_path(tmp_path / "a", "x", None) == user_cache() / first.name
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == Path.home() / ".cache" / "helixwave"


def rewrite(index: Path, **changes: object) -> None:
    """Change an index as a user with an editor does, with the right checksum of the index."""
    content = {**read_json(index), **changes}
    write_json(index, {key: value for key, value in content.items() if value is not None}, checksum=True)


@pytest.mark.parametrize("place", [0, 3, 6])
def test_flipped_bit_in_the_flat_file_is_rejected(tmp_path: Path, place: int) -> None:
    index = tmp_path / "x.pack.json"
    write(index, b"content")
    content = read_index(index, KIND, VERSION)
    flat = tmp_path / content["flat"]
    payload = bytearray(flat.read_bytes())
    payload[place] ^= 1
    flat.write_bytes(payload)
    with pytest.raises(ValueError, match=rf"{flat} is damaged: remove x.pack.json and pack again"):
        read_index(index, KIND, VERSION)


def test_edited_index_is_rejected(tmp_path: Path) -> None:
    index = tmp_path / "x.pack.json"
    write(index, b"content")
    index.write_text(index.read_text().replace("2", "3", 1))
    with pytest.raises(ValueError, match=r"x.pack.json is not the index of a pack: remove it"):
        read_index(index, KIND, VERSION)


@pytest.mark.parametrize("flat", ["../../../etc/passwd", "/etc/passwd", "y.pack.1.u8", "x.pack.../y", "", 3])
def test_flat_file_elsewhere_is_rejected(tmp_path: Path, flat: object) -> None:
    index = tmp_path / "x.pack.json"
    write(index, b"content")
    rewrite(index, flat=flat)
    with pytest.raises(ValueError, match=r"x.pack.json (names the flat file|lacks the key).*pack again"):
        read_index(index, KIND, VERSION)


@pytest.mark.parametrize("key", ["flat", "size", "flat_crc32"])
def test_missing_key_of_an_index_is_named(tmp_path: Path, key: str) -> None:
    index = tmp_path / "x.pack.json"
    write(index, b"content")
    rewrite(index, **{key: None})
    with pytest.raises(ValueError, match=rf"x.pack.json lacks the key .*{key}.*pack again"):
        read_index(index, KIND, VERSION)


def test_scratch_of_dead_processes_only_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".pack-dead").mkdir()
    (tmp_path / ".pack-dead" / "flat").touch()
    with pack.scratch_folder(tmp_path) as first, pack.scratch_folder(tmp_path) as second:
        assert {*tmp_path.iterdir()} == {first, second}
    assert not list(tmp_path.iterdir())
