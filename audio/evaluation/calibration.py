"""Calibration of a classifier: temperature scaling (Guo et al. 2017).

Metrics of probabilities depend on the classifier's confidence; the modified inception score depends on it
exponentially. A classifier that has overfitted its training clips is overconfident. One temperature, fitted
on held-out clips, corrects this without a change to features or decisions.
"""

import math

import torch
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import nll_loss

from audio.evaluation.classifier import Classifier

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """Return the divisor of the logits that maximizes the likelihood of the labels.

    log_probabilities: (clips, classes) float64 of held-out clips. labels: (clips,) int64. Returns 1 if every
    clip is classified correctly: the likelihood then has no maximum.
    """
    if bool((log_probabilities.argmax(dim=1) == labels).all()):
        return 1.0

    def loss(log_temperature: float) -> float:
        return nll_loss((log_probabilities / math.exp(log_temperature)).log_softmax(dim=1), labels).item()

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


@torch.no_grad()
def divide_logits(model: Classifier, temperature: float) -> None:
    """Divide the logits of a classifier by a temperature, in place."""
    model.head.weight.div_(temperature)
    model.head.bias.div_(temperature)
