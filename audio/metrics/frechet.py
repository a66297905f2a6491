"""The Frechet distance between the features of generated and of recorded clips (Heusel et al. 2017)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """The Gaussian of features that others are compared with.

    mean: (features,). covariance, root: (features, features), unbiased, and its symmetric square root; all
    float64, on the device of the features. clips: how many it was fitted on.
    """

    mean: Tensor
    covariance: Tensor
    root: Tensor
    clips: int


def fit_gaussian(features: Tensor) -> Gaussian:
    """The Gaussian of features (clips, features). Raises ValueError as `moments` does."""
    mean, covariance = moments(features)
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return Gaussian(mean, covariance, root, len(features))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (features,) and the unbiased covariance (features, features) of features (clips, features).

    In float64. Raises ValueError for fewer than two clips, and for features that are not finite.
    """
    if len(features) < 2:
        raise ValueError(
            f"{len(features)} clip(s) have no covariance, which a Frechet distance needs: give at least 2."
        )
    if not features.isfinite().all():
        first = int((~features.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"The features of clip {first:,} hold NaN or infinity: look where they came from.")
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(reference: Gaussian, features: Tensor) -> float:
    """|m_r - m_g|^2 + tr(S_r + S_g - 2 (S_r^1/2 S_g S_r^1/2)^1/2) of features (clips, features).

    The root of the product is taken through the eigenvalues of a symmetric matrix: exact where the covariance
    has no full rank, and without the imaginary parts that a general matrix root leaves. Estimated from n
    clips it is too large by about a constant over n: compare distances of equal n only, or extrapolated ones.
    Raises ValueError as `moments` does, and for another number of features.
    """
    if features.shape[1] != len(reference.mean):
        raise ValueError(
            f"The clips have {features.shape[1]} features, their reference {len(reference.mean)}: judge both "
            "by one classifier."
        )
    mean, covariance = moments(features)
    values = torch.linalg.eigvalsh(reference.root @ covariance @ reference.root)
    overlap = values.clamp(min=0).sqrt().sum()
    apart = (reference.mean - mean).square().sum()
    distance = apart + reference.covariance.trace() + covariance.trace() - 2 * overlap
    return distance.clamp(min=0).item()  # it is not negative, but for rounding


def frechet_infinity(reference: Gaussian, features: Tensor, order: Tensor) -> float:
    """The Frechet distance extrapolated to infinitely many clips: the bias, constant / n, is taken out.

    As Chong and Forsyth (2020), by the straight line over 1 / n through the distances at n and at n / 2, the
    mean of both halves: 2 F(n) - F(n / 2). order: (clips,), a permutation by which the halves are told apart.
    The halves should have more clips than features (`enough_to_extrapolate`): before, the bias is no line.
    """
    middle = len(order) // 2
    halves = [frechet_distance(reference, features[part]) for part in (order[:middle], order[middle:])]
    return 2 * frechet_distance(reference, features) - sum(halves) / 2


def enough_to_extrapolate(count: int, features: int) -> bool:
    """Whether half of the clips give a covariance of full rank."""
    return count // 2 > features
