"""Judge generated digits: sample models, or read folders of audio files, and measure them against recordings.

    python -m pipelines.audio_evaluate --config evaluate_digits models=[runs/digits]
    python -m pipelines.audio_evaluate --config evaluate_fsdd models=[runs/mamba,runs/wavenet] count=10240

The training and the test clips are measured like the generated ones, all against the training clips. Models
are also measured as published results are, on the clips between 40 and 95 per cent of the likelihood. The
run folder gets evaluation.json, pictures, and for each source a table of its clips, their features and the
sounds. The same command goes on where it was interrupted: nothing is sampled or judged twice.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from audio.data.pack import PackedAudio
from audio.data.waveform import RATE
from audio.evaluation.judgement import Judgement, TrainedClassifier, load_classifier, require_classes
from audio.metrics.selection import select_by_likelihood
from audio.metrics.suite import Mode, Suite
from core.decoding.sampling import SamplingConfig
from core.training import World, lone_world
from kernels.provenance import commit, hardware
from pipelines.common.audio_data import AudioDataConfig, open_audio_data
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config
from pipelines.common.evaluation_model import sampled_source
from pipelines.common.evaluation_pictures import draw_metrics, draw_shares
from pipelines.common.evaluation_report import (
    ALL,
    REPORT,
    SELECTED,
    Measured,
    Selection,
    text_table,
    write_report,
    write_rows,
)
from pipelines.common.evaluation_source import Source, folder_source, judged, split_source
from pipelines.common.publication import read_published

TAKEN = ("train", "test", "", "..")
"""No source has these names: its folder would be a split's, the evaluation's own, or the parent of that."""


@dataclass
class Config:
    classifier: str = field(
        metadata={"help": "a run folder of audio_classifier, or its classifier.safetensors"}
    )
    data: AudioDataConfig = field(default_factory=AudioDataConfig)
    models: list[str] = field(
        default_factory=list, metadata={"help": "run folders or checkpoints of audio_pretrain to sample from"}
    )
    folders: list[str] = field(
        default_factory=list, metadata={"help": "folders of audio files, as audio_sample writes them"}
    )
    names: list[str] = field(
        default_factory=list,
        metadata={
            "help": "what tables call the models, then the folders; none: the last part of their paths"
        },
    )
    count: int = field(default=2048, metadata={"help": "clips to sample from each model"})
    seconds: float = field(
        default=1.0,
        metadata={"help": "of sound to sample in a clip; the classifier hears a second, padded with silence"},
    )
    batch_size: int = field(default=512, metadata={"help": "clips that are sampled at once"})
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = field(default=0, metadata={"help": "of the samples and of the bootstrap"})
    mode: Mode = field(
        default="correct",
        metadata={
            "help": "paper: the inception score and its modification with the faults of the code behind "
            "published numbers"
        },
    )
    resamples: int = field(
        default=100, metadata={"help": "bootstrap resamples behind the 95 % intervals; 0: no intervals"}
    )
    results: str | None = field(
        default=None,
        metadata={"help": "a published table whose rows are filled in, such as results/audio.json"},
    )
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/audio_evaluation"))

    def __post_init__(self) -> None:
        for name, least in (("count", 2), ("batch_size", 1), ("resamples", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")

    @property
    def named(self) -> dict[str, Path]:
        """What is evaluated, by name, models first. Raises ValueError for names that do not tell it apart."""
        paths = [*self.models, *self.folders]
        names = self.names or [Path(path).name for path in paths]
        if len(names) != len(paths):
            raise ValueError(
                f"names has {len(names)} entries for {len(paths)} models and folders: give each one."
            )
        for name in names:
            if names.count(name) > 1 or name in TAKEN or Path(name).name != name:
                raise ValueError(f"{name!r} does not tell a source apart: give each a name with names=[a,b].")
        return dict(zip(names, map(Path, paths), strict=True))


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_evaluate", __doc__ or "")
    measured = evaluate(config, shlex.join(["python", "-m", "pipelines.audio_evaluate", *arguments]))
    print(text_table(measured))
    for one in measured:
        for note in one.notes:
            print(f"{one.source.name}: {note}")
    print(f"{Path(config.run.dir) / REPORT} holds the evaluation.")


def evaluate(config: Config, command_line: str) -> list[Measured]:
    """Sample, judge and measure as configured, and fill the run folder. Returns what was measured.

    command_line: what config.results is to say of where its rows come from.
    """
    run = Path(config.run.dir)
    if config.results is not None:
        read_published(Path(config.results))  # raises before anything is sampled
    world = lone_world()
    classifier = load_classifier(Path(config.classifier), world.device)
    packed = open_audio_data(config.data, world).packed
    require_classes(classifier, packed.classes, packed.name)
    config.data.sha256 = packed.sha256
    sources = all_sources(config, packed, world)
    judgements = [judged(source, classifier, run) for source in sources]
    measured = measure(sources, judgements, classifier, config, world)
    write_report(run, report_facts(config, packed, classifier, world), measured)
    draw_metrics(measured, run / "metrics.png")
    draw_shares(measured, packed.classes, run / "shares.png")
    if config.results is not None:
        path = Path(config.results)
        write_rows(path, command_line, packed.name, measured, world.device, config.seed)
    return measured


def all_sources(config: Config, packed: PackedAudio, world: World) -> list[Source]:
    """The training clips, the test clips, then what is evaluated, sampled where it is a model."""
    run = Path(config.run.dir)
    named = list(config.named.items())
    models, folders = named[: len(config.models)], named[len(config.models) :]
    sources = [split_source(packed, "train", run), split_source(packed, "test", run)]
    sources += [folder_source(name, "folder", path, run, {"path": str(path)}) for name, path in folders]
    options = {
        "count": config.count,
        "seconds": config.seconds,
        "batch_size": min(config.batch_size, config.count),
        "seed": config.seed,
        "sampling": config.sampling,
    }
    return sources + [sampled_source(name, path, run, config.data, world, **options) for name, path in models]


def measure(
    sources: Sequence[Source],
    judgements: Sequence[Judgement],
    classifier: TrainedClassifier,
    config: Config,
    world: World,
) -> list[Measured]:
    """The metrics of every source against the first, the training clips."""
    classes = classifier.training.classes
    suite = Suite(judgements[0], classes, world.device)
    measured = []
    for source, judgement in zip(tqdm(sources, "measuring", disable=None), judgements, strict=True):
        selections = {}
        for name, chosen in selected(source).items():
            clips = Judgement(*(tensor[chosen] for tensor in judgement))
            metrics = suite.measure(clips, config.mode, config.resamples, config.seed)
            if source.kind == "train":  # at no distance from itself, so that there is no bias to take out
                metrics.pop("fid_infinity", None)
            selections[name] = Selection(len(chosen), metrics)
        fewest = min(selection.clips for selection in selections.values())
        notes = [*source.notes, *suite.notes(fewest), *classifier_notes(source, classifier)]
        measured.append(Measured(source, accuracy(source, judgement, classes), selections, notes))
    return measured


def selected(source: Source) -> dict[str, Tensor]:
    """The numbers of the clips in each selection: all, and those between the published likelihoods."""
    selections = {ALL: torch.arange(len(source.files))}
    if source.log_likelihood is not None:
        chosen = select_by_likelihood(source.log_likelihood)
        if len(chosen) > 1:
            selections[SELECTED] = chosen
    return selections


def accuracy(source: Source, judgement: Judgement, classes: Sequence[str]) -> float | None:
    """The fraction of clips that are heard as their labels say; None where some have no label."""
    if not all(label in classes for label in source.labels):
        return None
    return judgement.accuracy(torch.tensor([classes.index(label) for label in source.labels]))


def classifier_notes(source: Source, classifier: TrainedClassifier) -> list[str]:
    """A sentence where the classifier has learnt from another split than the one that is measured."""
    trained, right = classifier.training.data, classifier.training.accuracy["test"]
    if source.kind != "test" or source.identity["data"] == trained:
        return []
    return [
        f"The classifier was trained on {trained}, these clips are of {source.identity['data']}: it may have "
        f"learnt from some of them. Of clips that it never heard it has {right:.1%} right."
    ]


def report_facts(
    config: Config, packed: PackedAudio, classifier: TrainedClassifier, world: World
) -> dict[str, Any]:
    """What every number of an evaluation depends on."""
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


if __name__ == "__main__":
    sys.exit(main())
