"""Selection by likelihood: the published autoregressive results leave out clips before they are scored."""

from torch import Tensor

LOWER, UPPER = 0.40, 0.95
"""The published thresholds, fractions of the clips from the least likely on. The published code means to tune
them on a grid by the inception score, but never keeps the best value, so that the last point always wins."""


def select_by_likelihood(log_likelihood: Tensor) -> Tensor:
    """The numbers, in order, of the clips between the published thresholds: the middle 55 %.

    log_likelihood: (clips,), the total of each clip under the model that drew it. Raises ValueError for NaN.
    """
    if log_likelihood.isnan().any():
        raise ValueError("The log-likelihoods hold NaN, so that clips cannot be ranked: sample them again.")
    order = log_likelihood.argsort(stable=True)
    count = len(order)
    return order[int(LOWER * count) : int(UPPER * count)].sort().values
