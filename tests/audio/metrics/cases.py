"""Class probabilities with known scores."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def log_one_hot(labels: Sequence[int], classes: int = 10, sharpness: float = 1e4) -> Tensor:
    """Return log-probabilities (clips, classes) that are confident of these labels."""
    scores = sharpness * torch.nn.functional.one_hot(torch.tensor(labels), classes).double()
    return scores.log_softmax(dim=1)


def confident(counts: Sequence[int], sharpness: float = 8.0, seed: int = 0) -> Tensor:
    """Return noisy confident log-probabilities for `counts` clips of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    scores = 1.5 * np.random.default_rng(seed).normal(size=(len(labels), len(counts)))
    scores[np.arange(len(labels)), labels] += sharpness
    return torch.from_numpy(scores).log_softmax(dim=1)
