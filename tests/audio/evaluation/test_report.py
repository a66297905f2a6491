"""Selection by likelihood: the published thresholds keep the middle of the ranking."""

import pytest
import torch

from audio.evaluation.report import select_by_likelihood


def test_the_bottom_40_and_the_top_5_per_cent_are_excluded() -> None:
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    indices = select_by_likelihood(order.double())
    assert sorted(order[indices].tolist()) == list(range(40, 95))
    assert indices.tolist() == sorted(indices.tolist())


def test_5120_published_clips_give_2816_scored_ones() -> None:
    assert len(select_by_likelihood(torch.arange(5120.0))) == 2816


def test_likelihoods_that_cannot_be_ranked_are_refused() -> None:
    with pytest.raises(ValueError, match="hold NaN"):
        select_by_likelihood(torch.tensor([0.0, torch.nan]))
