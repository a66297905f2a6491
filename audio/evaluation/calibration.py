"""Calibration: a classifier that is as sure as it is right (Guo et al. 2017).

Scores of probabilities depend on how sure a classifier is, the modified inception score exponentially. One
that has learnt its training clips by heart is surer than it should be; a single temperature, fitted on clips
that were held out, corrects that, and leaves features and decisions as they are.
"""

import math

import torch
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import nll_loss

from audio.evaluation.classifier import Classifier

COLDEST, HOTTEST = 0.05, 20.0


def fitted_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """By what logits must be divided for the labels to be likeliest.

    log_probabilities: (clips, classes) float64 of held-out clips. labels: (clips,) int64. Where every clip is
    told rightly the colder the likelier: 1 is returned then, for there is nothing to learn from.
    """
    if bool((log_probabilities.argmax(dim=1) == labels).all()):
        return 1.0

    def loss(logarithm: float) -> float:
        return nll_loss((log_probabilities / math.exp(logarithm)).log_softmax(dim=1), labels).item()

    found = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return math.exp(found.x)


@torch.no_grad()
def divide_logits(model: Classifier, temperature: float) -> None:
    """Let a classifier's logits be divided by a temperature from now on."""
    model.head.weight.div_(temperature)
    model.head.bias.div_(temperature)
