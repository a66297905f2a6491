"""How well a classifier names species: the same windows and the same numbers, however the work is shared."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import confusion_matrix, f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bio.species_dataset import WindowList
from bio.species_window import SpeciesWindows, Window
from bio.vocabulary import COMPLEMENT
from core.accuracy import Interval, accuracy, difference
from core.classifier import pooled_hidden
from core.model import SequenceModel
from core.training import World
from pipelines.dna_baseline import labels_of

OURS, BASELINE, PROBE = "fine-tuned", "k-mers", "frozen backbone"
BASES_AT_ONCE = 1 << 18
"""Bases of a batch: a function of nothing, so that a window always meets the same neighbours."""


@dataclass
class EvaluationConfig:
    """What is measured when training has ended, and with `evaluate`."""

    split: Literal["valid", "test"] = field(default="test", metadata={"help": "the split that is measured"})
    windows: int | None = field(
        default=1000,
        metadata={
            "help": "windows of each species, without overlap, evenly spaced; null: as many as the species "
            "with fewest has"
        },
    )
    both_strands: bool = field(
        default=True, metadata={"help": "average the probabilities of a window and its reverse complement"}
    )
    lengths: list[int] = field(
        default_factory=list, metadata={"help": "further lengths of windows that are measured"}
    )
    k: int = field(default=6, metadata={"help": "bases in the k-mers of the baseline"})
    fit_windows: int = field(
        default=6000, metadata={"help": "training windows that the baseline and the probe are fitted on"}
    )
    workers: int = field(
        default=0, metadata={"help": "processes that read windows; the results are the same for any number"}
    )

    def __post_init__(self) -> None:
        for name in ("windows", "k", "fit_windows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evaluation.{name} is {value}; it must be at least 1.")
        if self.workers < 0:
            raise ValueError(f"evaluation.workers is {self.workers}; it must be at least 0.")


Probabilities = npt.NDArray[np.float64]
"""(windows, classes)."""


@torch.no_grad()
def probabilities(
    model: nn.Module,
    windows: Dataset[Tensor],
    classes: int,
    world: World,
    workers: int = 0,
    both_strands: bool = False,
) -> Probabilities:
    """The probabilities (windows, classes) of a classifier in evaluation mode; processes share batches."""
    found = torch.zeros(len(windows), classes, dtype=torch.float64, device=world.device)  # type: ignore[arg-type]
    for numbers, tokens in _batches(windows, world, workers):
        strands = [tokens, reverse_strand(tokens)] if both_strands else [tokens]
        for strand in strands:
            found[numbers] += model(strand)[:, 0].double().softmax(dim=-1) / len(strands)
    return world.sum(found).cpu().numpy()


@torch.no_grad()
def embeddings(
    backbone: SequenceModel, windows: Dataset[Tensor], pooling: str, world: World, workers: int = 0
) -> npt.NDArray[np.float32]:
    """The pooled hidden vectors (windows, d_model) of a backbone; processes share the batches."""
    found = torch.zeros(len(windows), backbone.config.d_model, device=world.device)  # type: ignore[arg-type]
    for numbers, tokens in _batches(windows, world, workers):
        found[numbers] = pooled_hidden(backbone, tokens, pooling)
    return world.sum(found).cpu().numpy()


def reverse_strand(tokens: Tensor) -> Tensor:
    """The other strand of tokens (batch, length) uint8, on their device."""
    table = torch.from_numpy(COMPLEMENT).to(tokens.device)
    return table[tokens.flip(1).int()]


def _batches(windows: Dataset[Tensor], world: World, workers: int) -> Any:
    """(numbers, tokens on the device) of this process's batches, with a progress bar on the first."""
    count = len(windows)  # type: ignore[arg-type]
    rows = max(1, BASES_AT_ONCE // max(1, len(windows[0]))) if count else 1
    firsts = range(world.rank * rows, count, rows * world.size)
    chosen = [list(range(first, min(first + rows, count))) for first in firsts]
    loader = DataLoader(windows, batch_sampler=chosen, num_workers=workers)
    bar = tqdm(total=sum(map(len, chosen)), unit="window", disable=not world.is_first, leave=False, delay=2)
    with bar:
        for numbers, tokens in zip(chosen, loader, strict=True):
            yield numbers, tokens.to(world.device)
            bar.update(len(numbers))


@dataclass(frozen=True)
class Answers:
    """The windows of an evaluation and what a model said of them: probabilities (windows, classes)."""

    windows: SpeciesWindows
    listed: Sequence[Window]
    probabilities: Probabilities

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return labels_of(self.listed)

    @property
    def named(self) -> npt.NDArray[np.int64]:
        """The most probable class of each window."""
        return self.probabilities.argmax(axis=1)

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        return self.named == self.labels

    @property
    def clusters(self) -> list[str]:
        return [self.windows.cluster(window) for window in self.listed]

    def accuracy(self) -> Interval:
        return accuracy(self.is_right, self.clusters)

    def gain(self, other: "Answers") -> Interval:
        """By how much this accuracy exceeds that of another model on the same windows."""
        return difference(self.is_right, other.is_right, self.clusters)

    def row(self, model: str) -> dict[str, Any]:
        """Accuracy with its interval, and macro-F1, of a model by that name."""
        value, low, high = self.accuracy()
        macro_f1 = float(f1_score(self.labels, self.named, average="macro"))
        return {"model": model, "accuracy": value, "low": low, "high": high, "macro_f1": macro_f1}

    def confusion(self) -> list[list[int]]:
        """(classes, classes): how many windows of the species of a row were taken for that of a column."""
        classes = range(len(self.windows.names))
        return confusion_matrix(self.labels, self.named, labels=list(classes)).tolist()

    def votes(self) -> list[dict[str, Any]]:
        """For each record the species that its windows together speak for: see pooled_probabilities."""
        records: dict[str, list[int]] = {}
        for number, window in enumerate(self.listed):
            records.setdefault(self.windows.record(window), []).append(number)
        return [self._vote(record, numbers) for record, numbers in records.items()]

    def _vote(self, record: str, numbers: list[int]) -> dict[str, Any]:
        shares = pooled_probabilities(self.probabilities[numbers])
        return {
            "record": record,
            "species": self.windows.names[self.listed[numbers[0]].label],
            "windows": len(numbers),
            "named": self.windows.names[int(shares.argmax())],
            "probability": float(shares.max()),
        }


def pooled_probabilities(of_windows: Probabilities) -> npt.NDArray[np.float64]:
    """The probabilities (classes,) that windows (windows, classes) together give.

    Their geometric mean: windows depend on each other, and their product would soon be certain.
    """
    logs = np.log(np.maximum(of_windows, 1e-12)).mean(axis=0)
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def ask(
    model: nn.Module,
    windows: SpeciesWindows,
    world: World,
    config: EvaluationConfig,
) -> Answers:
    """A classifier's answers on the windows of an evaluation."""
    listed = windows.listed(config.windows, windows.length)
    found = probabilities(
        model, WindowList(windows, listed), len(windows.names), world, config.workers, config.both_strands
    )
    return Answers(windows, listed, found)


def content(
    answers: Answers,
    others: Mapping[str, Answers],
    at_length: Mapping[int, Answers],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """An evaluation as JSON.

    others: further models on the same windows, the k-mers first. at_length: the classifier on windows of
    other lengths, and of its own.
    """
    votes = answers.votes()
    baseline = next(iter(others.values()))
    return {
        "evaluation": asdict(config) | {"workers": None},  # their number changes nothing
        "classes": answers.windows.names,
        "length": answers.windows.length,
        "windows": len(answers.listed),
        "rows": [answers.row(OURS), *(other.row(name) for name, other in others.items())],
        "gain": answers.gain(baseline)._asdict(),
        "confusion": answers.confusion(),
        "by_length": [{"length": length, **at_length[length].row(OURS)} for length in sorted(at_length)],
        "vote_accuracy": float(np.mean([vote["named"] == vote["species"] for vote in votes])),
        "votes": votes,
    }


def report(result: dict[str, Any]) -> str:
    """An evaluation in words: a line a model, the gain, the confusion matrix, accuracy against length."""
    names, each = result["classes"], result["windows"] // len(result["classes"])
    lines = [f"{result['windows']:,} windows of {result['length']:,} bases, {each:,} of each species"]
    lines.append(f"{'':<16} accuracy  95% interval        macro-F1")
    lines += [
        f"{row['model']:<16} {row['accuracy']:.4f}    {_range(row)}    {row['macro_f1']:.4f}"
        for row in result["rows"]
    ]
    gain, baseline = result["gain"], f"gain on {result['rows'][1]['model']}"
    lines.append(f"{baseline:<16} {gain['value']:+.4f}   {gain['low']:+.4f} to {gain['high']:+.4f}")
    width = max(map(len, names))
    lines += ["", f"{'named':>{width}}  " + "  ".join(f"{name:>{width}}" for name in names)]
    lines += [
        f"{name:>{width}}  " + "  ".join(f"{count:>{width},}" for count in counts)
        for name, counts in zip(names, result["confusion"], strict=True)
    ]
    lines += [
        "",
        f"{len(result['votes']):,} records by the vote of their windows: {result['vote_accuracy']:.2%} right",
    ]
    lines += [
        f"{row['length']:>9,} bases  {row['accuracy']:.4f}  {_range(row)}" for row in result["by_length"]
    ]
    return "\n".join(lines)


def _range(row: Mapping[str, float]) -> str:
    return f"{row['low']:.4f} to {row['high']:.4f}"
