"""Inception score, modified inception score and AM score: confidence and diversity of predictions.

All are functions of log-probabilities (clips, classes) in float64. In float32, a confident classifier gives
probabilities of 0, whose logarithms are infinite.
"""

import torch
from torch import Tensor


def inception_score(log_probabilities: Tensor) -> float:
    """Return exp(mean over clips of KL(p(y|x) | p(y))) (Salimans et al. 2016), from 1 to the class count."""
    _check(log_probabilities)
    p = log_probabilities.exp()
    return (_entropy(p.mean(dim=0)) - _mean_entropy(log_probabilities, p)).exp().item()


def modified_inception_score(log_probabilities: Tensor) -> float:
    """Return exp(mean over pairs of clips of KL(p(y|x) | p(y|x'))) (Gurumurthy et al. 2017).

    The mean runs over all pairs, including a clip with itself, in closed form: the mean of sum_c p_c log p_c
    minus sum_c mean(p_c) mean(log p_c).
    """
    _check(log_probabilities)
    p = log_probabilities.exp()
    cross = (p.mean(dim=0) * log_probabilities.mean(dim=0)).sum()
    return (-_mean_entropy(log_probabilities, p) - cross).exp().item()


def am_score(reference: Tensor, log_probabilities: Tensor) -> float:
    """Return KL(p_r(y) | p(y)) + mean over clips of the entropy of p(y|x) (Zhou et al. 2018), in nats.

    reference: (clips, classes), log-probabilities of the training clips. 0 is the best value.
    """
    _check(reference)
    _check(log_probabilities)
    p = log_probabilities.exp()
    reference_mean, mean = reference.exp().mean(dim=0), p.mean(dim=0)
    divergence = (torch.xlogy(reference_mean, reference_mean) - torch.xlogy(reference_mean, mean)).sum()
    return (divergence + _mean_entropy(log_probabilities, p)).item()


def _mean_entropy(log_probabilities: Tensor, p: Tensor) -> Tensor:
    """Return the mean entropy of p(y|x) in nats; p log p is 0 if p underflows to 0."""
    return -(p * log_probabilities.nan_to_num(neginf=0.0)).sum(dim=1).mean()


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum()


def _check(log_probabilities: Tensor) -> None:
    if log_probabilities.dtype != torch.float64:
        raise ValueError(
            f"The log-probabilities are {log_probabilities.dtype}; they must be float64. Compute the "
            "log-softmax in float64."
        )
    if not len(log_probabilities):
        raise ValueError("There are no clips to score. Give at least one.")
    if log_probabilities.isnan().any() or (log_probabilities > 1e-9).any():
        raise ValueError("The log-probabilities hold NaN or exceed 0. Take them from a log-softmax.")
