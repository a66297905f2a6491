"""Train the classifier of spoken digits for the metrics of generated audio.

    python -m pipelines.audio_classifier --config classifier_digits
    python -m pipelines.audio_classifier --config classifier_fsdd data.folder=data/fsdd
    python -m pipelines.audio_classifier run.dir=runs/classifier_fsdd --resume

The run folder contains the files of every run and, at the end, classifier.safetensors: the best weights on
the validation clips, calibrated on them, with accuracy on each split, the classes, and the sha256 of the
clips.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import nll_loss

from audio.data.config import AudioDataConfig, open_audio_data
from audio.data.labelled import ClassifierBatches, LabelledClips
from audio.data.pack import PackedAudio
from audio.evaluation.calibration import divide_logits, fit_temperature
from audio.evaluation.classifier import Classifier, ClassifierConfig
from audio.evaluation.trained_classifier import (
    FILE,
    TrainingRecord,
    load_classifier,
    predict,
    save_classifier,
)
from audio.metrics.predictions import Predictions
from core.checkpoints.checkpoint import load_weights
from core.training import RunFolder, TrainingConfig, Validate, World, distributed_world, start_run, train
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config

BATCH = 256
"""Clips per batch of the evaluation."""


@dataclass(frozen=True)
class Config:
    data: AudioDataConfig = field(default_factory=AudioDataConfig)
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    train: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=2e-3))
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/audio_classifier"))
    resume: bool = field(default=False, metadata={"help": "resume the run in run.dir with its configuration"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and exit"})


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_classifier", __doc__ or "")
    training = train_classifier(config)
    if training is not None:
        print(report(training, config))


def train_classifier(config: Config) -> TrainingRecord | None:
    """Train as configured. Return the record on rank 0; None on other ranks and in a dry run."""
    with distributed_world() as world:
        packed = open_audio_data(config.data, world).packed
        splits = {split: LabelledClips(packed, split) for split in ("train", "valid", "test")}
        config = replace(
            config,
            data=replace(config.data, sha256=packed.sha256),
            model=replace(config.model, classes=len(packed.classes)),
        )
        torch.manual_seed(config.train.seed)
        model = Classifier(config.model).to(world.device)
        run = start_run(config, world, plan(config, packed, model))
        if run is None:
            return None
        batches = ClassifierBatches(splits["train"], config.train.batch_size, config.train.seed)
        train(model, batches, config.train, run, world, "sample", validation(splits["valid"]))
        return publish(model, splits, run, world) if world.is_rank_0 else None


def validation(clips: LabelledClips) -> Validate:
    """Return a function that measures cross entropy (nats) and accuracy on held-out clips."""

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Classifier)
        predictions = predict_split(model, clips)
        loss = nll_loss(predictions.log_probabilities, clips.labels).item()
        return {"loss": loss, "accuracy": predictions.accuracy(clips.labels)}

    return validate


def predict_split(model: Classifier, clips: LabelledClips) -> Predictions:
    """Return the predictions for all clips of a split, in order."""
    starts = range(0, len(clips), BATCH)
    return predict(model, (clips.seconds(range(start, min(start + BATCH, len(clips)))) for start in starts))


def publish(
    model: Classifier, splits: dict[str, LabelledClips], run: RunFolder, world: World
) -> TrainingRecord:
    """Calibrate the best weights of a run and write them, with their accuracy on every split."""
    header = load_weights(run.checkpoints / "best.safetensors", model)
    model.eval()
    held_out = predict_split(model, splits["valid"])
    temperature = fit_temperature(held_out.log_probabilities, splits["valid"].labels)
    divide_logits(model, temperature)
    packed = splits["train"].audio
    accuracy = {name: predict_split(model, clips).accuracy(clips.labels) for name, clips in splits.items()}
    training = TrainingRecord(
        packed.name, packed.sha256, packed.quantizer, packed.counts, packed.classes, accuracy, temperature
    )
    save_classifier(run.path / FILE, model, training, header.step)
    return load_classifier(run.path, world.device).training


def plan(config: Config, packed: PackedAudio, model: Classifier) -> str:
    """Describe the clips of each split, the classifier and the steps of a run."""
    train = config.train
    epochs = train.steps * train.batch_size / packed.counts["train"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return "\n".join(
        [
            f"clips     {packed.name} in {config.data.folder}, quantizer {packed.quantizer}: "
            + ", ".join(f"{count:,} for {split}" for split, count in packed.counts.items()),
            f"model     {parameters:,} parameters, {config.model.features:,} features",
            f"training  {train.steps:,} steps of {train.batch_size:,} clips, {epochs:.1f} epochs",
        ]
    )


def report(training: TrainingRecord, config: Config) -> str:
    """Return the last line of a run."""
    right = ", ".join(f"{fraction:.2%} of {split}" for split, fraction in training.accuracy.items())
    return f"Right: {right}. {Path(config.run.dir) / FILE} is the classifier."


if __name__ == "__main__":
    sys.exit(main())
