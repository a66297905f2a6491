"""Frechet distance against closed forms, and bias of the extrapolation."""

import numpy as np
import pytest
import scipy.linalg
import torch

from audio.metrics.frechet import can_extrapolate, fit_gaussian, frechet_distance, frechet_infinity


def random_features(clips: int, features: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, features, generator=generator, dtype=torch.float64)


def test_a_shift_adds_its_square() -> None:
    clips, shift = random_features(200, 6), torch.tensor([3.0, 0, 0, 4, 0, 0])
    assert frechet_distance(fit_gaussian(clips), clips + shift) == pytest.approx(25)


def test_scaling_adds_its_change_of_variance() -> None:
    """S_g = a^2 S_r gives tr(S_r + a^2 S_r - 2 a S_r) = (1 - a)^2 tr S_r."""
    clips = random_features(300, 5)
    clips -= clips.mean(dim=0)
    reference = fit_gaussian(clips)
    expected = 0.25 * reference.covariance.trace().item()
    assert frechet_distance(reference, 1.5 * clips) == pytest.approx(expected)


def test_equal_clips_have_distance_zero() -> None:
    for clips in (random_features(50, 6), random_features(4, 6), random_features(4, 6).float() * 100):
        assert frechet_distance(fit_gaussian(clips), clips) == pytest.approx(0, abs=1e-5)


def test_it_equals_the_formula_with_a_matrix_root() -> None:
    first, second = random_features(80, 7), random_features(90, 7, seed=1) @ random_features(7, 7, seed=2)
    covariances = [np.cov(clips.numpy(), rowvar=False) for clips in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = (first.mean(dim=0) - second.mean(dim=0)).square().sum().item()
    expected = apart + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(fit_gaussian(first), second) == pytest.approx(expected)
    assert frechet_distance(fit_gaussian(second), first) == pytest.approx(expected)


def test_it_is_exact_without_full_rank() -> None:
    """Variances v and w on different axes give the distance v + w."""
    first = torch.tensor([[1.0, 0, 0], [-1, 0, 0]])
    second = torch.tensor([[0.0, 2, 0], [0, -2, 0]])
    assert frechet_distance(fit_gaussian(first), second) == pytest.approx(2 + 8)


def test_extrapolation_removes_the_bias_of_few_clips() -> None:
    reference = fit_gaussian(random_features(40_000, 8, seed=9))
    plain, extrapolated = [], []
    for seed in range(20):
        clips = random_features(100, 8, seed)
        plain.append(frechet_distance(reference, clips))
        extrapolated.append(frechet_infinity(reference, clips, torch.arange(100)))
    assert np.mean(plain) > 0.1
    assert abs(np.mean(extrapolated)) < np.mean(plain) / 5


def test_extrapolation_needs_halves_of_full_rank() -> None:
    assert not can_extrapolate(2049, 1024)
    assert can_extrapolate(2050, 1024)


def test_invalid_features_are_rejected() -> None:
    reference = fit_gaussian(random_features(9, 3))
    with pytest.raises(ValueError, match=r"1 clip\(s\) have no covariance"):
        frechet_distance(reference, random_features(1, 3))
    with pytest.raises(ValueError, match="have 4 features, but the reference has 3"):
        frechet_distance(reference, random_features(9, 4))
    broken = random_features(9, 3)
    broken[5, 1] = torch.nan
    with pytest.raises(ValueError, match="features of clip 5 hold NaN"):
        fit_gaussian(broken)
