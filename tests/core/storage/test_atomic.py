"""Atomic files hold the old or the new content, never a part of it."""

import json
from pathlib import Path

import pytest

from core.storage.atomic import replaced_atomically, write_json


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
