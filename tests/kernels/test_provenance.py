"""The commit of the sources: from git, else from the file COMMIT, checked against the sources."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from kernels import provenance
from kernels.provenance import commit, write_commit_file, write_results


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a git checkout of three files and one result."""
    root = tmp_path / "checkout"
    for name in ("kernels/provenance.py", "kernels/with space.py", "README.md", "results/scan.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n")
    (root / ".gitignore").write_text("/COMMIT\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "First")
    return root


@pytest.fixture
def copy(checkout: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkout without git, with its COMMIT file."""
    write_commit_file(checkout)
    root = tmp_path / "copy"
    shutil.copytree(checkout, root, ignore=shutil.ignore_patterns(".git"))
    return root


def test_clean_checkout_gives_its_commit(checkout: Path) -> None:
    (checkout / "untracked.py").write_text("new\n")
    (checkout / "results" / "scan.json").write_text("a new result\n")
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD")


def test_changed_checkout_is_dirty(checkout: Path) -> None:
    (checkout / "README.md").write_text("changed\n")
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_git_precedes_the_commit_file(checkout: Path) -> None:
    write_commit_file(checkout)
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "Second")
    head = git(checkout, "rev-parse", "HEAD")
    assert head not in (checkout / "COMMIT").read_text()
    assert commit(checkout) == head


def test_copy_gives_the_commit_of_its_file(checkout: Path, copy: Path) -> None:
    (copy / "results" / "scan.json").write_text("a new result\n")
    assert commit(copy) == git(checkout, "rev-parse", "HEAD")


def test_copy_inside_a_foreign_repository_gives_the_commit_of_its_file(checkout: Path, copy: Path) -> None:
    (copy.parent / "foreign").write_text("a file\n")
    git(copy.parent, "init", "--quiet")
    git(copy.parent, "add", "foreign")
    git(copy.parent, "commit", "--quiet", "--message", "Foreign")
    assert commit(copy) == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["kernels/with space.py", "README.md"])
@pytest.mark.parametrize("is_removed", [False, True])
def test_changed_copy_is_dirty(checkout: Path, copy: Path, name: str, is_removed: bool) -> None:
    if is_removed:
        (copy / name).unlink()
    else:
        (copy / name).write_text("changed\n")
    assert commit(copy) == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_copy_of_a_changed_checkout_is_dirty(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "README.md").write_text("changed\n")
    write_commit_file(checkout)
    shutil.rmtree(checkout / ".git")
    assert commit(checkout) == f"{head}-dirty"
    (checkout / "README.md").write_text("changed again\n")
    assert commit(checkout) == f"{head}-dirty"


def test_copy_without_a_file_has_no_commit(copy: Path) -> None:
    (copy / "COMMIT").unlink()
    assert commit(copy) is None


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"main\n", b"commit main\n", b"commit %s\n" % (40 * b"a"), None]
)
def test_malformed_file_is_reported(copy: Path, content: bytes | None) -> None:
    file = copy / "COMMIT"
    file.write_bytes(file.read_bytes() + b"no checksum\n" if content is None else content)
    with pytest.warns(UserWarning, match="COMMIT is malformed.*make commit-file"):
        assert commit(copy) is None


def test_results_carry_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "commit", lambda: "0123")
    file = tmp_path / "results" / "scan.json"
    write_results(file, "python -m x --publish", torch.device("cpu"), 7, [{"length": 8}])
    results = json.loads(file.read_text())
    assert list(results) == ["command", "commit", "hardware", "date", "seed", "rows"]
    assert results["commit"] == "0123"
    assert results["rows"] == [{"length": 8}]
