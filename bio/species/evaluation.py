"""Evaluation of a species classifier beside k-mer regression and the frozen backbone, on the same windows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import confusion_matrix, f1_score
from tabulate import tabulate
from torch import nn

from bio.scoring.kmer import MAX_K
from bio.species.baselines import Examples, coefficients, fit, kmer_examples, labels_of
from bio.species.classifier import Probabilities, embed_windows, pool_probabilities, predict_probabilities
from bio.species.dataset import WindowList
from bio.species.plots import draw_accuracy_by_length, draw_confusion
from bio.species.run_data import SpeciesConfig, split_windows
from bio.species.segments import SpeciesData
from bio.species.windows import SpeciesWindows, Window, left_out
from core.models.classifier import SequenceClassifier
from core.models.sequence import SequenceModel
from core.statistics import Interval, accuracy, difference
from core.training import TrainingConfig, Validate, World
from core.training.step import autocast

RESULT = "evaluation.json"
OURS, BASELINE, PROBE = "fine-tuned", "k-mers", "frozen backbone"
NAMED_RECORDS = 5
FIT_SEED = 1
"""Seed of the windows for baselines; training uses others."""

WindowSet = tuple[SpeciesWindows, list[Window]]
MakeExamples = Callable[[SpeciesWindows, Sequence[Window]], Examples]


@dataclass(frozen=True)
class EvaluationConfig:
    """Options of the evaluation after training, and of `evaluate`."""

    split: Literal["valid", "test"] = field(default="test", metadata={"help": "split to evaluate"})
    windows: int | None = field(
        default=1000,
        metadata={
            "help": "windows per species, evenly spaced, without overlap; null: as many as the species with "
            "fewest has"
        },
    )
    both_strands: bool = field(
        default=True, metadata={"help": "average the probabilities of a window and its reverse complement"}
    )
    lengths: list[int] = field(
        default_factory=list,
        metadata={
            "help": "further window lengths (bases); windows longer than those of training are read in "
            "chunks of that length"
        },
    )
    k: int = field(default=6, metadata={"help": "length of the k-mers of the baseline (bases)"})
    fit_windows: int = field(
        default=6000, metadata={"help": "training windows to fit the baseline and the probe on"}
    )
    fit_bases: int = field(default=1 << 26, metadata={"help": "upper limit of the bases in these windows"})
    workers: int = field(
        default=0, metadata={"help": "processes that read windows; results do not depend on it"}
    )

    def __post_init__(self) -> None:
        for name in ("windows", "k", "fit_windows", "fit_bases"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evaluation.{name} is {value}; it must be at least 1.")
        if self.k > MAX_K:
            raise ValueError(f"evaluation.k is {self.k}; it must be at most {MAX_K}.")
        if any(length < 1 for length in self.lengths):
            raise ValueError(f"evaluation.lengths is {self.lengths}; each must be at least 1.")
        if self.workers < 0:
            raise ValueError(f"evaluation.workers is {self.workers}; it must be at least 0.")


@dataclass(frozen=True)
class Predictions:
    """Probabilities (windows, classes) that one model gives to the windows of an evaluation."""

    source: SpeciesWindows
    windows: Sequence[Window]
    probabilities: Probabilities

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """True classes (windows,)."""
        return labels_of(self.windows)

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """Most probable classes (windows,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def is_correct(self) -> npt.NDArray[np.bool_]:
        return self.classes == self.labels

    def loss(self) -> float:
        """Return the mean negative log-probability of the true class (nats)."""
        true_class_probabilities = self.probabilities[np.arange(len(self.windows)), self.labels]
        return float(-np.log(np.maximum(true_class_probabilities, 1e-12)).mean())

    def gain(self, other: "Predictions") -> Interval:
        """Return the difference in accuracy to another model on the same windows, with its interval."""
        return difference(self.is_correct, other.is_correct, self._clusters())

    def row(self, model: str) -> dict[str, Any]:
        """Return accuracy with its interval, and macro-F1, under the name of the model."""
        value, low, high = accuracy(self.is_correct, self._clusters())
        macro_f1 = float(f1_score(self.labels, self.classes, average="macro"))
        return {"model": model, "accuracy": value, "low": low, "high": high, "macro_f1": macro_f1}

    def confusion(self) -> list[list[int]]:
        """Return the confusion matrix (true class, predicted class) in windows."""
        classes = range(len(self.source.names))
        return confusion_matrix(self.labels, self.classes, labels=list(classes)).tolist()

    def votes(self) -> list[dict[str, Any]]:
        """Return the species that the windows of each record give together (see pool_probabilities)."""
        records: dict[str, list[int]] = {}
        for index, window in enumerate(self.windows):
            records.setdefault(self.source.record(window), []).append(index)
        return [self._vote(record, indices) for record, indices in records.items()]

    def _vote(self, record: str, indices: list[int]) -> dict[str, Any]:
        shares = pool_probabilities(self.probabilities[indices])
        return {
            "record": record,
            "species": self.source.names[self.windows[indices[0]].label],
            "windows": len(indices),
            "named": self.source.names[int(shares.argmax())],
            "probability": float(shares.max()),
        }

    def _clusters(self) -> list[str]:
        return [self.source.cluster(window) for window in self.windows]


@dataclass(frozen=True)
class Evaluation:
    """The windows of a run's evaluation, and what is measured on them.

    pooling: how the head pools hidden vectors. train: its precision applies to the evaluation.
    """

    data: SpeciesData
    species: SpeciesConfig
    config: EvaluationConfig
    pooling: str
    train: TrainingConfig
    world: World

    def require_windows(self) -> None:
        """Raise ValueError, before hours of training, if a window length has no windows."""
        for length in self.lengths:
            self.windows_to_fit(length)
            self.windows_to_measure(length)
            if "valid" in self.data.segments:
                self.windows_to_validate(length)

    @property
    def lengths(self) -> list[int]:
        """Window lengths in increasing order (bases)."""
        return sorted({self.species.length, *self.config.lengths})

    def windows_to_measure(self, length: int) -> WindowSet:
        """Return windows without overlap. Raises ValueError if a species has none."""
        source = split_windows(self.data, self.species, self.config.split, length)
        return source, source.list_windows(self.config.windows, length)

    def windows_to_fit(self, length: int) -> WindowSet:
        """Return training windows to fit a baseline on. Raises ValueError unless they hold every species."""
        source = split_windows(self.data, self.species, "train", length)
        count = max(1, min(self.config.fit_windows, self.config.fit_bases // length))
        windows = source.sample(np.arange(count), FIT_SEED)
        if len(np.unique(labels_of(windows))) < len(self.data.names):
            raise ValueError(
                f"{count:,} windows of {length:,} bases to fit a baseline do not hold every species: raise "
                "evaluation.fit_windows and evaluation.fit_bases."
            )
        return source, windows

    def windows_to_validate(self, length: int) -> WindowSet:
        """Return validation windows that overlap by three quarters, so that there are enough long ones."""
        source = split_windows(self.data, self.species, "valid", length)
        return source, source.list_windows(self.species.validation_windows, max(1, length // 4))

    def validation(self) -> Validate | None:
        """Return a function that measures loss (nats) and accuracy; None without a validation split."""
        if "valid" not in self.data.segments:
            return None
        source, windows = self.windows_to_validate(self.species.length)
        tokens = WindowList(source, windows)

        def validate(model: nn.Module) -> dict[str, float]:
            probabilities = predict_probabilities(model, tokens, len(self.data.names), self.world)
            predictions = Predictions(source, windows, probabilities)
            return {"loss": predictions.loss(), "accuracy": float(predictions.is_correct.mean())}

        return validate

    def measure(self, model: SequenceClassifier, frozen: SequenceModel) -> list[dict[str, Any]]:
        """Return the measurements at every window length.

        frozen: the backbone before training, on the device, in evaluation mode.
        """
        return [self._measure_at(length, model, frozen) for length in self.lengths]

    def start_from_probe(self, model: SequenceClassifier) -> None:
        """Set the head to logistic regression on the vectors of the frozen backbone."""
        train, valid = self._examples_to_fit(self._embedder(model.backbone.eval()), self.species.length)
        model.start_from(torch.from_numpy(train.features), *coefficients(fit(train, valid)))

    def _measure_at(self, length: int, model: SequenceClassifier, frozen: SequenceModel) -> dict[str, Any]:
        source, windows = self.windows_to_measure(length)
        with autocast(self.train, self.world.device):
            probabilities = predict_probabilities(
                model,
                WindowList(source, windows),
                len(self.data.names),
                self.world,
                self.config.workers,
                self.config.both_strands,
                self.species.length,
            )
        ours = Predictions(source, windows, probabilities)
        kmers = self._baseline(lambda source, some: kmer_examples(source, some, self.config.k), ours)
        probe = self._baseline(self._embedder(frozen), ours)
        votes = ours.votes()
        missing = left_out(self.data, self.config.split, length, self.species.max_n_fraction)
        return {
            "length": length,
            "windows": len(windows),
            "left_out": [entry._asdict() for entry in missing],
            "rows": [ours.row(OURS), kmers.row(BASELINE), probe.row(PROBE)],
            "gain": ours.gain(kmers)._asdict(),
            "confusion": ours.confusion(),
            "vote_accuracy": float(np.mean([vote["named"] == vote["species"] for vote in votes])),
            "votes": votes,
        }

    def _baseline(self, make_examples: MakeExamples, ours: Predictions) -> Predictions:
        """Return the predictions of logistic regression, fitted on windows of the same length."""
        model = fit(*self._examples_to_fit(make_examples, ours.source.length))
        probabilities = model.predict_proba(make_examples(ours.source, ours.windows).features)
        return Predictions(ours.source, ours.windows, probabilities)

    def _examples_to_fit(self, make_examples: MakeExamples, length: int) -> tuple[Examples, Examples | None]:
        """Return the examples to fit a baseline on, and those that select its regularization."""
        train = make_examples(*self.windows_to_fit(length))
        if "valid" not in self.data.segments:
            return train, None
        return train, make_examples(*self.windows_to_validate(length))

    def _embedder(self, backbone: SequenceModel) -> MakeExamples:
        """Return a function of windows to their pooled hidden vectors."""

        def embed(source: SpeciesWindows, windows: Sequence[Window]) -> Examples:
            tokens = WindowList(source, windows)
            with autocast(self.train, self.world.device):
                vectors = embed_windows(backbone, tokens, self.pooling, self.world, self.config.workers)
            return Examples(vectors, labels_of(windows))

        return embed


def draw_evaluation(result: Mapping[str, Any], folder: Path) -> None:
    """Draw the confusion matrix of each length, and accuracy against length."""
    rows_by_model: dict[str, list[dict[str, Any]]] = {}
    for at_length in result["lengths"]:
        length = at_length["length"]
        draw_confusion(at_length["confusion"], result["classes"], folder / f"confusion_{length}.png")
        for row in at_length["rows"]:
            rows_by_model.setdefault(row["model"], []).append({**row, "length": length})
    draw_accuracy_by_length(rows_by_model, [1 / len(result["classes"])], folder / "accuracy_by_length.png")


def format_report(result: Mapping[str, Any]) -> str:
    """Return an evaluation as text: a table of models, the confusion matrix and the votes, per length."""
    texts = [_format_length(result["classes"], at_length) for at_length in result["lengths"]]
    return "\n\n".join([*texts, *([result["advice"]] if result.get("advice") else [])])


def advice(measurements: Sequence[Mapping[str, Any]], remedies: Sequence[str]) -> str | None:
    """Return a sentence if the model is less accurate than the k-mers at some length, else None.

    measurements: results of Evaluation.measure. remedies: changes to try, in order.
    """
    lengths = [f"{row['length']:,}" for row in measurements if row["gain"]["value"] < 0]
    if not lengths:
        return None
    return (
        f"The fine-tuned model is less accurate than the k-mers in windows of {', '.join(lengths)} bases. "
        f"Try: {'; '.join(remedies)}."
    )


def _format_length(classes: Sequence[str], at_length: Mapping[str, Any]) -> str:
    windows, votes, gain = at_length["windows"], at_length["votes"], at_length["gain"]
    rows = [
        [
            row["model"],
            f"{row['accuracy']:.4f}",
            f"{row['low']:.4f} to {row['high']:.4f}",
            f"{row['macro_f1']:.4f}",
        ]
        for row in at_length["rows"]
    ]
    rows.append(
        [f"gain on {BASELINE}", f"{gain['value']:+.4f}", f"{gain['low']:+.4f} to {gain['high']:+.4f}", ""]
    )
    models = tabulate(
        rows, ["", "accuracy", "95% interval", "macro-F1"], tablefmt="plain", disable_numparse=True
    )
    counts = [
        [name, *(f"{count:,}" for count in row)]
        for name, row in zip(classes, at_length["confusion"], strict=True)
    ]
    confusion = tabulate(
        counts,
        ["true \\ predicted", *classes],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", *["right"] * len(classes)),
    )
    missing = "".join(f"{_format_left_out(entry)}\n" for entry in at_length.get("left_out", []))
    return (
        f"{windows:,} windows of {at_length['length']:,} bases, {windows // len(classes):,} per species\n"
        f"{missing}{models}\n\n{confusion}\n\n"
        f"{len(votes):,} record(s) by the vote of their windows: {at_length['vote_accuracy']:.0%} correct"
    )


def _format_left_out(entry: Mapping[str, Any]) -> str:
    """Return a line on the records and windows of one species that the evaluation does not read."""
    parts = []
    if entry["short"]:
        names = entry["short"]
        more = f" and {len(names) - NAMED_RECORDS:,} more" if len(names) > NAMED_RECORDS else ""
        parts.append(
            f"{len(names):,} record(s) shorter than a window, {entry['short_bases']:,} bases "
            f"({', '.join(names[:NAMED_RECORDS])}{more})"
        )
    if entry["windows"]:
        parts.append(f"{entry['windows']:,} window(s) with too many N (data.max_n_fraction)")
    return f"left out of {entry['species']}: {'; '.join(parts)}"
