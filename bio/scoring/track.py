"""Files of losses along the genome: one number per base (.npy), or means of bins (bedGraph)."""

from typing import BinaryIO, NamedTuple, TextIO

import numpy as np

from bio.genome.genome import Genome
from bio.genome.spans import Spans, total
from bio.scoring.likelihood import Score
from bio.scoring.streaming import ScoredBases


class LikelihoodTrack:
    """A .npy file (bases,) float32 with ln p of every base of the spans, end to end in their order.

    Bases without a likelihood are NaN. `numpy.load(path, mmap_mode="r")` maps the file.
    """

    def __init__(self, file: BinaryIO, spans: Spans) -> None:
        self._file = file
        count = int((spans[:, 1] - spans[:, 0]).sum())
        header = {"descr": "<f4", "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, scored: ScoredBases) -> None:
        """Append the next bases."""
        self._file.write((-scored.losses).astype("<f4").tobytes())


class _Bin(NamedTuple):
    """Bases start .. end - 1 of a record, with their score."""

    span: int
    name: str
    start: int
    end: int
    score: Score


class BedGraph:
    """bedGraph of bits per base in bins of `size` bases; bins without a scored base are left out.

    Bins begin at multiples of `size` in their record and are cut at the ends of their span. Raises ValueError
    for a size below 1, and for overlapping spans, which the format does not allow.
    """

    def __init__(self, file: TextIO, genome: Genome, spans: Spans, size: int) -> None:
        if size < 1:
            raise ValueError(f"The bin size of a bedGraph is {size} bases; it must be at least 1.")
        if total(spans) < (spans[:, 1] - spans[:, 0]).sum():
            raise ValueError("The intervals overlap; a bedGraph holds every base once. Merge them first.")
        self._file, self._genome, self._size = file, genome, size
        self._open: _Bin | None = None

    def write(self, scored: ScoredBases) -> None:
        """Add the next bases; a bin is written after its last base."""
        name, start = self._genome.locate(scored.start)
        end = start + len(scored.losses)
        first_edge = start - start % self._size + self._size
        edges = np.unique([start, *range(first_edge, end, self._size), end])
        nats = np.add.reduceat(np.nan_to_num(scored.losses), edges[:-1] - start, dtype=np.float64)
        bases = np.add.reduceat(~np.isnan(scored.losses), edges[:-1] - start, dtype=np.int64)
        columns = (column.tolist() for column in (edges[:-1], edges[1:], nats, bases))
        for low, high, *sums in zip(*columns, strict=True):
            self._add(_Bin(scored.span, name, low, high, Score(*sums)))

    def close(self) -> None:
        """Write the last bin."""
        if self._open is not None and self._open.score.bases:
            name, start, end, score = self._open[1:]
            self._file.write(f"{name}\t{start}\t{end}\t{score.bits_per_base:.4f}\n")
        self._open = None

    def _add(self, part: _Bin) -> None:
        previous = self._open
        if previous is not None and previous.span == part.span and part.start % self._size:
            part = part._replace(start=previous.start, score=previous.score + part.score)
        else:
            self.close()
        self._open = part
