"""How sure an accuracy is: intervals of a share of right answers, independent or in clusters."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEAST_CLUSTERS = 10
Z_95 = 1.959963984540054

Flags = npt.NDArray[np.bool_]


class Interval(NamedTuple):
    """A value and its 95% interval."""

    value: float
    low: float
    high: float


def wilson(right: int, count: int) -> Interval:
    """The share right / count with Wilson's score interval (1927); count is at least 1."""
    share = right / count
    centre = (share + Z_95**2 / (2 * count)) / (1 + Z_95**2 / count)
    half = Z_95 / (1 + Z_95**2 / count) * (share * (1 - share) / count + Z_95**2 / (4 * count**2)) ** 0.5
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def accuracy(is_right: Flags, clusters: Sequence[str]) -> Interval:
    """The share of right answers (n,), with the wider on each side of Wilson's and the clustered interval.

    Answers of one cluster may depend on each other. Wilson's holds where all are right, the other where
    clusters matter.
    """
    independent = wilson(int(is_right.sum()), len(is_right))
    low, high = np.quantile(_resampled(is_right.astype(float), clusters), [0.025, 0.975])
    return Interval(independent.value, min(independent.low, float(low)), max(independent.high, float(high)))


def difference(is_right: Flags, is_right_of_other: Flags, clusters: Sequence[str]) -> Interval:
    """By how much the first share of right answers (n,) exceeds the other on the same questions.

    The interval is the paired bootstrap's over clusters.
    """
    gain = is_right.astype(float) - is_right_of_other.astype(float)
    low, high = np.quantile(_resampled(gain, clusters), [0.025, 0.975])
    return Interval(float(gain.mean()), float(low), float(high))


def _resampled(values: npt.NDArray[np.float64], clusters: Sequence[str]) -> npt.NDArray[np.float64]:
    """The mean of values (n,) in RESAMPLES draws of as many clusters, with replacement (Efron, 1979).

    Fewer than LEAST_CLUSTERS do not show how much they vary: values are then drawn one by one.
    """
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if cluster.max() + 1 < LEAST_CLUSTERS:
        cluster = np.arange(len(values))
    sums, sizes = np.bincount(cluster, values), np.bincount(cluster)
    random = np.random.default_rng(0)
    counts = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    return counts @ sums / (counts @ sizes)
