"""Windows: which stretch of the genome is sample number k, by arithmetic alone.

A window of length L reads L + 1 bases, so that all its L inputs have a target. Where the extra base may not
be read (the record ends there, or in the strict rule the split does) it reads as N, which is never a target.

Two rules say which windows a split has:
paper: Mamba (Gu and Dao, 2023) E.3.1. A segment of at least L bases is tiled without overlap; a shorter one
    gives two windows, one that begins with it and one that ends with it, shifted inside the record. Windows
    longer than their segments run into other splits: `split_overlap` says by how much.
strict: no base of a split is ever read by another, at any length. A base claimed twice belongs to the later
    of train, valid, test. Training draws its windows uniformly over all starts; the others are tiled.
"""

import logging
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from bio.counter import random_uniform, shuffled
from bio.genome import Genome
from bio.interval import SPLITS, Splits
from bio.span import (
    Integers,
    Spans,
    as_spans,
    contains,
    counted_below,
    intersect,
    merge,
    overlap,
    subtract,
    total,
)

Rule = Literal["paper", "strict"]

START_STREAM = 1

logger = logging.getLogger(__name__)


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


def windows_by_split(
    genome: Genome, splits: Splits, length: int, rule: Rule, max_n_fraction: float = 0.5
) -> dict[str, Windows]:
    """The windows of every split that has bases, under a rule of this file.

    Windows with more than max_n_fraction of N are left out. Raises ValueError when a split has none left.
    """
    if length < 1:
        raise ValueError(f"A window cannot have {length} bases: the length must be at least 1.")
    if rule == "strict":
        splits = separate(splits)
    windows: dict[str, Windows] = {}
    for split, spans in splits.items():
        if not len(spans):
            continue
        try:
            if rule == "paper":
                windows[split] = paper_windows(genome, spans, length, max_n_fraction)
            elif split == "train":
                windows[split] = drawn_windows(genome, spans, length, max_n_fraction)
            else:
                windows[split] = tiled_windows(genome, spans, length, max_n_fraction)
        except ValueError as error:
            raise ValueError(f"Split {split}: {error}") from error
    if rule == "strict" and any(split_overlap(windows).values()):
        raise RuntimeError(
            f"The strict rule let splits overlap, a defect of Helixwave: {split_overlap(windows)}."
        )
    return windows


def split_overlap(windows: dict[str, Windows]) -> dict[tuple[str, str], int]:
    """How many bases the windows of each two splits both read."""
    coverage = {split: item.coverage() for split, item in windows.items()}
    return {pair: overlap(coverage[pair[0]], coverage[pair[1]]) for pair in combinations(coverage, 2)}


def separate(splits: Splits) -> Splits:
    """The splits merged, a base claimed by several left to the last of train, valid, test."""
    separated: Splits = {}
    claimed = as_spans()
    for split in reversed(SPLITS):
        separated[split] = subtract(splits[split], claimed)
        claimed = merge(np.concatenate([claimed, separated[split]]))
    return {split: separated[split] for split in SPLITS}


def paper_windows(genome: Genome, segments: Spans, length: int, max_n_fraction: float = 0.5) -> TiledWindows:
    """The windows of segments (n, 2) under the paper's rule; ValueError when there are none.

    Segments of 2^17 bases give n * 2^17 / length windows for a power of two up to 2^17, and 2n above.
    """
    index = np.searchsorted(genome.record_spans[:, 0], segments[:, 0], side="right") - 1
    records = genome.record_spans[index]
    is_tiled = segments[:, 1] - segments[:, 0] >= length
    has_room = records[:, 1] - records[:, 0] >= length
    if lost := int((~has_room).sum()):
        logger.warning(
            "%d of %d segments lie on records of under %d bases: no window.", lost, len(segments), length
        )
    low, high = records[:, 0], records[:, 1] - length
    begin = np.clip(segments[:, 0], low, high)[~is_tiled & has_room]
    finish = np.clip(segments[:, 1] - length, low, high)[~is_tiled & has_room]
    starts = np.concatenate([_tile(segments[is_tiled], length), begin, finish])
    return _listed(genome, starts, genome.record_spans, records, length, max_n_fraction)


def tiled_windows(genome: Genome, regions: Spans, length: int, max_n_fraction: float = 0.5) -> TiledWindows:
    """The windows that tile merged regions (n, 2) from their starts; a rest under `length` is left out.

    Raises ValueError when there are none.
    """
    return _listed(genome, _tile(regions, length), regions, regions, length, max_n_fraction)


def drawn_windows(genome: Genome, regions: Spans, length: int, max_n_fraction: float = 0.5) -> DrawnWindows:
    """Windows drawn uniformly inside merged regions (n, 2); ValueError when none fits."""
    starts = regions - np.array([0, length - 1])
    starts = starts[starts[:, 0] < starts[:, 1]]
    allowed = _starts_with_few_n(genome.unknown, starts, length, int(max_n_fraction * length))
    _require(len(allowed), len(starts), genome, regions, length, max_n_fraction)
    return DrawnWindows(length, allowed, regions)


def _listed(
    genome: Genome, starts: Integers, readable: Spans, holders: Spans, length: int, max_n_fraction: float
) -> TiledWindows:
    few = _n_count(genome.unknown, starts, length) <= int(max_n_fraction * length)
    _require(int(few.sum()), len(starts), genome, holders, length, max_n_fraction)
    return TiledWindows(length, starts[few], readable)


def _tile(spans: Spans, length: int) -> Integers:
    count = (spans[:, 1] - spans[:, 0]) // length
    first = np.cumsum(count) - count
    return np.repeat(spans[:, 0] - first * length, count) + np.arange(count.sum()) * length


def _n_count(unknown: Spans, starts: Integers, length: int) -> Integers:
    return counted_below(unknown, starts + length) - counted_below(unknown, starts)


def _starts_with_few_n(unknown: Spans, start_spans: Spans, length: int, limit: int) -> Spans:
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
