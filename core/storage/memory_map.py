"""Packs: data sets converted once to a memory-mapped flat file of bytes and a JSON index.

The name of the flat file holds the checksum of its source. The index names the flat file and is written
last, so that a reader never combines an index with the bytes of another pack.
"""

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Index = dict[str, Any]


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
    """Return the content of an index.

    Raises ValueError for an index of another kind or version, and for a truncated flat file.
    """
    try:
        content = json.loads(index.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{index} is not the index of a pack: remove it and pack again.") from error
    if not isinstance(content, dict) or (content.get("kind"), content.get("version")) != (kind, version):
        raise ValueError(f"{index} is no index of a {kind}, version {version}: remove it and pack again.")
    flat = index.parent / content["flat"]
    if not flat.exists() or flat.stat().st_size != content["size"]:
        raise ValueError(f"{flat} is missing or cut short: remove {index.name} and pack again.")
    return content


def open_flat(index: Path, content: Index) -> npt.NDArray[np.uint8]:
    """Memory-map the flat file of an index, read-only: bytes (size,)."""
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
        with tempfile.TemporaryDirectory(prefix=".pack-", dir=index.parent) as scratch:
            flat = Path(scratch, "flat")
            with flat.open("wb") as file:
                yield file, content
            stem = index.name.removesuffix(".json")
            content |= {"flat": f"{stem}.{content['sha256'][:16]}.u8", "size": flat.stat().st_size}
            Path(scratch, "index").write_text(json.dumps(content, indent=1))
            older = set(index.parent.glob(f"{glob.escape(stem)}.*.u8"))
            os.replace(flat, index.parent / content["flat"])
            os.replace(Path(scratch, "index"), index)
            for path in older - {index.parent / content["flat"]}:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{index.name} could not be written to {index.parent} ({error}): allow writing and free space "
            "there, or name another cache folder."
        ) from error
