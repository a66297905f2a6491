"""Estimates cover what they should, centre on the value, and do not depend on how many resamples follow."""

import math

import numpy as np
import pytest
import torch

from audio.metrics.bootstrap import Estimate, bootstrap, resample_indices


def test_the_interval_of_a_mean_is_its_standard_error() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = bootstrap(lambda chosen: {"mean": values[chosen].mean().item()}, 400, 300, seed=0)["mean"]
    assert found.value == pytest.approx(values.mean().item())
    reach = 1.96 * values.std().item() / math.sqrt(400)
    assert found.high - found.value == pytest.approx(reach, rel=0.15)
    assert found.value - found.low == pytest.approx(reach, rel=0.15)


def test_95_per_cent_of_the_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        values = torch.from_numpy(random.normal(size=60))
        found = bootstrap(lambda chosen, v=values: {"mean": v[chosen].mean().item()}, 60, 60, seed)["mean"]
        held += found.low <= 0 <= found.high
    assert 0.88 < held / 200 < 0.99


def test_a_resample_is_the_same_whatever_their_number() -> None:
    assert torch.equal(resample_indices(50, 3, 7), resample_indices(50, 3, 7))
    assert not torch.equal(resample_indices(50, 3, 7), resample_indices(50, 3, 8))
    assert not torch.equal(resample_indices(50, 3, 7), resample_indices(50, 4, 7))
    assert set(resample_indices(5, 0, 0).tolist()) <= set(range(5))


def test_a_resample_is_drawn_with_replacement_evenly() -> None:
    counts = sum(torch.bincount(resample_indices(20, 0, number), minlength=20) for number in range(500))
    assert counts.min() > 400
    assert counts.max() < 600
    assert len(resample_indices(1000, 0, 0).unique()) == pytest.approx(632, abs=40)


def test_without_resamples_or_finite_values_there_is_no_interval() -> None:
    assert bootstrap(lambda _: {"x": 1.5}, 3, 0, 0) == {"x": Estimate(1.5, None, None)}
    assert bootstrap(lambda _: {"x": math.inf}, 3, 5, 0) == {"x": Estimate(math.inf)}
