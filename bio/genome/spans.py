"""Algebra of spans: rows (start, end), half-open, of positions in a packed genome.

Separators stand between the records of a pack, so a span never joins two records.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Spans = npt.NDArray[np.int64]
"""(spans, 2) int64."""


def as_spans(rows: Iterable[tuple[int, int]] = ()) -> Spans:
    """Return spans (n, 2) of pairs (start, end), in the given order."""
    return np.array(list(rows), np.int64).reshape(-1, 2)


def merge(spans: Spans) -> Spans:
    """Return the same positions as sorted spans that neither overlap nor touch, without empty spans."""
    spans = spans[spans[:, 0] < spans[:, 1]]
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    if not len(spans):
        return spans
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate([[True], spans[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([spans[first, 0], reach[last]], axis=1)


def subtract(spans: Spans, removed: Spans) -> Spans:
    """Return the positions of `spans` outside `removed`, merged."""
    spans, removed = merge(spans), merge(removed)
    if not len(spans):
        return spans
    bounds = np.array([[spans[0, 0], spans[-1, 1]]])
    gaps = np.concatenate([bounds[:, 0], removed[:, 1]]), np.concatenate([removed[:, 0], bounds[:, 1]])
    return intersect(spans, np.stack(gaps, axis=1))


def intersect(first: Spans, second: Spans) -> Spans:
    """Return the positions in both, merged."""
    first, second = merge(first), merge(second)
    begin = np.searchsorted(second[:, 1], first[:, 0], side="right")
    count = np.maximum(np.searchsorted(second[:, 0], first[:, 1], side="left") - begin, 0)
    left = np.repeat(np.arange(len(first)), count)
    right = np.arange(count.sum()) + np.repeat(begin - np.cumsum(count) + count, count)
    start = np.maximum(first[left, 0], second[right, 0])
    end = np.minimum(first[left, 1], second[right, 1])
    return merge(np.stack([start, end], axis=1))


def total(spans: Spans) -> int:
    """Return the number of distinct positions in the spans."""
    return int(np.diff(merge(spans)).sum())


def overlap(first: Spans, second: Spans) -> int:
    """Return the number of positions in both."""
    return total(intersect(first, second))


def contains(spans: Spans, positions: Integers) -> npt.NDArray[np.bool_]:
    """Return True for each of `positions` (any shape) that lies in the merged `spans`."""
    if not len(spans):
        return np.zeros(np.shape(positions), np.bool_)
    index = np.searchsorted(spans[:, 0], positions, side="right") - 1
    return (index >= 0) & (positions < spans[index, 1])


def count_below(spans: Spans, positions: Integers) -> Integers:
    """Return the number of positions of the merged `spans` below each of `positions` (any shape)."""
    if not len(spans):
        return np.zeros_like(positions)
    lengths = spans[:, 1] - spans[:, 0]
    before = np.concatenate([[0], np.cumsum(lengths)])
    index = np.searchsorted(spans[:, 0], positions, side="right") - 1
    inside = np.minimum(positions - spans[index, 0], lengths[index])
    return np.where(index < 0, 0, before[index] + inside)
