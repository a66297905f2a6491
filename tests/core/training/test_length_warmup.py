"""A length warm-up reads the planned tokens, at constant tokens per step, and resumes anywhere."""

import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import core.training.report
from core.training import (
    Stage,
    StagedBatches,
    TrainingInterrupted,
    doubling_lengths,
    plan_stages,
    stage_table,
)
from tests.core.training.toy import assert_same_run, events, toy_batches, toy_run

PAPER_SEGMENTS, PAPER_STEP = 34_021, 2**24
STAGES = [Stage(2, 16, 0, 3), Stage(4, 8, 3, 4), Stage(8, 4, 7, 5)]


def paper_epoch(length: int) -> int:
    """Return the tokens of an epoch (Gu and Dao 2023, section E.3): two windows per segment above 2^17."""
    return PAPER_SEGMENTS * (2**17 if length <= 2**17 else 2 * length)


def test_the_paper_schedule_has_19_137_steps() -> None:
    lengths = doubling_lengths(2**10, 2**20)
    stages = plan_stages({length: 2 * paper_epoch(length) for length in lengths}, PAPER_STEP)
    assert [stage.length for stage in stages] == [2**power for power in range(10, 21)]
    assert [stage.batch_size for stage in stages] == [2**power for power in range(14, 3, -1)]
    assert stages[-1].end == sum(stage.steps for stage in stages) == 19_137
    assert all(stage.steps in (531, 532) for stage in stages[:8])
    assert [stage.steps for stage in stages[8:]] == [2_126, 4_253, 8_505]
    assert sum(stage.tokens for stage in stages) == 19_137 * PAPER_STEP


@given(
    first=st.integers(1, 9),
    tokens=st.lists(st.floats(1.0, 20.0), min_size=1, max_size=8),
    multiple=st.integers(1, 3),
)
def test_every_boundary_is_within_half_a_step_of_its_tokens(
    first: int, tokens: list[float], multiple: int
) -> None:
    lengths = doubling_lengths(first, first << (len(tokens) - 1))
    step = lengths[-1] * multiple
    stages = plan_stages({length: n * step for length, n in zip(lengths, tokens, strict=True)}, step)
    assert [stage.length for stage in stages] == lengths
    assert stages[0].first_step == 0
    assert all(before.end == after.first_step for before, after in pairwise(stages))
    assert all(stage.tokens == stage.steps * step for stage in stages)
    for count, stage in enumerate(stages, 1):
        assert abs(stage.end - sum(tokens[:count])) <= 0.5 + 1e-9


def test_impossible_plans_are_rejected() -> None:
    assert doubling_lengths(6, 6) == [6]
    for first, last in ((3, 8), (8, 4), (0, 4), (-2, 4), (3, 7)):
        with pytest.raises(ValueError, match=f"Doubling {first} never gives {last}"):
            doubling_lengths(first, last)
    with pytest.raises(ValueError, match="48 tokens per step are not a whole number of sequences of 32"):
        plan_stages({16: 96, 32: 96}, 48)
    with pytest.raises(ValueError, match="stage of length 32 has 20 tokens, too few for a step of 64"):
        plan_stages({16: 128, 32: 20}, 64)


def test_the_table_lists_all_stages() -> None:
    table = stage_table(plan_stages({1024: 4e6, 2048: 2e6}, 2**17)).splitlines()
    assert table[0].split() == ["length", "sequences", "first", "step", "steps", "tokens"]
    assert [line.split() for line in table[1:]] == [
        ["1,024", "128", "1", "31", "4,063,232"],
        ["2,048", "64", "32", "15", "1,966,080"],
        ["total", "46", "6,029,312"],
    ]
    assert len({len(line) for line in table}) == 1


def test_each_stage_reads_its_data_from_the_start() -> None:
    def of_length(length: int) -> Any:
        return lambda step, rows: (length, step, rows)

    batches: Any = StagedBatches(STAGES, {length: of_length(length) for length in (2, 4, 8)})
    read = [batches(step, range(3)) for step in range(12)]
    assert read == [(stage.length, step, range(3)) for stage in STAGES for step in range(stage.steps)]


def test_stages_are_logged_and_summarised(tmp_path: Path) -> None:
    progress = toy_run(tmp_path / "run", stages=STAGES, log_every=5, validate_every=100, poisoned=(2,))
    lines = events(tmp_path / "run")
    assert [(line["event"], line["step"]) for line in lines] == [
        *(("skipped", 3), ("stage", 3), ("validation", 3)),
        *(("train", 5), ("skipped", 6), ("train", 7), ("stage", 7), ("validation", 7)),
        *(("skipped", 10), ("train", 12), ("stage", 12), ("validation", 12)),
    ]
    assert [line["length"] for line in lines if line["event"] == "train"] == [4, 4, 8]
    assert progress.tokens == 12 * 32
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [(stage["length"], stage["tokens"]) for stage in summary["stages"]] == [
        (2, 96),
        (4, 128),
        (8, 160),
    ]
    assert sum(stage["seconds"] for stage in summary["stages"]) == pytest.approx(progress.seconds)
    assert all(0 <= stage["data_wait"] <= 1 for stage in summary["stages"])
    assert all(
        stage["tokens_per_second"] == pytest.approx(stage["tokens"] / stage["seconds"])
        for stage in summary["stages"]
    )


@pytest.mark.parametrize("at", [(2, 1), (4, 1), (4, 3), (8, 0), (8, 2)])
def test_run_stopped_in_any_stage_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, int]
) -> None:
    toy_run(tmp_path / "whole", stages=STAGES)

    def with_signal(
        step_in_stage: int, rows: range, poisoned: tuple[int, ...] = (), length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        if (length, step_in_stage) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy_batches(step_in_stage, rows, poisoned, length)

    with monkeypatch.context() as patched:
        patched.setattr("tests.core.training.toy.toy_batches", with_signal)
        with pytest.raises(TrainingInterrupted, match="of 12"):
            toy_run(tmp_path / "stopped", stages=STAGES)
    toy_run(tmp_path / "stopped", stages=STAGES, resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_the_plot_marks_the_ends_of_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    class SeenFigure(core.training.report.Figure):
        def savefig(self, *arguments: Any, **options: Any) -> None:
            drawn.append(self.axes[0])
            super().savefig(*arguments, **options)

    monkeypatch.setattr(core.training.report, "Figure", SeenFigure)
    for name, stages in (("staged", STAGES), ("constant", ())):
        toy_run(tmp_path / name, stages=stages)
    assert [text.get_text().strip() for text in drawn[0].texts] == ["2", "4", "8"]
    assert [text.get_position()[0] for text in drawn[0].texts] == [3, 7, 12]
    assert len(drawn[1].texts) == 0
