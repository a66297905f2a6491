"""Existing outputs are refused in one sentence; devices and pipes count as new."""

import os
from pathlib import Path

import pytest

from pipelines.common.outputs import is_special, new_outputs


@pytest.mark.parametrize("kind", ["file", "folder", "link", "broken link"])
def test_an_existing_output_is_rejected_by_name(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "out.tsv", tmp_path / "other"
    if kind == "file":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
        (path / "file").touch()
    else:
        path.symlink_to(other)
        if kind == "link":
            other.touch()
    refused = pytest.raises(FileExistsError, match=r"out\.tsv already exists.*overwrite=true")
    with refused as caught, new_outputs(tmp_path / "new.npy", path):
        raise AssertionError("the body must not run")
    assert "resume" not in str(caught.value)
    with pytest.raises(FileExistsError, match="resume=true"), new_outputs(path, resume=False):
        pass
    with new_outputs(path, overwrite=True):
        pass
    with new_outputs(path, resume=True):
        pass


def test_new_files_empty_folders_devices_and_pipes_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    special = [Path("/dev/null"), tmp_path / "pipe"]
    with new_outputs(tmp_path / "new.tsv", tmp_path / "empty", *special):
        pass
    assert all(is_special(path) for path in special)
    assert not is_special(tmp_path)
    assert not is_special(tmp_path / "new.tsv")


def test_a_missing_folder_is_rejected_before_the_work(tmp_path: Path) -> None:
    output = tmp_path / "absent" / "out.tsv"
    refused = pytest.raises(FileNotFoundError, match=r"there is no folder .*absent")
    with refused, new_outputs(output, overwrite=True):
        raise AssertionError("the body must not run")
