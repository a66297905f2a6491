"""A warm-up reads whole epochs of doubling windows at constant bases per step, and ends with the run."""

from pathlib import Path

import pytest
import torch

from bio.windows.training_data import (
    DataConfig,
    LengthWarmupConfig,
    TrainingData,
    open_data,
    training_batches,
)
from core.training import Stage, TrainingConfig, World


def open_tiny(fasta: Path, length: int, **options: object) -> tuple[TrainingData, DataConfig]:
    config = DataConfig(str(fasta), length=length, **options)  # type: ignore[arg-type]
    return open_data(config, World(0, 1, torch.device("cpu"))), config


def test_stages_are_epochs_and_the_last_takes_the_rest(run_fasta: Path) -> None:
    """Use 16 segments of 64 bases: tiled up to length 64, two windows each above (section E.3)."""
    rows = [f"chr1\t{start}\t{start + 64}\ttrain" for start in range(0, 1024, 64)]
    Path("segments.bed").write_text("\n".join([*rows, "chr2\t0\t512\tvalid\n"]))
    data, config = open_tiny(run_fasta, 256, bed="segments.bed", split="paper")
    train = TrainingConfig(steps=40, batch_size=1)
    batches, stages = training_batches(data, config, train, LengthWarmupConfig(start=16, epochs=1.0))
    assert stages == [
        Stage(16, 16, 0, 4),
        Stage(32, 8, 4, 4),
        Stage(64, 4, 8, 4),
        Stage(128, 2, 12, 16),
        Stage(256, 1, 28, 12),
    ]
    for step in (0, 3, 4, 11, 12, 27, 28, 39):
        stage = next(stage for stage in stages if step < stage.end)
        inputs, targets = batches(step, range(stage.batch_size))
        assert inputs.shape == targets.shape == (stage.batch_size, stage.length)


def test_a_stage_of_one_epoch_reads_every_window_once(run_fasta: Path) -> None:
    data, config = open_tiny(run_fasta, 32, split="paper", valid_fraction=0.5)
    train = TrainingConfig(steps=200, batch_size=1)
    batches, stages = training_batches(data, config, train, LengthWarmupConfig(start=16, epochs=1.0))
    read = [tuple(row.tolist()) for step in range(stages[0].steps) for row in batches(step, range(2))[0]]
    assert len(set(read)) == 1500 // 16 + 1000 // 16
    assert len(read) == len(set(read)) + 1  # an odd number of windows fills its last step


def test_without_a_warm_up_there_is_one_length(run_fasta: Path) -> None:
    data, config = open_tiny(run_fasta, 48)
    batches, stages = training_batches(data, config, TrainingConfig(batch_size=3), LengthWarmupConfig())
    assert stages == []
    assert batches(7, range(3))[0].shape == (3, 48)


@pytest.mark.parametrize(
    ("start", "steps", "message"),
    [
        (10, 100, "Doubling 10 never gives 32"),
        (8, 3, "before 32 bases take 17,984 bases; the run has 768. Raise train.steps"),
        (64, 100, "Doubling 64 never gives 32"),
    ],
)
def test_impossible_plans_are_errors(run_fasta: Path, start: int, steps: int, message: str) -> None:
    data, config = open_tiny(run_fasta, 32)
    with pytest.raises(ValueError, match=message):
        training_batches(data, config, TrainingConfig(steps=steps), LengthWarmupConfig(start))


@pytest.mark.parametrize(("options", "key"), [({"start": 0}, "start"), ({"epochs": 0.0}, "epochs")])
def test_values_outside_their_range_are_errors(options: dict[str, float], key: str) -> None:
    with pytest.raises(ValueError, match=f"length_warmup.{key} is 0"):
        LengthWarmupConfig(**options)  # type: ignore[arg-type]
