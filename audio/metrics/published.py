"""Two scores as the code behind the published SC09 tables computes them, faults included.

For comparison with published numbers on the same probabilities, and for nothing else. The published code
draws from numpy's global generator after seeding it with 0; here the same numbers come from one of its own.
"""

import numpy as np
from scipy.stats import entropy  # type: ignore[import-untyped]
from torch import Tensor

PAIRS = 10_000
SEED = 0


def published_inception_score(log_probabilities: Tensor) -> float:
    """Its inception score of log-probabilities (clips, classes).

    The published code leaves out scipy's axis, so that each class is normalised over the clips: it is
    exp(mean over classes of KL(p(x|c) | uniform over x)) of a random half of the clips, and the other half,
    whose mean it is compared with, cancels out. Equal to the inception score where classes are balanced;
    above 1 where there is one class, and beyond the number of classes where one dominates.
    """
    probabilities = log_probabilities.exp().cpu().numpy()
    shuffled = probabilities[np.random.RandomState(SEED).permutation(len(probabilities))]
    half = len(shuffled) // 2
    spread = np.repeat(shuffled[half:].mean(axis=0, keepdims=True), half, axis=0)
    return float(np.exp(entropy(shuffled[:half], spread).mean()))


def published_modified_inception_score(log_probabilities: Tensor) -> float:
    """Its modified inception score: over 10,000 random pairs of clips, drawn with the published seed.

    The standard deviation of the draw is nearly 2 %; `inception.modified_inception_score` is its limit.
    """
    probabilities = log_probabilities.exp().cpu().numpy()
    first, second = np.random.RandomState(SEED).choice(len(probabilities), size=(PAIRS, 2)).T
    return float(np.exp(entropy(probabilities[first], probabilities[second], axis=1).mean()))
