"""The number of statistically different bins (Richardson and Weiss 2018): which kinds of clips are rare."""

import numpy as np
import numpy.typing as npt
from scipy.stats import norm  # type: ignore[import-untyped]
from sklearn.cluster import KMeans
from torch import Tensor

from core.random import Integers

BINS = 50
SIGNIFICANCE = 0.05


class Bins:
    """k-means clusters of the features of reference clips, and how many of those each holds.

    features: (clips, features). Raises ValueError for fewer clips than bins.
    """

    def __init__(self, features: Tensor, bins: int = BINS, seed: int = 0) -> None:
        if len(features) < bins:
            raise ValueError(
                f"{bins} bins need as many reference clips, but there are {len(features)}: give more clips."
            )
        self._clusters = KMeans(bins, n_init=1, random_state=seed).fit(features.cpu().numpy())
        self.counts: Integers = np.bincount(self._clusters.labels_, minlength=bins)

    def of(self, features: Tensor) -> Integers:
        """The bin of each clip, (clips,), of features (clips, features)."""
        return self._clusters.predict(features.cpu().numpy()).astype(np.int64)

    def different(self, bins: Integers) -> float:
        """The fraction of bins whose share among clips in `bins` (clips,) differs from the reference's.

        By the test of two proportions at the level of 5 %: 0.05 is what chance gives.
        """
        counts = np.bincount(bins, minlength=len(self.counts))
        return float((_two_proportions(self.counts, counts) < SIGNIFICANCE).mean())


def _two_proportions(first: Integers, second: Integers) -> npt.NDArray[np.floating]:
    """The p-value (bins,) for each bin's share in two sets of clips to be one; counts (bins,) each."""
    clips = first.sum(), second.sum()
    pooled = (first + second) / sum(clips)
    error = np.sqrt(pooled * (1 - pooled) * (1 / clips[0] + 1 / clips[1]))
    apart = np.abs(first / clips[0] - second / clips[1])
    return 2 * norm.sf(np.divide(apart, error, out=np.zeros_like(apart), where=error > 0))
