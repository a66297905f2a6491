"""The inception score and its two relatives: how sure a classifier is of clips, and how evenly they spread.

All of them are functions of log-probabilities (clips, classes), which must be float64: in float32 a
classifier that is sure gives probabilities of 0, whose logarithms are infinite.
"""

import torch
from torch import Tensor


def inception_score(log_probabilities: Tensor) -> float:
    """exp(mean over clips of KL(p(y|x) | p(y))) (Salimans et al. 2016): 1 at worst, at best the classes."""
    _check(log_probabilities)
    p = log_probabilities.exp()
    return (_entropy(p.mean(dim=0)) - _mean_entropy(log_probabilities, p)).exp().item()


def modified_inception_score(log_probabilities: Tensor) -> float:
    """exp(mean over pairs of clips of KL(p(y|x) | p(y|x'))) (Gurumurthy et al. 2017).

    Over all pairs, a clip with itself included, in closed form: the mean of sum_c p_c log p_c less
    sum_c mean(p_c) mean(log p_c). Nothing is drawn.
    """
    _check(log_probabilities)
    p = log_probabilities.exp()
    crossed = (p.mean(dim=0) * log_probabilities.mean(dim=0)).sum()
    return (-_mean_entropy(log_probabilities, p) - crossed).exp().item()


def am_score(reference: Tensor, log_probabilities: Tensor) -> float:
    """KL(p_r(y) | p(y)) + mean over clips of the entropy of p(y|x) (Zhou et al. 2018), in nats: 0 at best.

    reference: (clips, classes), the log-probabilities of the training clips.
    """
    _check(reference)
    _check(log_probabilities)
    p = log_probabilities.exp()
    wanted, found = reference.exp().mean(dim=0), p.mean(dim=0)
    divergence = (torch.xlogy(wanted, wanted) - torch.xlogy(wanted, found)).sum()
    return (divergence + _mean_entropy(log_probabilities, p)).item()


def _mean_entropy(log_probabilities: Tensor, p: Tensor) -> Tensor:
    """Of the classes of a clip, in nats; where p underflows to 0, p log p is 0."""
    return -(p * log_probabilities.nan_to_num(neginf=0.0)).sum(dim=1).mean()


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum()


def _check(log_probabilities: Tensor) -> None:
    if log_probabilities.dtype != torch.float64:
        raise ValueError(
            f"The log-probabilities are {log_probabilities.dtype}; they must be float64, from a log-softmax "
            "in float64."
        )
    if not len(log_probabilities):
        raise ValueError("There are no clips to score: give at least one.")
    if log_probabilities.isnan().any() or (log_probabilities > 1e-9).any():
        raise ValueError("The log-probabilities hold NaN, or exceed 0: take them from a log-softmax.")
