"""Packs: data sets converted once to a memory-mapped flat file of bytes and a JSON index.

The name of the flat file holds the checksum of its source. The index names the flat file and is written
last, so that a reader never combines an index with the bytes of another pack. The index holds the crc32 of
the flat file and of itself.
"""

import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from core.storage.arrays import file_checksum
from core.storage.atomic import naming, read_json, sync, write_json

Index = dict[str, Any]
SCRATCH = ".pack-"
"""Prefix of the folders in which packs are made."""
_checksums: dict[tuple[int, ...], str] = {}
"""Checksums of the flat files that this process has read, by their status."""


def index_path(folder: Path, name: str, cache: str | Path | None) -> Path:
    """Return the path of the index of the pack of `folder`/`name`.

    It is in `cache` if given, else in the folder itself, else (read-only folder) in the user's cache.
    """
    if cache is None and os.access(folder, os.W_OK):
        return folder / f"{name}.pack.json"
    # sources with the same name in different folders must not share a pack
    place = hashlib.sha256(str(folder.absolute() / name).encode()).hexdigest()[:8]
    return (user_cache() if cache is None else Path(cache)) / f"{name}.{place}.pack.json"


def user_cache() -> Path:
    """Return the folder of cached files, which can be recreated."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "helixwave"


def read_index(index: Path, kind: str, version: int) -> Index:
    """Return the content of an index, after verifying it and its flat file.

    A process reads an unchanged flat file once. Raises ValueError for an index of another kind or version,
    and for an index or a flat file that is not as it was written.
    """
    try:
        content = read_json(index)
    except ValueError as error:
        raise ValueError(f"{index} is not the index of a pack: remove it and pack again.") from error
    if (content.get("kind"), content.get("version")) != (kind, version):
        raise ValueError(f"{index} is no index of a {kind}, version {version}: remove it and pack again.")
    name, size, checksum = content.get("flat"), content.get("size"), content.get("flat_crc32")
    if not isinstance(name, str) or not isinstance(size, int) or not isinstance(checksum, str):
        raise ValueError(f"{index} lacks the key flat, size or flat_crc32: remove it and pack again.")
    if not name.startswith(f"{_stem(index)}.") or Path(name).name != name:
        raise ValueError(f"{index} names the flat file {name!r}: remove it and pack again.")
    flat = index.parent / name
    if not flat.is_file() or flat.stat().st_size != size:
        raise ValueError(f"{flat} is missing or cut short: remove {index.name} and pack again.")
    if _flat_checksum(flat) != checksum:
        raise ValueError(f"{flat} is damaged: remove {index.name} and pack again.")
    return content


def open_flat(index: Path, content: Index) -> npt.NDArray[np.uint8]:
    """Memory-map the flat file of an index, read-only: bytes (size,)."""
    if not content["size"]:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(index.parent / content["flat"], np.uint8, "r", shape=(content["size"],)))


@contextmanager
def new_pack(index: Path, kind: str, version: int) -> Iterator[tuple[BinaryIO, Index]]:
    """Yield (flat file to write, content of the index to complete); the body must set content["sha256"].

    The pack replaces an older one when the body ends; if the body raises, nothing changes.
    Raises OSError, naming the folder, if it cannot be written.
    """
    content: Index = {"kind": kind, "version": version}
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with naming(index), scratch_folder(index.parent) as scratch:
            flat = scratch / "flat"
            with flat.open("wb") as file:
                yield file, content
            content |= {
                "flat": f"{_stem(index)}.{content['sha256'][:16]}.u8",
                "size": flat.stat().st_size,
                "flat_crc32": file_checksum(flat),
            }
            sync(flat)
            older = set(index.parent.glob(f"{glob.escape(_stem(index))}.*.u8"))
            os.replace(flat, index.parent / content["flat"])
            write_json(index, content, checksum=True)  # syncs the folder as well
            for path in older - {index.parent / content["flat"]}:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{index.name} could not be written to {index.parent} ({error.strerror or error}): allow writing "
            "and free space there."
        ) from error


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder `.pack-*` in `parent` and remove it at the end.

    Folders of dead processes are removed first.
    """
    for leftover in parent.glob(f"{SCRATCH}*"):
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
                shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(descriptor)
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=parent))
        descriptor = -1
        try:
            with suppress(OSError):
                descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if scratch.is_dir():
                yield scratch
                return
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if descriptor >= 0:
                os.close(descriptor)


def _stem(index: Path) -> str:
    return index.name.removesuffix(".json")


def _flat_checksum(flat: Path) -> str:
    """Return the crc32 of a flat file; a file with unchanged status is read once per process."""
    status = flat.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _checksums:
        _checksums[key] = file_checksum(flat)
    return _checksums[key]
