"""Algebra of spans: rows (start, end), half-open, of positions in a packed genome.

Records never touch in a pack (a separator stands between them), so no span ever joins two records.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Spans = npt.NDArray[np.int64]
"""(spans, 2) int64."""


def as_spans(rows: Iterable[tuple[int, int]] = ()) -> Spans:
    """Spans (n, 2) of pairs (start, end), in the order given."""
    return np.array(list(rows), np.int64).reshape(-1, 2)


def merge(spans: Spans) -> Spans:
    """The same positions as sorted spans that neither overlap nor touch; empty spans vanish."""
    spans = spans[spans[:, 0] < spans[:, 1]]
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    if not len(spans):
        return spans
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate([[True], spans[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([spans[first, 0], reach[last]], axis=1)


def subtract(spans: Spans, removed: Spans) -> Spans:
    """The positions of `spans` that are not in `removed`, merged."""
    spans, removed = merge(spans), merge(removed)
    if not len(spans):
        return spans
    bounds = np.array([[spans[0, 0], spans[-1, 1]]])
    kept = np.concatenate([bounds[:, 0], removed[:, 1]]), np.concatenate([removed[:, 0], bounds[:, 1]])
    return intersect(spans, np.stack(kept, axis=1))


def intersect(first: Spans, second: Spans) -> Spans:
    """The positions in both, merged."""
    first, second = merge(first), merge(second)
    begin = np.searchsorted(second[:, 1], first[:, 0], side="right")
    count = np.maximum(np.searchsorted(second[:, 0], first[:, 1], side="left") - begin, 0)
    left = np.repeat(np.arange(len(first)), count)
    right = np.arange(count.sum()) + np.repeat(begin - np.cumsum(count) + count, count)
    start = np.maximum(first[left, 0], second[right, 0])
    end = np.minimum(first[left, 1], second[right, 1])
    return merge(np.stack([start, end], axis=1))


def total(spans: Spans) -> int:
    """How many positions the spans hold, each counted once."""
    return int(np.diff(merge(spans)).sum())


def overlap(first: Spans, second: Spans) -> int:
    """How many positions lie in both."""
    return total(intersect(first, second))


def contains(spans: Spans, positions: Integers) -> npt.NDArray[np.bool_]:
    """Which of `positions` (any shape) lie in merged `spans`."""
    if not len(spans):
        return np.zeros(np.shape(positions), np.bool_)
    index = np.searchsorted(spans[:, 0], positions, side="right") - 1
    return (index >= 0) & (positions < spans[index, 1])


def counted_below(spans: Spans, positions: Integers) -> Integers:
    """How many positions of merged `spans` lie below each of `positions` (any shape)."""
    if not len(spans):
        return np.zeros_like(positions)
    lengths = spans[:, 1] - spans[:, 0]
    before = np.concatenate([[0], np.cumsum(lengths)])
    index = np.searchsorted(spans[:, 0], positions, side="right") - 1
    inside = np.minimum(positions - spans[index, 0], lengths[index])
    return np.where(index < 0, 0, before[index] + inside)
