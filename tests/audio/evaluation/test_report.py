"""Report: selection by likelihood, and the text table."""

import pytest
import torch

from audio.evaluation.report import (
    ALL,
    SELECTED,
    Measurement,
    Selection,
    select_by_likelihood,
    text_table,
)
from audio.evaluation.sources import Source
from audio.metrics.bootstrap import Estimate


def test_the_bottom_40_and_the_top_5_per_cent_are_excluded() -> None:
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    indices = select_by_likelihood(order.double())
    assert sorted(order[indices].tolist()) == list(range(40, 95))
    assert indices.tolist() == sorted(indices.tolist())


def test_5120_published_clips_give_2816_scored_ones() -> None:
    assert len(select_by_likelihood(torch.arange(5120.0))) == 2816


def test_likelihoods_that_cannot_be_ranked_are_rejected() -> None:
    with pytest.raises(ValueError, match="hold NaN"):
        select_by_likelihood(torch.tensor([0.0, torch.nan]))


def test_text_table_aligns_one_line_per_selection() -> None:
    source = Source("mamba", "model", {}, lambda: iter(()), [], [], facts={"nll_bits": 2.5})
    metrics = {"fid": Estimate(80.25, 75.25, 85.25), "is": Estimate(2.0)}
    selections = {ALL: Selection(2048, metrics), SELECTED: Selection(1126, {"fid": Estimate(7.0)})}
    head, *lines = text_table([Measurement(source, 0.5, selections, [])]).splitlines()
    assert head.split() == [
        "clips",
        "accuracy",
        "NLL",
        "FID",
        "FID",
        "at",
        "infinity",
        "IS",
        "modified",
        "IS",
        "AM",
        "NDB",
    ]
    assert lines[0].split("  ")[0] == "mamba"
    assert lines[0].split() == ["mamba", "2,048", "50.0%", "2.500", "80.250", "+-", "5.000", "2.000"]
    assert lines[1].split() == ["mamba,", "40/95", "1,126", "7.000"]
    assert lines[1].index("1,126") == lines[0].index("2,048") == head.index("clips")
