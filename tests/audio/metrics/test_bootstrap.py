"""Bootstrap intervals: coverage, centre, and independence from the number of resamples."""

import math

import numpy as np
import pytest
import torch

from audio.metrics.bootstrap import Estimate, bootstrap, resample_indices


def test_the_interval_of_a_mean_is_its_standard_error() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimate = bootstrap(lambda indices: {"mean": values[indices].mean().item()}, 400, 300, seed=0)["mean"]
    assert estimate.value == pytest.approx(values.mean().item())
    half_width = 1.96 * values.std().item() / math.sqrt(400)
    assert estimate.high - estimate.value == pytest.approx(half_width, rel=0.15)
    assert estimate.value - estimate.low == pytest.approx(half_width, rel=0.15)


def test_95_per_cent_of_the_intervals_contain_the_truth() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        values = torch.from_numpy(random.normal(size=60))
        estimate = bootstrap(lambda indices, v=values: {"mean": v[indices].mean().item()}, 60, 60, seed)[
            "mean"
        ]
        covered += estimate.low <= 0 <= estimate.high
    assert 0.88 < covered / 200 < 0.99


def test_a_resample_depends_on_seed_and_number_only() -> None:
    assert torch.equal(resample_indices(50, 3, 7), resample_indices(50, 3, 7))
    assert not torch.equal(resample_indices(50, 3, 7), resample_indices(50, 3, 8))
    assert not torch.equal(resample_indices(50, 3, 7), resample_indices(50, 4, 7))
    assert set(resample_indices(5, 0, 0).tolist()) <= set(range(5))


def test_resamples_are_uniform_draws_with_replacement() -> None:
    counts = sum(torch.bincount(resample_indices(20, 0, number), minlength=20) for number in range(500))
    assert counts.min() > 400
    assert counts.max() < 600
    assert len(resample_indices(1000, 0, 0).unique()) == pytest.approx(632, abs=40)


def test_no_resamples_or_infinite_values_give_no_interval() -> None:
    assert bootstrap(lambda _: {"x": 1.5}, 3, 0, 0) == {"x": Estimate(1.5, None, None)}
    assert bootstrap(lambda _: {"x": math.inf}, 3, 5, 0) == {"x": Estimate(math.inf)}
