"""The evaluation of a run of dna_classify: its best checkpoint beside k-mers and the backbone it began as."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bio.species.dataset import WindowList
from bio.species.segments import SpeciesData
from bio.species.windows import SpeciesWindows, Window
from core.checkpoints.checkpoint import read_header, resolve_checkpoint
from core.models.classifier import SequenceClassifier
from core.models.sequence import SequenceModel
from core.storage.atomic import write_json
from core.training import World
from core.training.step import autocast
from pipelines.common.dna_answers import Answers, content, report
from pipelines.common.dna_baseline import Examples, coefficients, fitted, kmer_examples, labels_of
from pipelines.common.dna_classification import Probabilities, embeddings, probabilities
from pipelines.common.dna_classifier import trained_classifier
from pipelines.common.dna_classify_config import Config, initial_backbone
from pipelines.common.dna_species_data import split_windows
from pipelines.common.species_pictures import draw_accuracy_by_length, draw_confusion

RESULT = "evaluation.json"
FIT_SEED = 1
"""Other windows than those of training."""

MakeExamples = Callable[[SpeciesWindows, Sequence[Window]], Examples]


def evaluate(config: Config, data: SpeciesData, world: World) -> dict[str, Any]:
    """Measure the run's best checkpoint at every length beside k-mers and the frozen backbone.

    The first process writes evaluation.json and the pictures.
    """
    folder = Path(config.run.dir)
    path = resolve_checkpoint(folder, prefer_best=True)
    model = trained_classifier(path, world.device).model
    progress = read_header(path).progress
    result = {
        "species": config.data.species,
        "classes": data.names,
        "split": config.evaluation.split,
        "step": progress["step"],
        "validation": progress["validation"],
        "lengths": [
            measured(config, data, model, length, world)
            for length in sorted({config.data.length, *config.evaluation.lengths})
        ],
    }
    if world.is_rank_0:
        write_json(folder / RESULT, result)
        draw_evaluation(result, folder)
    return result


def measured(
    config: Config, data: SpeciesData, model: SequenceClassifier, length: int, world: World
) -> dict[str, Any]:
    """What is measured with windows of one length."""
    chosen, classes = config.evaluation, len(data.names)
    windows, listed = windows_to_measure(config, data, length)
    tokens = WindowList(windows, listed)
    with autocast(config.train, world.device):
        found = probabilities(
            model, tokens, classes, world, chosen.workers, chosen.both_strands, config.data.length
        )
    others = baselines(config, data, windows, listed, world)
    return content(*(Answers(windows, listed, answered) for answered in (found, *others)))


def draw_evaluation(result: dict[str, Any], folder: Path) -> None:
    """The confusion matrix of each length, and accuracy against length."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for at_length in result["lengths"]:
        length, rows = at_length["length"], at_length["rows"]
        draw_confusion(at_length["confusion"], result["classes"], folder / f"confusion_{length}.png")
        for row in rows:
            lines.setdefault(row["model"], []).append({**row, "length": length})
    draw_accuracy_by_length(lines, [1 / len(result["classes"])], folder / "accuracy_by_length.png")


def report_of(result: dict[str, Any]) -> str:
    """An evaluation in words."""
    return "\n\n".join(report(result["classes"], at_length) for at_length in result["lengths"])


def baselines(
    config: Config, data: SpeciesData, windows: SpeciesWindows, listed: Sequence[Window], world: World
) -> list[Probabilities]:
    """The probabilities (windows, classes) of logistic regressions, fitted on windows of the same length.

    The first is on k-mers, the other on the pooled vectors of the backbone before training.
    """
    torch.manual_seed(config.train.seed)
    backbone = initial_backbone(config).to(world.device).eval()
    features: list[MakeExamples] = [
        lambda windows, listed: kmer_examples(windows, listed, config.evaluation.k),
        lambda windows, listed: embedded(config, backbone, world, windows, listed),
    ]
    return [
        fitted(*fitting_examples(config, data, examples, windows.length)).predict_proba(
            examples(windows, listed).features
        )
        for examples in features
    ]


def start_from_probe(config: Config, data: SpeciesData, model: SequenceClassifier, world: World) -> None:
    """Begin the head at the logistic regression on the frozen backbone."""
    backbone = model.backbone.eval()
    train, valid = fitting_examples(
        config,
        data,
        lambda windows, listed: embedded(config, backbone, world, windows, listed),
        config.data.length,
    )
    model.start_from(torch.from_numpy(train.features), *coefficients(fitted(train, valid)))


def fitting_examples(
    config: Config, data: SpeciesData, examples: MakeExamples, length: int
) -> tuple[Examples, Examples | None]:
    """What a baseline is fitted on, and what its regularization is chosen by, in windows of one length."""
    train = examples(*windows_to_fit(config, data, length))
    if "valid" not in data.stretches:
        return train, None
    return train, examples(*windows_to_validate(config, data, length))


def embedded(
    config: Config, backbone: SequenceModel, world: World, windows: SpeciesWindows, listed: Sequence[Window]
) -> Examples:
    """The pooled hidden vectors of windows, as the head reads them."""
    with autocast(config.train, world.device):
        chosen = WindowList(windows, listed)
        found = embeddings(backbone, chosen, config.head.pooling, world, config.evaluation.workers)
    return Examples(found, labels_of(listed))


def require_windows(config: Config, data: SpeciesData, length: int) -> None:
    """Raise ValueError, before hours of training, where what is measured at this length has no windows."""
    windows_to_fit(config, data, length)
    windows_to_measure(config, data, length)
    if "valid" in data.stretches:
        windows_to_validate(config, data, length)


def windows_to_measure(config: Config, data: SpeciesData, length: int) -> tuple[SpeciesWindows, list[Window]]:
    """Windows without overlap; ValueError where a species has none."""
    windows = split_windows(data, config.data, config.evaluation.split, length)
    return windows, windows.listed(config.evaluation.windows, length)


def windows_to_fit(config: Config, data: SpeciesData, length: int) -> tuple[SpeciesWindows, list[Window]]:
    """Training windows that a baseline is fitted on; ValueError where they are not of every species."""
    windows = split_windows(data, config.data, "train", length)
    count = max(1, min(config.evaluation.fit_windows, config.evaluation.fit_bases // length))
    listed = windows.sample(np.arange(count), FIT_SEED)
    if len(np.unique(labels_of(listed))) < len(data.names):
        raise ValueError(
            f"{count:,} windows of {length:,} bases to fit a baseline on do not hold every species: raise "
            "evaluation.fit_windows and evaluation.fit_bases."
        )
    return windows, listed


def windows_to_validate(
    config: Config, data: SpeciesData, length: int
) -> tuple[SpeciesWindows, list[Window]]:
    """Windows that overlap by three quarters: long ones would be too few to choose a checkpoint by."""
    windows = split_windows(data, config.data, "valid", length)
    return windows, windows.listed(config.data.validation_windows, max(1, length // 4))
