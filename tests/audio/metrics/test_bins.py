"""Bins detect a missing kind of clip, with the expected rate of false positives."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency  # type: ignore[import-untyped]

from audio.metrics.bins import Bins, _two_proportions


def groups(counts: list[int], seed: int) -> torch.Tensor:
    """Return points (sum of counts, 2) around one centre on a circle per count."""
    angles = np.repeat(np.linspace(0, 2 * np.pi, len(counts), endpoint=False), counts)
    centres = 10 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = centres + 0.1 * np.random.default_rng(seed).normal(size=centres.shape)
    return torch.from_numpy(points).float()


@pytest.fixture(scope="module")
def bins() -> Bins:
    return Bins(groups([100] * 8, 0), bins=8)


def test_equal_shares_do_not_differ(bins: Bins) -> None:
    assert sorted(bins.counts.tolist()) == [100] * 8
    assert bins.fraction_different(bins.assign(groups([100] * 8, 1))) == 0
    assert bins.fraction_different(bins.assign(groups([10] * 8, 1))) == 0


def test_every_differing_share_is_counted(bins: Bins) -> None:
    assert bins.fraction_different(bins.assign(groups([100] * 7 + [0], 1))) == pytest.approx(1 / 8)
    assert bins.fraction_different(bins.assign(groups([400] + [0] * 7, 1))) == 1
    assert bins.fraction_different(bins.assign(groups([200, 0] * 4, 1))) == 1


def test_one_bin_in_twenty_differs_by_chance() -> None:
    random = np.random.default_rng(0)
    bins = Bins(torch.from_numpy(random.normal(size=(3000, 3))).float())
    fractions = [
        bins.fraction_different(bins.assign(torch.from_numpy(random.normal(size=(1000, 3))).float()))
        for _ in range(10)
    ]
    assert 0.01 < np.mean(fractions) < 0.12


@pytest.mark.parametrize(
    ("first", "second"),
    [([60, 40], [45, 55]), ([300, 100], [31, 19]), ([7, 3], [2, 8]), ([50, 1], [40, 0]), ([5, 5], [9, 9])],
)
def test_the_test_of_two_proportions_is_pearson_s(first: list[int], second: list[int]) -> None:
    expected = chi2_contingency([first, second], correction=False).pvalue
    assert _two_proportions(np.array(first), np.array(second)) == pytest.approx([expected, expected])


def test_fewer_clips_than_bins_are_rejected() -> None:
    with pytest.raises(ValueError, match="10 reference clips for 50 bins"):
        Bins(torch.zeros(10, 2))
