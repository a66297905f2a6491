"""Number of statistically different bins, NDB (Richardson and Weiss 2018): finds missing kinds of clips."""

import numpy as np
import numpy.typing as npt
from scipy.stats import norm  # type: ignore[import-untyped]
from sklearn.cluster import KMeans
from torch import Tensor

from core.random import Integers

BINS = 50
SIGNIFICANCE = 0.05


class Bins:
    """k-means clusters of the features of reference clips, with the number of clips in each.

    features: (clips, features). Raises ValueError for fewer clips than bins.
    """

    def __init__(self, features: Tensor, bins: int = BINS, seed: int = 0) -> None:
        if len(features) < bins:
            raise ValueError(
                f"There are {len(features)} reference clips for {bins} bins. Give at least {bins} clips."
            )
        self._clusters = KMeans(bins, n_init=1, random_state=seed).fit(features.cpu().numpy())
        self.counts: Integers = np.bincount(self._clusters.labels_, minlength=bins)

    def assign(self, features: Tensor) -> Integers:
        """Return the bin of each clip, (clips,), from features (clips, features)."""
        return self._clusters.predict(features.cpu().numpy()).astype(np.int64)

    def fraction_different(self, bins: Integers) -> float:
        """Return the fraction of bins whose share of clips differs from the reference's.

        bins: (clips,), the bin of each clip. A two-proportion test at the 5 % level decides; 0.05 is the
        value expected by chance.
        """
        counts = np.bincount(bins, minlength=len(self.counts))
        return float((_two_proportions(self.counts, counts) < SIGNIFICANCE).mean())


def _two_proportions(first: Integers, second: Integers) -> npt.NDArray[np.floating]:
    """Return the p-value (bins,) of equal shares of each bin in two sets of clips; counts (bins,) each."""
    clips = first.sum(), second.sum()
    pooled = (first + second) / sum(clips)
    error = np.sqrt(pooled * (1 - pooled) * (1 / clips[0] + 1 / clips[1]))
    difference = np.abs(first / clips[0] - second / clips[1])
    return 2 * norm.sf(np.divide(difference, error, out=np.zeros_like(difference), where=error > 0))
