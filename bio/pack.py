"""Packing: a FASTA file made once into a flat file of bytes that is memory-mapped, and a JSON index.

The bytes are those of bio.vocabulary (token, soft-mask flag). A separator N stands before, between and after
the records, so that records never touch. The flat file carries its source's sha256 in its name and the index,
written last, names it: a reader never sees an index beside another pack's bytes.
"""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pooch

from bio.fasta import check_fasta, open_fasta, read_bases
from bio.vocabulary import N

FORMAT = "helixwave packed genome"
VERSION = 1

logger = logging.getLogger(__name__)


def pack(fasta: str | Path, cache: str | Path | None = None) -> Path:
    """The index file of the pack of `fasta`, made now if there is none or it is stale, foreign or cut short.

    cache: the folder of packs; by default the FASTA's own, or the user's cache where that is not writable.
    Raises FileNotFoundError and ValueError for a bad FASTA (see bio.fasta), OSError for an unwritable folder.
    """
    fasta = Path(fasta).absolute()
    check_fasta(fasta)
    index = _index_path(fasta, cache)
    if index.exists():
        reason = _reason_to_rebuild(index, fasta)
        if reason is None:
            return index
        logger.warning("The pack %s is made again: %s.", index, reason)
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pack-", dir=index.parent) as scratch:
            _write_pack(fasta, index, Path(scratch))
    except OSError as error:
        raise OSError(
            f"{fasta} could not be packed into {index.parent} ({error}): allow writing and free space there, "
            "or name another cache folder."
        ) from error
    return index


def read_index(index: Path) -> dict[str, Any]:
    """The content of an index file; ValueError when it is no index of this format."""
    try:
        content = json.loads(index.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{index} is not the index of a packed genome: remove it and pack again.") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{index} is not an index of {FORMAT}, version {VERSION}: remove it and pack again.")
    return content


def _index_path(fasta: Path, cache: str | Path | None) -> Path:
    if cache is None and os.access(fasta.parent, os.W_OK):
        return fasta.parent / f"{fasta.name}.pack.json"
    folder = Path(pooch.os_cache("helixwave") if cache is None else cache)
    # Two files of one name in different folders must not share a pack.
    place = hashlib.sha256(str(fasta).encode()).hexdigest()[:8]
    return folder / f"{fasta.name}.{place}.pack.json"


def _reason_to_rebuild(index: Path, fasta: Path) -> str | None:
    """Why a pack cannot be used for this FASTA; None when it can."""
    try:
        content = read_index(index)
    except ValueError as error:
        return str(error).rstrip(".")
    bases = index.parent / content["bases"]
    if not bases.exists() or bases.stat().st_size != content["size"]:
        return f"{bases.name} is missing or cut short"
    source, status = content["source"], fasta.stat()
    if source["size"] != status.st_size:
        return f"{fasta} has changed since"
    if source["modified"] != status.st_mtime_ns and source["sha256"] != _sha256(fasta):
        return f"{fasta} has changed since"
    return None


def _write_pack(fasta: Path, index: Path, scratch: Path) -> None:
    records, offset = [], 1
    separator = np.array([N], np.uint8).tobytes()
    with open_fasta(fasta, scratch) as faidx, (scratch / "bases").open("wb") as file:
        status, sha256 = fasta.stat(), _sha256(fasta)
        file.write(separator)
        for name, entry in faidx.index.items():
            for piece in read_bases(fasta, faidx, name):
                file.write(piece.tobytes())
            file.write(separator)
            records.append({"name": name, "length": entry.rlen, "offset": offset})
            offset += entry.rlen + 1
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "source": {
            "name": fasta.name,
            "size": status.st_size,
            "modified": status.st_mtime_ns,
            "sha256": sha256,
        },
        "bases": f"{index.name.removesuffix('.json')}.{sha256[:16]}.u8",
        "size": offset,
        "records": records,
    }
    (scratch / "index").write_text(json.dumps(content, indent=1))
    stale = set(index.parent.glob(f"{index.name.removesuffix('.json')}.*.u8"))
    os.replace(scratch / "bases", index.parent / content["bases"])
    os.replace(scratch / "index", index)
    for old in stale - {index.parent / content["bases"]}:
        old.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
