"""Pack of a FASTA file: a flat file of bytes, made once and memory-mapped, with a JSON index.

Each byte is a token with a soft-mask flag (see bio.genome.vocabulary). A separator N stands before, between
and after the records, so records never touch.
"""

import hashlib
import logging
import tempfile
from pathlib import Path

import numpy as np

from bio.genome.fasta import check_fasta, open_fasta, read_bases
from bio.genome.vocabulary import N
from core.storage import memory_map
from core.storage.memory_map import Index, index_path, new_pack

KIND = "packed genome"
VERSION = 2

logger = logging.getLogger(__name__)


def pack(fasta: str | Path, cache: str | Path | None = None) -> Path:
    """Return the index file of the pack of `fasta`; make the pack if it is missing, stale or damaged.

    cache: folder of packs; by default the folder of the FASTA, or the user's cache if that is not writable.
    Raises FileNotFoundError and ValueError for a bad FASTA (see bio.genome.fasta), OSError if the folder
    cannot be written.
    """
    fasta = Path(fasta).absolute()
    check_fasta(fasta)
    index = index_path(fasta.parent, fasta.name, cache)
    if index.exists():
        reason = _reason_to_rebuild(index, fasta)
        if reason is None:
            return index
        logger.warning("Packing %s again: %s.", fasta, reason)
    try:
        _write_pack(fasta, index)
    except OSError as error:
        raise OSError(
            f"{fasta} could not be packed into {index.parent} ({error}). Free some space and allow writing "
            "there, or name another cache folder."
        ) from error
    return index


def read_index(index: Path) -> Index:
    """Return the content of an index; ValueError if its format is another one or its bytes are incomplete."""
    return memory_map.read_index(index, KIND, VERSION)


def _reason_to_rebuild(index: Path, fasta: Path) -> str | None:
    """Return the reason why a pack does not fit this FASTA; None if it fits."""
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
            for chunk in read_bases(fasta, faidx, name):
                file.write(chunk.tobytes())
            file.write(separator)
            records.append({"name": name, "length": entry.rlen, "offset": offset})
            offset += entry.rlen + 1
        content["source"] = {"name": fasta.name, "size": status.st_size, "modified": status.st_mtime_ns}
        content["records"] = records


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
