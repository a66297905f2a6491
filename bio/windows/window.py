"""Windows: which stretch of the genome is sample number k, by arithmetic alone.

A window of length L reads L + 1 bases, so that all its L inputs have a target. Where the extra base may not
be read (the record ends there, or the stretch that a split may read) it reads as N, which is never a target.
"""

from dataclasses import dataclass

import numpy as np

from bio.genome.genome import Genome
from bio.genome.spans import Integers, Spans, contains, counted_below, intersect, merge, total
from core.random import random_uniform, shuffled

START_STREAM = 1


@dataclass(frozen=True)
class TiledWindows:
    """A fixed list of windows; sampling walks through it in shuffled epochs.

    length: bases in a window. starts: (windows,) positions in the pack. readable: what may be read, merged.
    """

    length: int
    starts: Integers
    readable: Spans

    def __len__(self) -> int:
        return len(self.starts)

    def sample(self, counter: Integers, seed: int) -> Integers:
        """The starts (n,) of samples number `counter` (n,): every window once in each epoch."""
        return self.starts[shuffled(counter, len(self), seed, START_STREAM)]

    def coverage(self) -> Spans:
        """All positions that the windows read, merged."""
        return intersect(np.stack([self.starts, self.starts + self.length + 1], axis=1), self.readable)


@dataclass(frozen=True)
class DrawnWindows:
    """Windows drawn uniformly over every start that leaves them whole.

    length: bases in a window. start_spans: where windows may start. readable: what may be read, merged.
    """

    length: int
    start_spans: Spans
    readable: Spans

    def __len__(self) -> int:
        """Windows in an epoch: as many as would tile what may be read."""
        return max(1, total(self.readable) // self.length)

    def sample(self, counter: Integers, seed: int) -> Integers:
        """The starts (n,) of samples number `counter` (n,)."""
        cumulative = np.cumsum(self.start_spans[:, 1] - self.start_spans[:, 0])
        choice = (random_uniform(seed, START_STREAM, counter) * cumulative[-1]).astype(np.int64)
        span = np.searchsorted(cumulative, choice, side="right")
        return self.start_spans[span, 1] - (cumulative[span] - choice)

    def coverage(self) -> Spans:
        """All positions that windows can read, merged."""
        return intersect(self.start_spans + np.array([0, self.length]), self.readable)


Windows = TiledWindows | DrawnWindows


def tiled_windows(genome: Genome, regions: Spans, length: int, max_n_fraction: float = 0.5) -> TiledWindows:
    """The windows that tile merged regions (n, 2) from their starts; a rest under `length` is left out.

    Raises ValueError when there are none.
    """
    return listed_windows(genome, tile(regions, length), regions, regions, length, max_n_fraction)


def drawn_windows(genome: Genome, regions: Spans, length: int, max_n_fraction: float = 0.5) -> DrawnWindows:
    """Windows drawn uniformly inside merged regions (n, 2); ValueError when none fits."""
    starts = regions - np.array([0, length - 1])
    starts = starts[starts[:, 0] < starts[:, 1]]
    allowed = starts_with_few_n(genome.unknown, starts, length, int(max_n_fraction * length))
    _require(len(allowed), total(starts), genome, regions, length, max_n_fraction)
    return DrawnWindows(length, allowed, regions)


def cut_windows(windows: TiledWindows, length: int) -> TiledWindows:
    """The same bases in windows of `length`, which must divide that of the windows."""
    offsets = np.arange(0, windows.length, length)
    return TiledWindows(length, np.add.outer(windows.starts, offsets).ravel(), windows.readable)


def listed_windows(
    genome: Genome, starts: Integers, readable: Spans, holders: Spans, length: int, max_n_fraction: float
) -> TiledWindows:
    """The windows at `starts` without those of too many N; ValueError, by `holders`, when there are none.

    holders: the stretches (n, 2) that windows were sought in.
    """
    few = _n_count(genome.unknown, starts, length) <= int(max_n_fraction * length)
    _require(int(few.sum()), len(starts), genome, holders, length, max_n_fraction)
    return TiledWindows(length, starts[few], readable)


def tile(spans: Spans, length: int) -> Integers:
    """The starts of windows that tile each of spans (n, 2) from its start, whole windows only."""
    count = (spans[:, 1] - spans[:, 0]) // length
    first = np.cumsum(count) - count
    return np.repeat(spans[:, 0] - first * length, count) + np.arange(count.sum()) * length


def _n_count(unknown: Spans, starts: Integers, length: int) -> Integers:
    return counted_below(unknown, starts + length) - counted_below(unknown, starts)


def starts_with_few_n(unknown: Spans, start_spans: Spans, length: int, limit: int) -> Spans:
    """The part of `start_spans` from where a window holds at most `limit` N, as sorted spans.

    The count of N is a function of the start that rises, falls or stays by one a step, and changes its course
    only where an edge of the window meets an edge of a run: between two such starts the sign of its slope is
    known from its two ends, and so is where it crosses the limit.
    """
    cuts = np.unique(np.concatenate([unknown.ravel(), unknown.ravel() - length, start_spans.ravel()]))
    first, last = cuts[:-1], cuts[1:] - 1
    inside = contains(start_spans, first)
    first, last = first[inside], last[inside]
    excess_first = np.maximum(_n_count(unknown, first, length) - limit, 0)
    excess_last = np.maximum(_n_count(unknown, last, length) - limit, 0)
    never = (excess_first > 0) & (excess_last > 0)
    return merge(np.stack([first + excess_first, last + 1 - excess_last], axis=1)[~never])


def _require(
    kept: int, found: int, genome: Genome, holders: Spans, length: int, max_n_fraction: float
) -> None:
    """Raise ValueError unless a window is left."""
    if kept:
        return
    if not len(holders):
        raise ValueError("There are no bases in it: name intervals, chromosomes or a fraction for it.")
    if found:
        raise ValueError(
            f"All {found:,} windows of {length:,} bases hold more than {max_n_fraction:.0%} N: allow more N, "
            "or name other intervals."
        )
    sizes = holders[:, 1] - holders[:, 0]
    longest = holders[np.argmax(sizes)]
    name, start = genome.locate(longest[0])
    raise ValueError(
        f"No window of {length:,} bases fits: the longest stretch, from {name}:{start}, has {sizes.max():,}. "
        "Choose a shorter length, or longer intervals."
    )
