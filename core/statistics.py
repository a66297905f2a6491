"""Statistics of evaluations: intervals of accuracies, bins of context, evenly spaced samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest  # type: ignore[import-untyped]

from core.random import Integers

RESAMPLES = 2000
MIN_CLUSTERS = 10
BINS_PER_DOUBLING = 2

Flags = npt.NDArray[np.bool_]


class Interval(NamedTuple):
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float


def wilson(correct: int, count: int) -> Interval:
    """Return the accuracy correct / count with Wilson's score interval (1927); count is at least 1."""
    interval = binomtest(correct, count).proportion_ci(method="wilson")
    return Interval(correct / count, float(interval.low), float(interval.high))


def accuracy(is_correct: Flags, clusters: Sequence[str]) -> Interval:
    """Return the accuracy of answers (n,); each side takes the wider of Wilson's and the clustered interval.

    Answers of one cluster may depend on each other. The bootstrap over clusters accounts for that, and
    Wilson's interval for the case where all answers are correct.
    """
    independent = wilson(int(is_correct.sum()), len(is_correct))
    low, high = np.quantile(_bootstrap_means(is_correct.astype(float), clusters), [0.025, 0.975])
    return Interval(independent.value, min(independent.low, float(low)), max(independent.high, float(high)))


def difference(is_correct: Flags, is_other_correct: Flags, clusters: Sequence[str]) -> Interval:
    """Return the gain in accuracy over another model on the same questions (n,).

    The interval is that of the paired bootstrap over clusters.
    """
    gain = is_correct.astype(float) - is_other_correct.astype(float)
    low, high = np.quantile(_bootstrap_means(gain, clusters), [0.025, 0.975])
    return Interval(float(gain.mean()), float(low), float(high))


def context_edges(length: int) -> Integers:
    """Return edges (bins + 1,) of bins of the positions 1 .. length, evenly spaced on a log scale."""
    steps = np.arange(BINS_PER_DOUBLING * length.bit_length())
    inner = np.unique(np.round(2 ** (steps / BINS_PER_DOUBLING)).astype(np.int64))
    return np.append(inner[inner <= length], length + 1)


def evenly_spaced(size: int, count: int) -> Integers:
    """Return `count` indices below `size`, from the first to the last; some repeat if count > size."""
    return np.linspace(0, size - 1, count).round().astype(np.int64)


def evenly_spaced_subset(size: int, count: int | None) -> Integers:
    """Return at most `count` different indices below `size`, evenly spaced; all for None.

    Raises ValueError if count is below 1.
    """
    if count is None or count >= size:
        return np.arange(size)
    if count < 1:
        raise ValueError(f"data.validation_windows is {count}; it must be at least 1, or null for all.")
    return evenly_spaced(size, count)


def _bootstrap_means(values: npt.NDArray[np.float64], clusters: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the means (RESAMPLES,) of values (n,) over clusters resampled with replacement (Efron, 1979).

    Fewer than MIN_CLUSTERS clusters do not show their variance: then single values are resampled.
    """
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if cluster.max() + 1 < MIN_CLUSTERS:
        cluster = np.arange(len(values))
    sums, sizes = np.bincount(cluster, values), np.bincount(cluster)
    random = np.random.default_rng(0)
    counts = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    return counts @ sums / (counts @ sizes)
