"""Atomic files: whole or absent, even if the process is killed while it writes."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path` to write to; sync it to disk and rename it to `path`.

    If the body raises or the process is killed, `path` keeps its old content. The temporary name is `path`
    with `.tmp` appended, so that the next writer overwrites leftovers: one writer at a time.
    Raises FileNotFoundError if the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written: there is no folder {path.parent}. Create it, or choose another name."
        )
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any, indent: int = 1, allow_nan: bool = True) -> None:
    """Write JSON atomically. Raises ValueError for NaN and infinities unless allow_nan."""
    text = json.dumps(content, indent=indent, allow_nan=allow_nan)
    with replaced_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
