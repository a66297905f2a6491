"""Packing: a FASTA file made once into a flat file of bytes that is memory-mapped, and a JSON index.

The bytes are those of bio.genome.vocabulary (token, soft-mask flag). A separator N stands before,
between and after
the records, so that records never touch.
"""

import hashlib
import logging
import tempfile
from pathlib import Path

import numpy as np

from bio.genome.fasta import check_fasta, open_fasta, read_bases
from bio.genome.vocabulary import N
from core.storage.memory_map import Index, index_path, new_pack
from core.storage.memory_map import read_index as read_index_of

KIND = "packed genome"
VERSION = 2

logger = logging.getLogger(__name__)


def pack(fasta: str | Path, cache: str | Path | None = None) -> Path:
    """The index file of the pack of `fasta`, made now if there is none or it is stale, foreign or cut short.

    cache: the folder of packs; by default the FASTA's own, or the user's cache where that is not
    writable.
    Raises FileNotFoundError and ValueError for a bad FASTA (see bio.genome.fasta), OSError for an
    unwritable folder.
    """
    fasta = Path(fasta).absolute()
    check_fasta(fasta)
    index = index_path(fasta.parent, fasta.name, cache)
    if index.exists():
        reason = _reason_to_rebuild(index, fasta)
        if reason is None:
            return index
        logger.warning("The pack %s is made again: %s.", index, reason)
    try:
        _write_pack(fasta, index)
    except OSError as error:
        raise OSError(
            f"{fasta} could not be packed into {index.parent} ({error}): allow writing and free space there, "
            "or name another cache folder."
        ) from error
    return index


def read_index(index: Path) -> Index:
    """The content of an index; ValueError when it is no index of this format or its bytes are not whole."""
    return read_index_of(index, KIND, VERSION)


def _reason_to_rebuild(index: Path, fasta: Path) -> str | None:
    """Why a pack cannot be used for this FASTA; None when it can."""
    try:
        content = read_index(index)
    except ValueError as error:
        return str(error).rstrip(".")
    source, status = content["source"], fasta.stat()
    if source["size"] != status.st_size:
        return f"{fasta} has changed since"
    if source["modified"] != status.st_mtime_ns and content["sha256"] != _sha256(fasta):
        return f"{fasta} has changed since"
    return None


def _write_pack(fasta: Path, index: Path) -> None:
    records, offset = [], 1
    separator = np.array([N], np.uint8).tobytes()
    with (
        new_pack(index, KIND, VERSION) as (file, content),
        tempfile.TemporaryDirectory(prefix=".pack-", dir=index.parent) as scratch,
        open_fasta(fasta, Path(scratch)) as faidx,
    ):
        status, content["sha256"] = fasta.stat(), _sha256(fasta)
        file.write(separator)
        for name, entry in faidx.index.items():
            for piece in read_bases(fasta, faidx, name):
                file.write(piece.tobytes())
            file.write(separator)
            records.append({"name": name, "length": entry.rlen, "offset": offset})
            offset += entry.rlen + 1
        content["source"] = {"name": fasta.name, "size": status.st_size, "modified": status.st_mtime_ns}
        content["records"] = records


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
