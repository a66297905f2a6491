"""Frechet distance between the features of generated and of recorded clips (Heusel et al. 2017)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Gaussian fitted to the features of reference clips.

    mean: (features,). covariance: (features, features), unbiased. root: (features, features), the symmetric
    square root of the covariance. All are float64 on the device of the features. clips: number of clips.
    """

    mean: Tensor
    covariance: Tensor
    root: Tensor
    clips: int


def fit_gaussian(features: Tensor) -> Gaussian:
    """Fit a Gaussian to features (clips, features). Raises ValueError as `moments` does."""
    mean, covariance = moments(features)
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return Gaussian(mean, covariance, root, len(features))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (features,) and the unbiased covariance (features, features) in float64.

    features: (clips, features). Raises ValueError for fewer than two clips, and for features that are not
    finite.
    """
    if len(features) < 2:
        raise ValueError(
            f"{len(features)} clip(s) have no covariance. A Frechet distance needs at least 2 clips."
        )
    if not features.isfinite().all():
        first = int((~features.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"The features of clip {first:,} hold NaN or infinity. Check their source.")
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(reference: Gaussian, features: Tensor) -> float:
    """Return |m_r - m_g|^2 + tr(S_r + S_g - 2 (S_r^1/2 S_g S_r^1/2)^1/2) of features (clips, features).

    The trace of the root comes from the eigenvalues of a symmetric matrix. It is exact for a covariance
    without full rank, and has no imaginary part, unlike a general matrix root. An estimate from n clips is
    too large by about a constant over n: compare only distances of equal n, or extrapolated ones.
    Raises ValueError as `moments` does, and for another number of features.
    """
    if features.shape[1] != len(reference.mean):
        raise ValueError(
            f"The clips have {features.shape[1]} features, but the reference has {len(reference.mean)}. Use "
            "one classifier for both."
        )
    mean, covariance = moments(features)
    values = torch.linalg.eigvalsh(reference.root @ covariance @ reference.root)
    overlap = values.clamp(min=0).sqrt().sum()
    shift = (reference.mean - mean).square().sum()
    distance = shift + reference.covariance.trace() + covariance.trace() - 2 * overlap
    return distance.clamp(min=0).item()  # rounding can make it negative


def frechet_infinity(reference: Gaussian, features: Tensor, order: Tensor) -> float:
    """Return the Frechet distance extrapolated to infinitely many clips, without the bias constant / n.

    The extrapolation follows Chong and Forsyth (2020): a straight line over 1 / n through F(n) and F(n / 2),
    the mean of both halves, gives 2 F(n) - F(n / 2). order: (clips,), a permutation that defines the halves.
    The bias is linear in 1 / n only if each half has more clips than features (`can_extrapolate`).
    """
    middle = len(order) // 2
    halves = [frechet_distance(reference, features[half]) for half in (order[:middle], order[middle:])]
    return 2 * frechet_distance(reference, features) - sum(halves) / 2


def can_extrapolate(count: int, features: int) -> bool:
    """Return whether half of `count` clips give a covariance of full rank."""
    return count // 2 > features
