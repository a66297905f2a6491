"""Pretrain a model of raw waveforms: predict each sample from those before it.

    python -m pipelines.audio_pretrain --config digits
    python -m pipelines.audio_pretrain data.source=folder data.folder=recordings run.dir=runs/mine
    python -m pipelines.audio_pretrain run.dir=runs/mine --resume
    torchrun --nproc-per-node 8 -m pipelines.audio_pretrain --config sc09_small data.folder=data/sc09

The run folder gets config.yaml, metrics.jsonl, TensorBoard events, checkpoints, the last validation as a
table and a picture, and at the end summary.json and loss_curve.png.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from audio.data.dataset import AudioDataset
from audio.data.waveform import RATE
from core.models.multiscale import MultiscaleModel
from core.training import (
    Batches,
    TrainingConfig,
    Validate,
    World,
    distributed_world,
    start_run,
    train,
)
from core.training.progress import Progress
from pipelines.common.audio_data import AudioData, AudioDataConfig, evenly_spaced, open_audio_data
from pipelines.common.audio_model import AudioModel, AudioModelConfig, new_model
from pipelines.common.audio_validation import validation
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config

PLANNED_STEPS = 100
"""The first steps, whose padding the plan tells of."""


@dataclass(frozen=True)
class Config:
    data: AudioDataConfig = field(default_factory=AudioDataConfig)
    model: AudioModelConfig = field(default_factory=AudioModelConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/audio_pretrain"))
    resume: bool = field(default=False, metadata={"help": "continue the run in run.dir, as configured then"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and end"})


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_pretrain", __doc__ or "")
    progress = pretrain(config)
    if progress is not None:
        print(report(progress, config))


def pretrain(config: Config) -> Progress | None:
    """Train as configured and fill run.dir. Returns the results; None in a dry run and beside process 0."""
    with distributed_world() as world:
        data = open_audio_data(config.data, world)
        config = resolved(config, data)
        torch.manual_seed(config.train.seed)
        model = new_model(config.model).to(world.device)
        validate = validate_of(config, data, world)
        dataset = training_data(config, data)
        batches = training_batches(config, dataset, model)
        run = start_run(config, world, plan(config, data, dataset, model))
        if run is None:
            return None
        progress = train(model, batches, config.train, run, world, "sample", validate)
        return progress if world.is_rank_0 else None


def resolved(config: Config, data: AudioData) -> Config:
    """Return the configuration with the checksum of the clips and the classes of the model."""
    classes = list(data.packed.classes) if config.data.conditional else []
    return replace(
        config,
        data=replace(config.data, sha256=data.packed.sha256, classes=classes),
        model=config.model.with_classes(len(classes)),
    )


def training_data(config: Config, data: AudioData) -> AudioDataset:
    """The training windows in shuffled epochs."""
    train, conditional = config.train, config.data.conditional
    return AudioDataset(data.packed, data.windows["train"], train.batch_size, train.seed, conditional)


def training_batches(config: Config, dataset: AudioDataset, model: AudioModel) -> Batches:
    """The windows of each step, padded to the longest, or packed.

    Raises ValueError where packing is asked for that the model, or training in pieces, does not allow.
    """
    if not config.data.packed:
        return dataset
    if not isinstance(model, MultiscaleModel):
        raise ValueError(f"A {config.model.kind} cannot read packed windows: set data.packed=false.")
    if config.train.backpropagation_length is not None:
        raise ValueError(
            "Packed windows are never cut: set data.packed=false or train.backpropagation_length=null."
        )
    return partial(dataset.packed, frame=model.frame)


def validate_of(config: Config, data: AudioData, world: World) -> Validate | None:
    """What measures a model's held-out bits per sample; None where nothing is held out."""
    if "valid" not in data.windows:
        return None
    windows = evenly_spaced(data.windows["valid"], config.data.validation_windows)
    return validation(data.packed, windows, config.data.conditional, world, Path(config.run.dir))


def plan(config: Config, data: AudioData, dataset: AudioDataset, model: AudioModel) -> str:
    """What a run will do: the clips, the windows of each split, the model, the amount, what is padding."""
    packed, train = data.packed, config.train
    lines = [
        f"clips     {packed.name} in {config.data.folder}: {len(packed.clips):,}, "
        f"{len(packed.codes) / RATE:,.0f} s at {RATE:,} Hz, quantizer {packed.quantizer}"
    ]
    lines += [
        f"{split:<9} {len(windows):,} windows, {windows.lengths.sum():,} samples, "
        f"the longest {windows.lengths.max():,}"
        for split, windows in data.windows.items()
    ]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    epochs = train.steps * train.batch_size / len(data.windows["train"])
    lines += [
        f"model     {config.model.kind}, {parameters:,} parameters"
        + (f", conditional on {len(config.data.classes)} classes" if config.data.conditional else ""),
        f"training  {train.steps:,} steps of {train.batch_size:,} windows, {epochs:.2f} epochs",
    ]
    padding = dataset.padding_share(min(train.steps, PLANNED_STEPS))
    if padding and not config.data.packed:
        hint = ", which data.packed=true leaves out" if config.model.kind == "unet" else ""
        lines.append(f"padding   {padding:.0%} of what is computed{hint}")
    return "\n".join(lines)


def report(progress: Progress, config: Config) -> str:
    bits = progress.validation.get("bits_per_sample")
    measured = f"held-out {bits:.4f} bits per sample" if bits is not None else "nothing held out"
    return f"{progress.step:,} steps done, {measured}; {config.run.dir} holds the run."


if __name__ == "__main__":
    sys.exit(main())
