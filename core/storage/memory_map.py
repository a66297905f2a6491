"""Packs: a data set converted once to a flat file of bytes that is memory-mapped, with a JSON index.

The flat file carries the checksum of its source in its name and the index, written last, names it: a reader
never sees an index beside another pack's bytes.
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
    """Where the index of the pack of `folder`/`name` is: in `cache`, if given, else in the folder itself.

    Where that cannot be written, it is in the user's cache.
    """
    if cache is None and os.access(folder, os.W_OK):
        return folder / f"{name}.pack.json"
    # two sources of one name in different folders must not share a pack
    place = hashlib.sha256(str(folder.absolute() / name).encode()).hexdigest()[:8]
    return (user_cache() if cache is None else Path(cache)) / f"{name}.{place}.pack.json"


def user_cache() -> Path:
    """The folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "helixwave"


def read_index(index: Path, kind: str, version: int) -> Index:
    """The content of an index; ValueError when it is no index of this kind or its flat file is not whole."""
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
    """The bytes (size,) of the flat file that a pack's index names, read-only and mapped, not loaded."""
    return np.asarray(np.memmap(index.parent / content["flat"], np.uint8, "r", shape=(content["size"],)))


@contextmanager
def new_pack(index: Path, kind: str, version: int) -> Iterator[tuple[BinaryIO, Index]]:
    """Yield (flat file to write, content of the index to fill in): the body must set content["sha256"].

    The pack appears whole when the body ends, in place of an older one, and not at all if the body raises.
    OSError, naming the folder, where it cannot be written.
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
