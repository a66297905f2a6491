"""Windows: stretches of a genome by number, computed by arithmetic alone.

A window of length L reads L + 1 bases, so each of its L inputs has a target. The extra base reads as N, which
is never a target, if the record or the readable part of the split ends before it.
"""

from dataclasses import dataclass

import numpy as np

from bio.genome.genome import Genome
from bio.genome.spans import Integers, Spans, contains, count_below, intersect, merge, total
from core.random import random_uniform, shuffled

START_STREAM = 1


@dataclass(frozen=True)
class TiledWindows:
    """Fixed list of windows, sampled in shuffled epochs.

    length: bases per window. starts: (windows,) positions in the pack. readable: merged spans.
    """

    length: int
    starts: Integers
    readable: Spans

    def __len__(self) -> int:
        return len(self.starts)

    def sample(self, counter: Integers, seed: int) -> Integers:
        """Return the starts (n,) of samples number `counter` (n,): every window once per epoch."""
        return self.starts[shuffled(counter, len(self), seed, START_STREAM)]

    def coverage(self) -> Spans:
        """Return all positions that the windows read, merged."""
        return intersect(np.stack([self.starts, self.starts + self.length + 1], axis=1), self.readable)


@dataclass(frozen=True)
class RandomWindows:
    """Windows sampled uniformly over all valid starts.

    length: bases per window. start_spans: valid starts. readable: merged spans.
    """

    length: int
    start_spans: Spans
    readable: Spans

    def __len__(self) -> int:
        """Return the number of windows per epoch: as many as would tile the readable spans."""
        return max(1, total(self.readable) // self.length)

    def sample(self, counter: Integers, seed: int) -> Integers:
        """Return the starts (n,) of samples number `counter` (n,)."""
        cumulative = np.cumsum(self.start_spans[:, 1] - self.start_spans[:, 0])
        choice = (random_uniform(seed, START_STREAM, counter) * cumulative[-1]).astype(np.int64)
        span = np.searchsorted(cumulative, choice, side="right")
        return self.start_spans[span, 1] - (cumulative[span] - choice)

    def coverage(self) -> Spans:
        """Return all positions that windows can read, merged."""
        return intersect(self.start_spans + np.array([0, self.length]), self.readable)


Windows = TiledWindows | RandomWindows


def tiled_windows(genome: Genome, regions: Spans, length: int, max_n_fraction: float = 0.5) -> TiledWindows:
    """Tile merged regions (n, 2) from their starts with whole windows; ValueError if there are none."""
    return select_windows(genome, tile(regions, length), regions, regions, length, max_n_fraction)


def random_windows(genome: Genome, regions: Spans, length: int, max_n_fraction: float = 0.5) -> RandomWindows:
    """Return windows sampled uniformly inside merged regions (n, 2); ValueError if none fits."""
    starts = regions - np.array([0, length - 1])
    starts = starts[starts[:, 0] < starts[:, 1]]
    allowed = starts_with_few_n(genome.unknown, starts, length, int(max_n_fraction * length))
    _require_windows(len(allowed), total(starts), genome, regions, length, max_n_fraction)
    return RandomWindows(length, allowed, regions)


def cut_windows(windows: TiledWindows, length: int) -> TiledWindows:
    """Cut the windows into shorter ones of `length`, a divisor of their length."""
    offsets = np.arange(0, windows.length, length)
    return TiledWindows(length, np.add.outer(windows.starts, offsets).ravel(), windows.readable)


def select_windows(
    genome: Genome, starts: Integers, readable: Spans, regions: Spans, length: int, max_n_fraction: float
) -> TiledWindows:
    """Return the windows at `starts` without those of too many N; ValueError if there are none.

    regions: spans (n, 2) that the starts come from, for the error message.
    """
    has_few_n = _n_count(genome.unknown, starts, length) <= int(max_n_fraction * length)
    _require_windows(int(has_few_n.sum()), len(starts), genome, regions, length, max_n_fraction)
    return TiledWindows(length, starts[has_few_n], readable)


def tile(spans: Spans, length: int) -> Integers:
    """Return the starts of whole windows that tile each of spans (n, 2) from its start."""
    count = (spans[:, 1] - spans[:, 0]) // length
    first = np.cumsum(count) - count
    return np.repeat(spans[:, 0] - first * length, count) + np.arange(count.sum()) * length


def starts_with_few_n(unknown: Spans, start_spans: Spans, length: int, limit: int) -> Spans:
    """Return the part of `start_spans` whose windows hold at most `limit` N, as sorted spans.

    As the start moves by one, the number of N changes by -1, 0 or 1, and the slope changes only where an edge
    of the window meets an edge of a run of N. Between two such starts, the counts at both ends give the slope
    and the start that crosses the limit.
    """
    cuts = np.unique(np.concatenate([unknown.ravel(), unknown.ravel() - length, start_spans.ravel()]))
    first, last = cuts[:-1], cuts[1:] - 1
    inside = contains(start_spans, first)
    first, last = first[inside], last[inside]
    excess_first = np.maximum(_n_count(unknown, first, length) - limit, 0)
    excess_last = np.maximum(_n_count(unknown, last, length) - limit, 0)
    never = (excess_first > 0) & (excess_last > 0)
    return merge(np.stack([first + excess_first, last + 1 - excess_last], axis=1)[~never])


def _n_count(unknown: Spans, starts: Integers, length: int) -> Integers:
    return count_below(unknown, starts + length) - count_below(unknown, starts)


def _require_windows(
    count: int, candidates: int, genome: Genome, regions: Spans, length: int, max_n_fraction: float
) -> None:
    """Raise ValueError if `count` is 0: there are no bases, too many N, or no region is long enough."""
    if count:
        return
    if not len(regions):
        raise ValueError("It has no bases. Give it intervals, chromosomes or a fraction.")
    if candidates:
        raise ValueError(
            f"All {candidates:,} windows of {length:,} bases hold more than {max_n_fraction:.0%} N. Allow "
            "more N, or choose other intervals."
        )
    sizes = regions[:, 1] - regions[:, 0]
    name, start = genome.locate(regions[np.argmax(sizes), 0])
    raise ValueError(
        f"No window of {length:,} bases fits: the longest interval, from {name}:{start}, has "
        f"{sizes.max():,}. Choose a shorter length, or longer intervals."
    )
