"""Two scores as the code behind the published SC09 tables computes them, including its faults.

Use them only to compare with published numbers. The published code draws from numpy's global generator after
seeding it with 0; this module gets the same numbers from its own generator.
"""

import numpy as np
from scipy.stats import entropy  # type: ignore[import-untyped]
from torch import Tensor

PAIRS = 10_000
SEED = 0


def published_inception_score(log_probabilities: Tensor) -> float:
    """Return the published inception score of log-probabilities (clips, classes).

    The published code omits scipy's axis argument, so scipy normalizes each class over the clips. The result
    is exp(mean over classes of KL(p(x|c) | uniform over x)) of a random half of the clips. The other half,
    whose mean is the comparison, cancels out. The result equals the inception score for balanced classes. It
    exceeds 1 for a single class, and exceeds the number of classes if one class dominates.
    """
    probabilities = log_probabilities.exp().cpu().numpy()
    shuffled = probabilities[np.random.RandomState(SEED).permutation(len(probabilities))]
    half = len(shuffled) // 2
    marginal = np.repeat(shuffled[half:].mean(axis=0, keepdims=True), half, axis=0)
    return float(np.exp(entropy(shuffled[:half], marginal).mean()))


def published_modified_inception_score(log_probabilities: Tensor) -> float:
    """Return the published modified inception score, over 10,000 random pairs of clips.

    Its standard deviation over seeds is almost 2 %; `inception.modified_inception_score` is its limit.
    """
    probabilities = log_probabilities.exp().cpu().numpy()
    first, second = np.random.RandomState(SEED).choice(len(probabilities), size=(PAIRS, 2)).T
    return float(np.exp(entropy(probabilities[first], probabilities[second], axis=1).mean()))
