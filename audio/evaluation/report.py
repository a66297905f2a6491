"""Measurements of an evaluation, its report evaluation.json, and its table in text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from audio.evaluation.sources import Source
from audio.evaluation.trained_classifier import TrainedClassifier
from audio.metrics.bootstrap import Estimate
from audio.metrics.predictions import Predictions
from audio.metrics.suite import Mode, Suite
from core.storage.atomic import write_json
from core.training.metrics import standard_json

REPORT = "evaluation.json"
ALL, SELECTED = "all", "40/95"
LOWER, UPPER = 0.40, 0.95
"""Published thresholds of the selection: fractions of the clips, from the least likely clip on.

The published code intends to tune them on a grid by the inception score. It never keeps the best value, so
the last grid point always wins.
"""
METRICS = {
    "fid": "FID",
    "fid_infinity": "FID at infinity",
    "is": "IS",
    "mis": "modified IS",
    "am": "AM",
    "ndb": "NDB",
}
"""Column heads by metric."""


class Selection(NamedTuple):
    """Number of the clips that were measured, and the estimate of each metric."""

    clips: int
    metrics: dict[str, Estimate]


class Measurement(NamedTuple):
    """Source with its metrics: of ALL clips, and of the clips SELECTED by likelihood if it is known.

    accuracy: fraction of clips whose predicted class is their label; None without labels. notes: sentences.
    """

    source: Source
    accuracy: float | None
    selections: dict[str, Selection]
    notes: list[str]


def measure_sources(
    sources: Sequence[Source],
    predictions: Sequence[Predictions],
    classifier: TrainedClassifier,
    device: torch.device,
    mode: Mode = "correct",
    resamples: int = 0,
    seed: int = 0,
) -> list[Measurement]:
    """Compute the metrics of every source against the first source, the training clips.

    predictions: one per source. mode, resamples, seed: as Suite.measure takes them.
    """
    classes = classifier.training.classes
    suite = Suite(predictions[0], classes, device)
    measurements = []
    for source, prediction in zip(tqdm(sources, "measuring", disable=None), predictions, strict=True):
        selections = {}
        for name, indices in _selections(source).items():
            clips = Predictions(*(tensor[indices] for tensor in prediction))
            metrics = suite.measure(clips, mode, resamples, seed)
            if source.kind == "train":  # the distance to itself is 0 and has no bias to extrapolate
                metrics.pop("fid_infinity", None)
            selections[name] = Selection(len(indices), metrics)
        fewest = min(selection.clips for selection in selections.values())
        notes = [*source.notes, *suite.notes(fewest), *_classifier_notes(source, classifier)]
        measurements.append(Measurement(source, _accuracy(source, prediction, classes), selections, notes))
    return measurements


def select_by_likelihood(log_likelihood: Tensor) -> Tensor:
    """Return the sorted indices of the clips between the published thresholds, the middle 55 %.

    log_likelihood: (clips,), total of each clip under the model that generated it. The published
    autoregressive results leave out the other clips. Raises ValueError for NaN.
    """
    if log_likelihood.isnan().any():
        raise ValueError("The log-likelihoods hold NaN, so the clips cannot be ranked. Sample them again.")
    order = log_likelihood.argsort(stable=True)
    count = len(order)
    return order[int(LOWER * count) : int(UPPER * count)].sort().values


def write_report(run: Path, facts: Mapping[str, Any], measurements: Sequence[Measurement]) -> None:
    """Write evaluation.json: the facts, then the metadata and the metrics of each source."""
    sources = [standard_json(_source_entry(measurement)) for measurement in measurements]
    content = {**standard_json(dict(facts)), "sources": sources}
    write_json(run / REPORT, content, allow_nan=False)


def read_report(run: Path) -> dict[str, Any]:
    """Return the content of evaluation.json in a run folder.

    Raises FileNotFoundError if the file is missing, and ValueError if it is not valid JSON.
    """
    path = run / REPORT
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Give the run folder of a finished audio_evaluate.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Run audio_evaluate again to rewrite it.") from error
    return content


def text_table(measurements: Sequence[Measurement]) -> str:
    """Return an aligned text table with one line per source and selection.

    The columns are clips, accuracy, bits per sample, and each metric with half its 95 % interval.
    """
    rows = []
    for measurement in measurements:
        for name, selection in measurement.selections.items():
            source, is_all = measurement.source, name == ALL
            bits = source.facts.get("nll_bits") if is_all else None
            accuracy = measurement.accuracy if is_all else None
            rows.append(
                [
                    source.name if is_all else f"{source.name}, {name}",
                    f"{selection.clips:,}",
                    "" if accuracy is None else f"{accuracy:.1%}",
                    "" if bits is None else f"{bits:.3f}",
                    *(_estimate_text(selection.metrics.get(metric)) for metric in METRICS),
                ]
            )
    heads = ["", "clips", "accuracy", "NLL", *METRICS.values()]
    alignment = ["left", *["right"] * (len(heads) - 1)]
    return tabulate(rows, heads, "plain", disable_numparse=True, colalign=alignment)


def _estimate_text(estimate: Estimate | None) -> str:
    """Return a value with half its 95 % interval, "1.23 +- 0.05"; "" for None."""
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} +- {(estimate.high - estimate.low) / 2:.3f}"


def _selections(source: Source) -> dict[str, Tensor]:
    """Return the clip indices of each selection that has at least two clips."""
    selections = {ALL: torch.arange(len(source.files))}
    if source.log_likelihood is not None:
        indices = select_by_likelihood(source.log_likelihood)
        if len(indices) > 1:
            selections[SELECTED] = indices
    return selections


def _accuracy(source: Source, predictions: Predictions, classes: Sequence[str]) -> float | None:
    """Return the fraction of clips whose predicted class is their label; None if a label is missing."""
    if not all(label in classes for label in source.labels):
        return None
    return predictions.accuracy(torch.tensor([classes.index(label) for label in source.labels]))


def _classifier_notes(source: Source, classifier: TrainedClassifier) -> list[str]:
    """Return a sentence if the classifier was trained on another split than the measured one."""
    trained, accuracy = classifier.training.data, classifier.training.accuracy["test"]
    if source.kind != "test" or source.identity["data"] == trained:
        return []
    return [
        f"The classifier was trained on {trained}, but these clips are of {source.identity['data']}: some "
        f"may be among its training clips. Its accuracy on its own test clips is {accuracy:.1%}."
    ]


def _source_entry(measurement: Measurement) -> dict[str, Any]:
    source = measurement.source
    return {
        "name": source.name,
        "kind": source.kind,
        "folder": source.name,
        "clips": len(source.files),
        "accuracy": measurement.accuracy,
        "nll_bits": None,
        "parameters": None,
        **source.facts,
        "identity": source.identity,
        "selections": {
            name: {"clips": selection.clips}
            | {metric: estimate._asdict() for metric, estimate in selection.metrics.items()}
            for name, selection in measurement.selections.items()
        },
        "notes": measurement.notes,
    }
