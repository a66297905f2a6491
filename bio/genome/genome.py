"""A genome: the bases of a FASTA file, packed once into a memory map, with its records by name.

A pack is a flat file of bytes with a JSON index. Each byte is a token with a soft-mask flag (see
bio.genome.vocabulary). A separator N stands before, between and after the records, so records never touch.
"""

import difflib
import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bio.genome.fasta import check_fasta, open_fasta, read_bases
from bio.genome.spans import Spans, as_spans, merge
from bio.genome.vocabulary import SOFT_MASK, Bytes, N, without_mask
from core.storage import memory_map
from core.storage.memory_map import Index, index_path, new_pack, open_flat, scratch_folder

KIND = "packed genome"
VERSION = 2
SCAN_BASES = 1 << 24

logger = logging.getLogger(__name__)


class Record(NamedTuple):
    """One sequence of a genome; `offset` is the position of its first base in the pack."""

    name: str
    length: int
    offset: int


class Genome:
    """Packed bases of a FASTA file. A pickled copy opens the same memory map in another process.

    name: name of the FASTA file. sha256: checksum of the FASTA file.
    bases: (positions,) uint8 packed bytes (see bio.genome.vocabulary), with an N before, between and after
        the records.
    records: from name to Record, in file order.
    Raises ValueError if `index` is not the index of a packed genome.
    """

    def __init__(self, index: Path) -> None:
        content = read_index(index)
        self.index = index
        self.name: str = content["source"]["name"]
        self.sha256: str = content["sha256"]
        self.records = {entry["name"]: Record(**entry) for entry in content["records"]}
        self.bases: Bytes = open_flat(index, content)

    def __reduce__(self) -> tuple[type["Genome"], tuple[Path]]:
        return Genome, (self.index,)

    def resolve(self, name: str) -> Record:
        """Return the record of a name; "chr1" finds "1", and "1" finds "chr1", if only one of them exists.

        Raises ValueError for an unknown name, with the nearest names, and for an ambiguous one.
        """
        if name in self.records:
            return self.records[name]
        same = [record for record in self.records.values() if _plain(record.name) == _plain(name)]
        if len(same) == 1:
            return same[0]
        if same:
            choices = " or ".join(record.name for record in same)
            raise ValueError(f"Chromosome {name} of {self.name} is ambiguous: write {choices}.")
        near = difflib.get_close_matches(name, self.records, n=3, cutoff=0.4) or list(self.records)[:3]
        raise ValueError(
            f"There is no chromosome {name} among the {len(self.records)} of {self.name}. "
            f"Nearest names: {', '.join(near)}."
        )

    def span(self, name: str, start: int = 0, end: int | None = None) -> tuple[int, int]:
        """Return the positions in the pack of bases start .. end - 1 (0-based) of a record; by default all.

        Raises ValueError for an unknown record, an inverted interval, and one past the end of the record.
        """
        record = self.resolve(name)
        end = record.length if end is None else end
        if not 0 <= start < end:
            raise ValueError(
                f"Interval {name}:{start}-{end} is inverted, empty or negative. Write 0 <= start < end."
            )
        if end > record.length:
            raise ValueError(
                f"Interval {name}:{start}-{end} ends past the end of {record.name}, which has "
                f"{record.length} bases here. It may come from another assembly; use intervals of this one."
            )
        return record.offset + start, record.offset + end

    def tokens(self, name: str, start: int = 0, end: int | None = None) -> Bytes:
        """Return tokens (end - start,) of a record, without the soft-mask flag. Raises as `span` does."""
        return without_mask(self.bases[slice(*self.span(name, start, end))])

    def repeats(self, name: str, start: int = 0, end: int | None = None) -> np.ndarray:
        """Return the soft mask (end - start,) of a record, as bool. Raises as `span` does."""
        return self.bases[slice(*self.span(name, start, end))] >= SOFT_MASK

    def locate(self, position: int) -> tuple[str, int]:
        """Return the record and the 0-based base of a position in the pack."""
        index = np.searchsorted(self.record_spans[:, 0], position, side="right") - 1
        record = list(self.records.values())[index]
        return record.name, int(position) - record.offset

    @cached_property
    def record_spans(self) -> Spans:
        """Spans (records, 2) of the records in the pack."""
        return as_spans((record.offset, record.offset + record.length) for record in self.records.values())

    @cached_property
    def unknown(self) -> Spans:
        """Runs of N in the pack, separators included, merged; computed in one pass over the pack."""
        return unknown_runs(self.bases)


def open_genome(fasta: str | Path, cache: str | Path | None = None) -> Genome:
    """Open the genome of a FASTA file; pack it on first use. `cache` and errors are those of `pack`."""
    return Genome(pack(fasta, cache))


def unknown_runs(bases: Bytes) -> Spans:
    """Return the runs of N in packed bytes (positions,), merged."""
    runs = [as_spans()]
    for start in range(0, bases.size, SCAN_BASES):
        is_unknown = without_mask(bases[start : start + SCAN_BASES]) == N
        edges = np.flatnonzero(np.diff(is_unknown, prepend=False, append=False))
        runs.append(start + edges.astype(np.int64).reshape(-1, 2))
    return merge(np.concatenate(runs))


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
            "there."
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
        scratch_folder(index.parent) as scratch,
        open_fasta(fasta, scratch) as faidx,
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


def _plain(name: str) -> str:
    return name[3:] if name[:3].lower() == "chr" else name
