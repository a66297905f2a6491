"""Pretrain a model of raw waveforms: predict each sample from the previous ones.

    python -m pipelines.audio_pretrain --config digits
    python -m pipelines.audio_pretrain data.source=folder data.folder=recordings run.dir=runs/mine
    python -m pipelines.audio_pretrain run.dir=runs/mine --resume
    torchrun --nproc-per-node 8 -m pipelines.audio_pretrain --config sc09_small data.folder=data/sc09

The run folder contains config.yaml, metrics.jsonl, TensorBoard events, checkpoints, the last validation as
validation.json and bits_by_position.png, and at the end summary.json and loss_curve.png.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from audio.data.config import AudioData, AudioDataConfig, open_audio_data
from audio.data.dataset import AudioDataset
from audio.data.pack import PackedAudio
from audio.data.waveform import RATE
from audio.data.windows import Windows, evenly_spaced
from audio.evaluation.likelihood import Likelihood, likelihood
from audio.evaluation.plots import draw_positions
from audio.models import AudioModel, AudioModelConfig, new_model
from core.models.multiscale import MultiscaleModel
from core.storage.atomic import write_json
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
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config

TABLE, PICTURE = "validation.json", "bits_by_position.png"
PLANNED_STEPS = 100
"""Number of first steps for which the plan computes the share of padding."""


@dataclass(frozen=True)
class Config:
    data: AudioDataConfig = field(default_factory=AudioDataConfig)
    model: AudioModelConfig = field(default_factory=AudioModelConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/audio_pretrain"))
    resume: bool = field(default=False, metadata={"help": "resume the run in run.dir with its configuration"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and exit"})


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_pretrain", __doc__ or "")
    progress = pretrain(config)
    if progress is not None:
        print(report(progress, config))


def pretrain(config: Config) -> Progress | None:
    """Train as configured. Return the results on rank 0; None on other ranks and in a dry run."""
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
    """Return the configuration with the sha256 of the clips and the classes of the model."""
    classes = list(data.packed.classes) if config.data.conditional else []
    return replace(
        config,
        data=replace(config.data, sha256=data.packed.sha256, classes=classes),
        model=config.model.with_classes(len(classes)),
    )


def training_data(config: Config, data: AudioData) -> AudioDataset:
    """Return the training windows in shuffled epochs."""
    train, conditional = config.train, config.data.conditional
    return AudioDataset(data.packed, data.windows["train"], train.batch_size, train.seed, conditional)


def training_batches(config: Config, dataset: AudioDataset, model: AudioModel) -> Batches:
    """Return the batches of each step, padded to the longest window, or packed.

    Raises ValueError if packing is set but the model or truncated backpropagation does not allow it.
    """
    if not config.data.packed:
        return dataset
    if not isinstance(model, MultiscaleModel):
        raise ValueError(
            f"model.kind={config.model.kind} does not support packed windows. Set data.packed=false."
        )
    if config.train.backpropagation_length is not None:
        raise ValueError(
            "train.backpropagation_length does not apply to packed windows. Set data.packed=false or "
            "train.backpropagation_length=null."
        )
    return partial(dataset.packed, frame=model.frame)


def validate_of(config: Config, data: AudioData, world: World) -> Validate | None:
    """Return the validation of a run; None if there are no validation clips."""
    if "valid" not in data.windows:
        return None
    windows = evenly_spaced(data.windows["valid"], config.data.validation_windows)
    return validation(data.packed, windows, config.data.conditional, world, Path(config.run.dir))


def plan(config: Config, data: AudioData, dataset: AudioDataset, model: AudioModel) -> str:
    """Describe the clips, the windows of each split, the model, the steps and the padding of a run."""
    packed, train = data.packed, config.train
    lines = [
        f"clips     {packed.name} in {config.data.folder}: {len(packed.clips):,}, "
        f"{len(packed.codes) / RATE:,.0f} s at {RATE:,} Hz, quantizer {packed.quantizer}"
    ]
    lines += [
        f"{split:<9} {len(windows):,} windows, {windows.lengths.sum():,} samples, "
        f"longest {windows.lengths.max():,}"
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
        hint = "; data.packed=true avoids it" if config.model.kind == "unet" else ""
        lines.append(f"padding   {padding:.0%} of the computation{hint}")
    return "\n".join(lines)


def validation(
    audio: PackedAudio, windows: Windows, conditional: bool, world: World, folder: Path
) -> Validate:
    """Return a function that measures a model on held-out windows.

    Rank 0 replaces TABLE, with all bins of positions, and PICTURE, with bits against position, in the folder.
    """

    def validate(model: nn.Module) -> dict[str, float]:
        measured = likelihood(model, audio, windows, world, conditional)
        if world.is_rank_0:
            write_table(measured, audio, folder / TABLE)
            draw_positions({f"{len(windows):,} windows of {audio.name}": measured}, folder / PICTURE)
        return measured.metrics()

    return validate


def write_table(measured: Likelihood, audio: PackedAudio, path: Path) -> None:
    """Write a likelihood as JSON: data, quantizer, mean bits, and one row per bin of positions."""
    content = {
        "data": audio.name,
        "quantizer": audio.quantizer,
        "samples": sum(measured.samples),
        "bits_per_sample": measured.bits,
        "by_position": measured.rows(),
    }
    write_json(path, content)


def report(progress: Progress, config: Config) -> str:
    """Return the last line of a run."""
    bits = progress.validation.get("bits_per_sample")
    measured = f"held-out {bits:.4f} bits per sample" if bits is not None else "no held-out clips"
    return f"{progress.step:,} steps done, {measured}. The run folder is {config.run.dir}."


if __name__ == "__main__":
    sys.exit(main())
