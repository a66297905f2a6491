"""Atomic files: whole or absent, even if the process is killed while it writes."""

import errno
import fcntl
import glob
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""Suffix of temporary files."""
CHECKSUM = "crc32"
"""Key of the checksum in a JSON file."""
_NAME_BYTES = 200
"""Largest part of a file name in the name of its temporary; names have at most 255 bytes."""
_WITHOUT_PATH = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a write, which the operating system reports without a path."""


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path` to write to; sync it to disk and rename it to `path`.

    If the body raises or the process is killed, `path` keeps its old content. The temporary file has a unique
    name, is created exclusively with the mode of the umask, and is locked while it exists: the next writer of
    `path` removes those of dead processes. A symlink is followed, and its target is replaced. A device or a
    pipe is yielded itself. Raises FileNotFoundError if the folder does not exist, IsADirectoryError for a
    folder; errors of a full disk name `path`.
    """
    require_folder(path)
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; it must be a file. Choose another name.")
        yield path
        return
    target = path.resolve() if path.is_symlink() else path
    require_folder(target)
    remove_leftovers(target.parent, target.name)
    with naming(path):
        temporary, lock = _new_temporary(target)
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def require_folder(path: Path) -> None:
    """Raise FileNotFoundError if the folder of a file does not exist."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written: there is no folder {path.parent}. Create it, or choose another name."
        )


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove the temporary files of dead processes in a folder; those of `name` if it is given."""
    for leftover in folder.glob(f"{glob.escape(_short(name))}*{TEMPORARY}"):
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                leftover.unlink()
            finally:
                os.close(descriptor)


def write_json(
    path: Path, content: Any, indent: int = 1, allow_nan: bool = True, checksum: bool = False
) -> None:
    """Write JSON atomically. Raises ValueError for NaN and infinities unless allow_nan.

    checksum: add the key "crc32" to `content`, a dictionary; `read_json` verifies it.
    """
    if checksum:
        content = {**content, CHECKSUM: _json_checksum(content)}
    text = json.dumps(content, indent=indent, allow_nan=allow_nan)
    with replaced_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return a dictionary in a JSON file without its checksum.

    A file without a checksum is not verified. Raises ValueError, naming the file, if it is damaged, and
    OSError if it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object.")
    expected = content.pop(CHECKSUM, None)
    if expected is not None and expected != _json_checksum(content):
        raise ValueError(f"{path} is damaged: its content does not have the checksum in it.")
    return content


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError of the body that has no path, such as "No space left on device"."""
    try:
        yield
    except OSError as error:
        if error.errno in _WITHOUT_PATH and error.filename is None:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new_temporary(target: Path) -> tuple[Path, int]:
    """Create an empty temporary file; return its path and a descriptor that holds its lock."""
    while True:
        name = f"{_short(target.name)}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
        temporary = target.with_name(name)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # another process took it for a leftover before it was locked


def _short(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_NAME_BYTES])


def _json_checksum(content: dict[str, Any]) -> str:
    """Return the crc32 of the values, independent of the layout and the order of keys."""
    canonical = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return f"{zlib.crc32(canonical.encode()):08x}"
