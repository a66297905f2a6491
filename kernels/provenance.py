"""Origin of a published number: command, commit, hardware and date.

A copy of the sources without git carries its commit in the file COMMIT, which `make commit-file` writes in
the checkout: the first line is "commit HASH", every other line "SHA256  PATH" of one tracked file. Files
under results/ are output, so a change there does not make a commit dirty.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (".", ":(exclude)results")  # git pathspec
_COMMIT_LINE = re.compile(r"commit ([0-9a-f]{40}(?:-dirty)?)")
_FILE_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def hardware(device: torch.device) -> str:
    """Return the name of the processor: "NVIDIA H200", or "x86_64, 2 CPU cores"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"


def commit(root: Path = ROOT) -> str | None:
    """Return the commit of the sources in `root`, with "-dirty" if they differ from it.

    Git answers where it tracks this file, since a copy may lie inside a foreign repository. Elsewhere the
    file COMMIT answers, after its checksums are compared with the sources. Returns None without either; warns
    and returns None if COMMIT is malformed.
    """
    try:
        return _git_commit(root)
    except (OSError, subprocess.CalledProcessError):
        return _file_commit(root)


def write_commit_file(root: Path = ROOT) -> Path:
    """Write the file COMMIT of a git checkout and return its path.

    Raises subprocess.CalledProcessError if git does not track the sources in `root`.
    """
    lines = [f"commit {_git_commit(root)}"]
    for path in _git(root, "ls-files", "-z", "--", *SOURCES).rstrip("\0").split("\0"):
        if (root / path).is_file():
            lines.append(f"{_checksum(root / path)}  {path}")
    file = root / "COMMIT"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def write_results(
    path: Path, command: str, device: torch.device, seed: int, rows: Sequence[dict[str, Any]]
) -> None:
    """Write the rows of a table to a JSON file, with everything needed to reproduce them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "command": command,
        "commit": commit(),
        "hardware": hardware(device),
        "date": date.today().isoformat(),
        "seed": seed,
        "rows": list(rows),
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")


def _git(root: Path, *arguments: str) -> str:
    finished = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True, text=True)
    return finished.stdout


def _git_commit(root: Path) -> str:
    _git(root, "ls-files", "--error-unmatch", "kernels/provenance.py")
    head = _git(root, "rev-parse", "HEAD").strip()
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *SOURCES)
    return f"{head}-dirty" if changes else head


def _file_commit(root: Path) -> str | None:
    file = root / "COMMIT"
    try:
        first, *others = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except ValueError:  # empty, or not UTF-8
        first, others = "", []
    head = _COMMIT_LINE.fullmatch(first)
    files = [_FILE_LINE.fullmatch(line) for line in others]
    if head is None or not files or None in files:
        warnings.warn(f"{file} is malformed; write it again with `make commit-file`.", stacklevel=3)
        return None
    is_clean = all(
        (root / match[2]).is_file() and _checksum(root / match[2]) == match[1] for match in files if match
    )
    return head[1] if is_clean or head[1].endswith("-dirty") else f"{head[1]}-dirty"


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    print(f"Wrote {write_commit_file()}.")
