"""Evaluate generated digits: sample models or read folders of audio files, and compare with recordings.

    python -m pipelines.audio_evaluate --config evaluate_digits models=[runs/digits]
    python -m pipelines.audio_evaluate --config evaluate_fsdd models=[runs/mamba,runs/wavenet] count=10240

Generated, training and test clips are all measured against the training clips. As in published results,
models are also measured on the clips between 40 and 95 per cent of the likelihood. The run folder holds
evaluation.json, pictures, and for each source a table of its clips, their features and WAV files. The same
command continues an interrupted evaluation without repeating work.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from audio.data.config import AudioDataConfig, open_audio_data
from audio.data.pack import PackedAudio
from audio.data.waveform import RATE
from audio.evaluation.likelihood import likelihood
from audio.evaluation.plots import draw_metrics, draw_shares
from audio.evaluation.report import (
    ALL,
    METRICS,
    REPORT,
    SELECTED,
    Measurement,
    measure_sources,
    text_table,
    write_report,
)
from audio.evaluation.sources import SOUNDS, Source, classify_source, folder_source, split_source
from audio.evaluation.trained_classifier import TrainedClassifier, load_classifier, require_classes
from audio.metrics.suite import Mode
from audio.models import AudioCheckpoint, trained_model
from core.checkpoints.checkpoint import read_header
from core.decoding.sampling import SamplingConfig
from core.storage.atomic import replaced_atomically, write_json
from core.training import World, single_process_world
from core.training.metrics import standard_json
from kernels.provenance import commit, hardware, write_results
from pipelines import audio_sample
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config
from pipelines.common.publication import read_published
from pipelines.common.sampling import file_sha256

LIKELIHOOD = "likelihood.json"
RESERVED_NAMES = ("train", "test", "", "..")
"""Names no source may have: the folders of the splits, the run folder, and its parent."""


@dataclass(frozen=True)
class Config:
    classifier: str = field(
        metadata={"help": "run folder of audio_classifier, or its classifier.safetensors"}
    )
    data: AudioDataConfig = field(default_factory=AudioDataConfig)
    models: list[str] = field(
        default_factory=list, metadata={"help": "run folders or checkpoints of audio_pretrain to sample from"}
    )
    folders: list[str] = field(
        default_factory=list, metadata={"help": "folders of audio files, such as those of audio_sample"}
    )
    names: list[str] = field(
        default_factory=list,
        metadata={"help": "names of the models, then of the folders; empty: the last part of each path"},
    )
    count: int = field(default=2048, metadata={"help": "number of clips to sample from each model"})
    seconds: float = field(
        default=1.0,
        metadata={"help": "length of a sampled clip (seconds); the classifier pads or cuts to one second"},
    )
    batch_size: int = field(default=512, metadata={"help": "number of clips sampled at once"})
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = field(default=0, metadata={"help": "seed of the samples and of the bootstrap"})
    mode: Mode = field(
        default="correct",
        metadata={"help": "variant of IS and modified IS; paper: with the faults of the published code"},
    )
    resamples: int = field(
        default=100, metadata={"help": "number of bootstrap resamples for 95 % intervals; 0: no intervals"}
    )
    results: str | None = field(
        default=None, metadata={"help": "published table to update, such as results/audio.json"}
    )
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/audio_evaluation"))

    def __post_init__(self) -> None:
        for name, least in (("count", 2), ("batch_size", 1), ("resamples", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")

    def paths_by_name(self) -> dict[str, Path]:
        """Return the path of each model, then of each folder, by source name.

        Raises ValueError for names that are reserved, repeated, or not one per path.
        """
        paths = [*self.models, *self.folders]
        names = self.names or [Path(path).name for path in paths]
        if len(names) != len(paths):
            raise ValueError(
                f"names has {len(names)} entries for {len(paths)} models and folders; it must have one each."
            )
        for name in names:
            if names.count(name) > 1 or name in RESERVED_NAMES or Path(name).name != name:
                raise ValueError(f"{name!r} cannot name a source. Give unique names with names=[a,b].")
        return dict(zip(names, map(Path, paths), strict=True))


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_evaluate", __doc__ or "")
    measurements = evaluate(config, shlex.join(["python", "-m", "pipelines.audio_evaluate", *arguments]))
    print(text_table(measurements))
    for measurement in measurements:
        for note in measurement.notes:
            print(f"{measurement.source.name}: {note}")
    print(f"The evaluation is in {Path(config.run.dir) / REPORT}.")


def evaluate(config: Config, command_line: str) -> list[Measurement]:
    """Sample, classify and measure as configured, and write the run folder.

    command_line: command that config.results records as the origin of its rows.
    """
    run = Path(config.run.dir)
    if config.results is not None:
        read_published(Path(config.results))  # raises before sampling starts
    world = single_process_world()
    classifier = load_classifier(Path(config.classifier), world.device)
    packed = open_audio_data(config.data, world).packed
    require_classes(classifier, packed.classes, packed.name)
    config = replace(config, data=replace(config.data, sha256=packed.sha256))
    sources = all_sources(config, packed, world)
    predictions = [classify_source(source, classifier, run) for source in sources]
    measurements = measure_sources(
        sources, predictions, classifier, world.device, config.mode, config.resamples, config.seed
    )
    write_report(run, report_facts(config, packed, classifier, world), measurements)
    draw_metrics(measurements, run / "metrics.png")
    draw_shares(measurements, packed.classes, run / "shares.png")
    if config.results is not None:
        path = Path(config.results)
        write_rows(path, command_line, packed.name, measurements, world.device, config.seed)
    return measurements


def all_sources(config: Config, packed: PackedAudio, world: World) -> list[Source]:
    """Return the training clips, the test clips, the folders, and the models' samples, drawn if missing."""
    run = Path(config.run.dir)
    named = list(config.paths_by_name().items())
    models, folders = named[: len(config.models)], named[len(config.models) :]
    sources = [split_source(packed, "train", run), split_source(packed, "test", run)]
    for name, path in folders:
        sources.append(folder_source(name, "folder", path, run, {"path": str(path)}))
    return sources + [model_source(name, path, config, world) for name, path in models]


def model_source(name: str, checkpoint: Path, config: Config, world: World) -> Source:
    """Sample clips from a model into the run folder, and measure its bits on the test clips.

    Continues interrupted sampling. Raises ValueError if the folder holds samples of other settings.
    """
    run = Path(config.run.dir)
    sampling = audio_sample.Config(
        checkpoint=str(checkpoint),
        output=str(run / name / SOUNDS),
        resume=True,
        count=config.count,
        seconds=config.seconds,
        batch_size=min(config.batch_size, config.count),
        seed=config.seed,
        sampling=config.sampling,
    )
    model = trained_model(checkpoint, world.device)
    checkpoint_sha256 = file_sha256(sampling.checkpoint_file)
    facts: dict[str, Any] = {
        "path": str(checkpoint),
        "checkpoint_sha256": checkpoint_sha256,
        "quantizer": model.quantizer,
        "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "nll_bits": test_bits(name, model, checkpoint_sha256, run, config.data, world),
    }
    audio_sample.generate(sampling)
    source = folder_source(name, "model", run / name / SOUNDS, run, facts)
    return replace(source, notes=[*source.notes, *training_notes(sampling.checkpoint_file, config.data)])


def test_bits(
    name: str, model: AudioCheckpoint, checkpoint_sha256: str, run: Path, data: AudioDataConfig, world: World
) -> float:
    """Return the bits per sample of the test clips under a model, in the model's codes.

    The run folder keeps the value, so the same command measures it once.
    """
    is_conditional = bool(model.classes)
    audio = open_audio_data(replace(data, quantizer=model.quantizer, conditional=is_conditional), world)
    windows = audio.windows["test"]
    key = {
        "checkpoint": checkpoint_sha256,
        "data": audio.packed.name,
        "sha256": audio.packed.sha256,
        "length": data.length,
        "keep_rest": data.keep_rest,
    }
    path = run / name / LIKELIHOOD
    bits = stored_bits(path, key)
    if bits is not None:
        return bits
    path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(windows), desc=f"likelihood of {name}", unit=" clips", disable=None) as bar:
        bits = likelihood(model.model, audio.packed, windows, world, is_conditional, advance=bar.update).bits
    write_json(path, {"of": key, "nll_bits": bits})
    return bits


def stored_bits(path: Path, key: Mapping[str, Any]) -> float | None:
    """Return the bits stored in a file; None if it is missing, damaged, or of another key."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["nll_bits"] if stored["of"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def training_notes(checkpoint: Path, data: AudioDataConfig) -> list[str]:
    """Return a sentence if a model was trained on other clips or another split than the measured ones."""
    trained = read_header(checkpoint).config["data"]
    if (trained["source"], trained["sha256"]) == (data.source, data.sha256):
        return []
    return [
        f"This model was trained on other clips, or on another split ({trained['source']}), than the "
        f"measured ones ({data.source}). Its bits and distances are not those of held-out clips."
    ]


def report_facts(
    config: Config, packed: PackedAudio, classifier: TrainedClassifier, world: World
) -> dict[str, Any]:
    """Return everything that the numbers of an evaluation depend on."""
    return {
        "mode": config.mode,
        "data": {
            "name": packed.name,
            "sha256": packed.sha256,
            "quantizer": packed.quantizer,
            "counts": packed.counts,
            "rate": RATE,
        },
        "classifier": {
            "path": str(classifier.path),
            "sha256": classifier.sha256,
            "features": classifier.model.config.features,
            "test_accuracy": classifier.training.accuracy["test"],
            "training": asdict(classifier.training),
        },
        "sampling": asdict(config.sampling),
        "count": config.count,
        "seconds": config.seconds,
        "seed": config.seed,
        "resamples": config.resamples,
        "commit": commit(),
        "hardware": hardware(world.device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_rows(
    path: Path,
    command_line: str,
    data: str,
    measurements: Sequence[Measurement],
    device: torch.device,
    seed: int,
) -> None:
    """Update the rows of a published table, atomically.

    The run folder identifies the row of a model; data and name identify other rows. A source without a row
    gets a new one. Entries and commands of other scripts stay. Raises ValueError as read_published does.
    """
    published = read_published(path)
    rows = list(published["rows"])
    for measurement in measurements:
        source = measurement.source
        own = {"data": data, "model": source.name, "run": source.facts.get("path")}
        if not any(_is_row_of(row, own) for row in rows):
            rows.append(own)
        rows = [_updated_row(row, measurement) if _is_row_of(row, own) else row for row in rows]
    commands = published.get("command")
    if commands in (None, command_line):
        commands = command_line
    else:
        commands = f"{commands.removesuffix(f'; {command_line}')}; {command_line}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(path) as temporary:
        write_results(temporary, commands, device, seed, rows)


def _is_row_of(row: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether a row belongs to a source; a row with a run is identified by the run alone."""
    keys = ("run",) if row.get("run") is not None else ("data", "model")
    return all(row.get(key) == own[key] for key in keys)


def _updated_row(row: Mapping[str, Any], measurement: Measurement) -> dict[str, Any]:
    """Return a row with the measured values; known parameters and likelihood stay."""
    known = {key: row[key] for key in ("parameters", "nll_bits") if row.get(key) is not None}
    return {**row, **standard_json(_row_values(measurement)), **known}


def _row_values(measurement: Measurement) -> dict[str, Any]:
    """Return the values of a published row: of all clips, and `selected_*` of the selected clips."""
    facts = measurement.source.facts
    values: dict[str, Any] = {key: facts[key] for key in ("parameters", "nll_bits") if key in facts}
    for name, prefix in ((ALL, ""), (SELECTED, "selected_")):
        if name in measurement.selections:
            clips, metrics = measurement.selections[name]
            values[f"{prefix}clips"] = clips
            for metric in METRICS:
                if metric in metrics:
                    value, low, high = metrics[metric]
                    values |= {f"{prefix}{metric}": value, f"{prefix}{metric}_interval": [low, high]}
    return values


if __name__ == "__main__":
    sys.exit(main())
