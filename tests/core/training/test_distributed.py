"""The loss and update of a global batch do not depend on ranks and micro-batches."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.core.training.toy as toy
from core.checkpoints.checkpoint import latest_checkpoint
from core.training import (
    NonFiniteError,
    TrainingInterrupted,
    distributed_world,
    plan_stages,
    run_folder,
    single_process_world,
)
from tests.core.training.toy import ToyModel, events, start_world, tensors, toy_run

STEPS = 6


def losses(folder: Path) -> list[Any]:
    return [(line["event"], line["step"], line["loss"]) for line in events(folder)]


def run_in_world(folder: Path, micro_tokens: int | None) -> None:
    """Train; rank 1 starts with other parameters, which the broadcast replaces."""
    if os.environ.get("RANK") == "1":
        toy.ToyModel = lambda: ToyModel(seed=1)  # type: ignore[assignment, misc]
    toy_run(folder, micro_tokens=micro_tokens, steps=STEPS, poisoned=(3,))


def run_stages_in_world(folder: Path) -> None:
    """Train on two lengths."""
    toy_run(folder, stages=plan_stages({4: 64, 8: 64}, 32))


def run_with_signal_to_last_rank(folder: Path) -> None:
    """Train; send a signal to the last rank; exit with status 130 if it stops the run."""
    original = toy.toy_batches

    def with_signal(
        step: int, rows: range, poisoned: tuple[int, ...] = (), length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        if step == 2 and rows.start > 0:
            os.kill(os.getpid(), signal.SIGINT)
        return original(step, rows, poisoned, length)

    toy.toy_batches = with_signal
    try:
        toy_run(folder, steps=STEPS)
    except TrainingInterrupted:
        sys.exit(130)


def run_into_nan(folder: Path) -> None:
    """Train with poison on rank 0 only; exit with status 1 after NonFiniteError."""
    try:
        toy_run(folder, steps=STEPS, poisoned=tuple(range(STEPS)), max_skipped=2)
    except NonFiniteError:
        sys.exit(1)


def run_and_look(folder: Path) -> None:
    """Train on a slow disk; exit with status 1 if files of the run are missing at the end."""
    write = run_folder.save_checkpoint

    def write_slowly(*arguments: Any, **options: Any) -> None:
        time.sleep(0.3)
        write(*arguments, **options)

    run_folder.save_checkpoint = write_slowly
    with distributed_world():
        toy_run(folder, steps=2)
        if not (folder / "summary.json").exists():
            sys.exit(1)


def run_twice_in_one_world(folder: Path) -> None:
    """Train two runs that enter distributed_world each, inside an outer one."""
    with distributed_world() as world:
        for name in ("first", "second"):
            toy_run(folder / name, steps=2)
        if world.sum(torch.ones(1)).item() != 2:
            sys.exit(1)


def exit_codes(processes: list[Any]) -> list[int | None]:
    for process in processes:
        process.join(timeout=60)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("micro_tokens", [None, 1])
def test_two_ranks_equal_one(tmp_path: Path, micro_tokens: int | None) -> None:
    alone = tmp_path / "alone"
    toy_run(alone, steps=STEPS, poisoned=(3,))
    assert exit_codes(start_world(2, run_in_world, tmp_path / "two", micro_tokens)) == [0, 0]
    assert len(losses(alone)) == STEPS + 2
    for (*what, loss), (*expected_what, expected) in zip(
        losses(tmp_path / "two"), losses(alone), strict=True
    ):
        assert what == expected_what
        assert loss == (expected if expected == "nan" else pytest.approx(expected, abs=1e-6))
    assert_close(tmp_path / "two", alone)


def test_distributed_world_can_be_nested(tmp_path: Path) -> None:
    assert exit_codes(start_world(2, run_twice_in_one_world, tmp_path)) == [0, 0]
    assert losses(tmp_path / "first") == losses(tmp_path / "second") != []


def test_finished_run_is_complete_on_every_rank(tmp_path: Path) -> None:
    assert exit_codes(start_world(2, run_and_look, tmp_path / "run")) == [0, 0]


def test_two_ranks_equal_one_over_stages(tmp_path: Path) -> None:
    run_stages_in_world(tmp_path / "alone")
    assert exit_codes(start_world(2, run_stages_in_world, tmp_path / "two")) == [0, 0]
    assert [line["length"] for line in events(tmp_path / "two") if line["event"] == "train"] == [4, 4, 8, 8]
    assert_close(tmp_path / "two", tmp_path / "alone")


@pytest.mark.parametrize("micro_tokens", [28, 15, 1])
def test_micro_batches_equal_one_batch(tmp_path: Path, micro_tokens: int) -> None:
    toy_run(tmp_path / "one", steps=STEPS)
    toy_run(tmp_path / "parts", steps=STEPS, micro_tokens=micro_tokens)
    for (*what, loss), (*expected_what, expected) in zip(
        losses(tmp_path / "parts"), losses(tmp_path / "one"), strict=True
    ):
        assert what == expected_what
        assert loss == pytest.approx(expected, rel=1e-6)
    assert_close(tmp_path / "parts", tmp_path / "one")


def assert_close(one: Path, other: Path) -> None:
    """Check that the parameters of the last checkpoints agree to 1e-5."""
    first, second = tensors(one), tensors(other)
    for name in second:
        if name.startswith("model."):
            torch.testing.assert_close(first[name], second[name], atol=1e-5, rtol=0)


def test_signal_to_one_rank_stops_all_after_the_same_step(tmp_path: Path) -> None:
    assert exit_codes(start_world(2, run_with_signal_to_last_rank, tmp_path / "run")) == [130, 130]
    stopped_after = events(tmp_path / "run")[-1]["step"]
    assert stopped_after in (1, 2, 3)  # the third batch is fetched while the first step begins
    assert latest_checkpoint(tmp_path / "run").stem == f"step-{stopped_after:08d}"


def test_all_ranks_stop_together(tmp_path: Path) -> None:
    assert exit_codes(start_world(2, run_into_nan, tmp_path / "run")) == [1, 1]
    assert [line["event"] for line in events(tmp_path / "run")] == ["skipped", "skipped"]


def write_then_read(folder: Path) -> None:
    """Let rank 0 write slowly a file that all ranks read; each stores its content."""
    file = folder / "shared"

    def write_and_read() -> str:
        if not file.exists():
            time.sleep(0.3)
            file.write_text(f"by {os.environ['RANK']}")
        return file.read_text()

    with distributed_world() as world:
        (folder / f"seen by {world.rank}").write_text(world.rank_0_first(write_and_read))


def test_other_ranks_start_after_rank_0(tmp_path: Path) -> None:
    assert exit_codes(start_world(2, write_then_read, tmp_path)) == [0, 0]
    assert [(tmp_path / f"seen by {rank}").read_text() for rank in (0, 1)] == ["by 0", "by 0"]


def test_single_process_world_rejects_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert single_process_world().size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process: start it without torchrun"):
        single_process_world()
