"""Outputs of a run, its failures, and exact resumes."""

import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.checkpoints.checkpoint import latest_checkpoint, step_checkpoints
from core.training import (
    NonFiniteError,
    RunFolder,
    TrainingConfig,
    TrainingInterrupted,
    plan_stages,
    train,
)
from core.training.distributed import World
from core.training.metrics import read_metrics
from core.training.step import autocast
from tests.core.training.toy import (
    ALONE,
    CPU,
    ToyModel,
    assert_same_run,
    events,
    tensors,
    toy_batches,
    toy_run,
)


def test_run_writes_all_its_files(tmp_path: Path) -> None:
    progress = toy_run(tmp_path / "run")
    folder = tmp_path / "run"
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines if line["event"] == "train"] == list(range(1, 13))
    assert [line["step"] for line in lines if line["event"] == "validation"] == [4, 8, 12]
    assert lines[0].keys() >= {"loss", "gradient_norm", "learning_rate", "tokens_per_second", "data_wait"}
    assert [line["length"] for line in lines[:3]] == [5, 6, 7]
    assert [path.stem for path in step_checkpoints(folder / "checkpoints")] == [
        "step-00000009",
        "step-00000012",
    ]
    assert (folder / "checkpoints" / "best.safetensors").exists()
    assert list((folder / "tensorboard").iterdir())
    assert (folder / "loss_curve.png").read_bytes().startswith(b"\x89PNG")

    summary = json.loads((folder / "summary.json").read_text())
    losses = {line["step"]: line["loss"] for line in lines if line["event"] == "validation"}
    assert summary["steps"] == progress.step == 12
    assert summary["tokens"] == lines[-2]["tokens"] == 8 * sum(5 + step % 3 for step in range(12))
    assert summary["validation"]["loss"] == losses[12]
    assert summary["best"] == {"step": min(losses, key=losses.__getitem__), "loss": min(losses.values())}
    assert summary["bases_per_second"] > 0
    assert summary["wall_seconds"] >= summary["training_seconds"] > 0


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    def same_every_step(step: int, rows: range) -> tuple[Tensor, Tensor]:
        return toy_batches(0, rows)

    config = TrainingConfig(steps=150, learning_rate=3e-2, log_every=50)
    run = RunFolder(tmp_path / "run", {})
    assert train(ToyModel(width=16), same_every_step, config, run, ALONE).loss < 0.3


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_run_stopped_by_a_signal_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float, capfd: pytest.CaptureFixture[str]
) -> None:
    toy_run(tmp_path / "whole", ema=ema)

    def with_signal(step: int, *arguments: Any) -> tuple[Tensor, Tensor]:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy_batches(step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("tests.core.training.toy.toy_batches", with_signal)
        with pytest.raises(TrainingInterrupted):
            toy_run(tmp_path / "stopped", ema=ema)
    stopped_after = events(tmp_path / "stopped")[-1]["step"]
    assert stopped_after in (4, 5)
    assert latest_checkpoint(tmp_path / "stopped").stem == f"step-{stopped_after:08d}"
    assert "resume=true" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    toy_run(tmp_path / "stopped", ema=ema, resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    toy_run(tmp_path / "run")
    before = events(tmp_path / "run"), tensors(tmp_path / "run")
    toy_run(tmp_path / "run", resume=True)
    assert events(tmp_path / "run") == before[0]
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in tensors(tmp_path / "run").items())


def test_non_finite_step_is_skipped_and_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    progress = toy_run(tmp_path / "run", poisoned=(5, 11), ema=0.9, checkpoint_every=1, keep=12)
    skipped = [line for line in events(tmp_path / "run") if line["event"] == "skipped"]
    assert [(line["step"], line["loss"], line["skipped_in_a_row"]) for line in skipped] == [
        (6, "nan", 1),
        (12, "nan", 1),
    ]
    assert (progress.skipped, progress.skipped_in_a_row) == (2, 1)
    assert "Step 6 was skipped, because it is not finite (loss nan" in capfd.readouterr().err
    checkpoints = [load_file(path) for path in step_checkpoints(tmp_path / "run" / "checkpoints")]
    unchanged = [
        all(torch.equal(before[name], after[name]) for name in before)
        for before, after in itertools.pairwise(checkpoints)
    ]
    assert unchanged == [step in (6, 12) for step in range(2, 13)]
    assert all(tensor.isfinite().all() for tensor in checkpoints[-1].values())


def test_too_many_skipped_steps_end_the_run(tmp_path: Path) -> None:
    bad = (1, 4, 5, 7, 8, 9)
    with pytest.raises(NonFiniteError, match=r"at step 10: 3 steps in a row .*step-00000009.safetensors"):
        toy_run(tmp_path / "run", poisoned=bad, max_skipped=3)
    skipped = [line for line in events(tmp_path / "run") if line["event"] == "skipped"]
    assert [line["skipped_in_a_row"] for line in skipped] == [1, 1, 2, 1, 2, 3]
    assert all(tensor.isfinite().all() for tensor in tensors(tmp_path / "run").values())
    with pytest.raises(NonFiniteError, match="at step 10"):
        toy_run(tmp_path / "run", poisoned=bad, max_skipped=3, resume=True)


def test_batch_without_targets_has_loss_zero(tmp_path: Path) -> None:
    def nothing(step: int, rows: range) -> tuple[Tensor, Tensor]:
        inputs, targets = toy_batches(step, rows)
        return inputs, torch.full_like(targets, -100)

    model = ToyModel()
    progress = train(model, nothing, TrainingConfig(steps=2), RunFolder(tmp_path / "run", {}), ALONE)
    assert (progress.loss, progress.skipped) == (0.0, 0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_data_wait_is_logged(tmp_path: Path) -> None:
    def slow(step: int, rows: range) -> tuple[Tensor, Tensor]:
        time.sleep(0.1)
        return toy_batches(step, rows)

    run = RunFolder(tmp_path / "run", {})
    train(ToyModel(), slow, TrainingConfig(steps=4, log_every=1), run, ALONE)
    assert 0.5 < read_metrics(run.metrics)[-1]["data_wait"] <= 1.0
    assert 0.5 < json.loads((run.path / "summary.json").read_text())["data_wait"] <= 1.0


def test_indivisible_batch_is_rejected_before_training(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", {})
    config, world = TrainingConfig(batch_size=10), World(0, 4, CPU)
    with pytest.raises(ValueError, match=r"10 sequences does not divide over 4 processes.* multiple of 4"):
        train(ToyModel(), toy_batches, config, run, world)
    stages = plan_stages({4: 96, 8: 96}, 48)  # of 12 and of 6 sequences
    with pytest.raises(ValueError, match="6 sequences does not divide over 4 processes"):
        train(ToyModel(), toy_batches, config, run, world, stages=stages)
    assert not list(run.checkpoints.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_trains_in_bf16_and_resumes(tmp_path: Path) -> None:
    world = World(0, 1, torch.device("cuda", 0))
    for steps, resume in ((4, False), (8, True)):
        run = RunFolder(tmp_path / "run", {}, resume=resume)
        config = TrainingConfig(steps=steps, log_every=1, ema=0.5)
        progress = train(ToyModel().cuda(), toy_batches, config, run, world)
        assert (progress.step, progress.skipped) == (steps, 0)
    lines = read_metrics(run.metrics)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(line["peak_memory_gib"] > 0 for line in lines)
    assert autocast(config, world.device).fast_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision(precision: str, dtype: torch.dtype) -> None:
    linear = torch.nn.Linear(2, 2)
    with autocast(TrainingConfig(precision=precision), CPU):  # type: ignore[arg-type]
        assert linear(torch.zeros(1, 2)).dtype == dtype


def test_ranks_partition_the_rows() -> None:
    shares = [World(rank, 4, CPU).rows(24) for rank in range(4)]
    assert shares == [range(6 * rank, 6 * rank + 6) for rank in range(4)]
    for batch_size in (10, 2):
        with pytest.raises(ValueError, match="does not divide over 4"):
            World(0, 4, CPU).rows(batch_size)
