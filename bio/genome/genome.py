"""A genome: the packed bases of a FASTA file as one memory map, with its records by name."""

import difflib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bio.genome.pack import pack, read_index
from bio.genome.spans import Spans, as_spans, merge
from bio.genome.vocabulary import SOFT_MASK, Bytes, N, without_mask
from core.storage.memory_map import open_flat

SCAN_BASES = 1 << 24


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
    """Open the genome of a FASTA file; pack it on first use. See bio.genome.pack for `cache` and errors."""
    return Genome(pack(fasta, cache))


def unknown_runs(bases: Bytes) -> Spans:
    """Return the runs of N in packed bytes (positions,), merged."""
    runs = [as_spans()]
    for start in range(0, bases.size, SCAN_BASES):
        is_unknown = without_mask(bases[start : start + SCAN_BASES]) == N
        edges = np.flatnonzero(np.diff(is_unknown, prepend=False, append=False))
        runs.append(start + edges.astype(np.int64).reshape(-1, 2))
    return merge(np.concatenate(runs))


def _plain(name: str) -> str:
    return name[3:] if name[:3].lower() == "chr" else name
