"""Files that are either whole or absent, whatever happens while they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it over `path` once it is on the disk.

    If the body raises, or the process is killed, `path` stays as it was. One writer at a time: the temporary
    name is `path` with `.tmp` appended, so that what a killed process left is overwritten by the next.

    Raises FileNotFoundError where there is no folder for it.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written, as there is no folder {path.parent}: make it, or choose another name."
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


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
