"""The published selection keeps the middle of the ranking by likelihood."""

import pytest
import torch

from audio.evaluation.report import select_by_likelihood


def test_the_bottom_40_and_the_top_5_per_cent_are_left_out() -> None:
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    kept = select_by_likelihood(order.double())
    assert sorted(order[kept].tolist()) == list(range(40, 95))
    assert kept.tolist() == sorted(kept.tolist())


def test_of_the_published_5120_clips_2816_are_scored() -> None:
    assert len(select_by_likelihood(torch.arange(5120.0))) == 2816


def test_likelihoods_that_cannot_be_ranked_are_refused() -> None:
    with pytest.raises(ValueError, match="hold NaN"):
        select_by_likelihood(torch.tensor([0.0, torch.nan]))
