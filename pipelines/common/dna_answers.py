"""What models answered on windows of species, and how right it is: accuracy, confusion, votes, report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, f1_score

from bio.species.windows import SpeciesWindows, Window
from core.statistics import Interval, accuracy, difference
from pipelines.common.dna_baseline import labels_of
from pipelines.common.dna_classification import Probabilities

OURS, BASELINE, PROBE = "fine-tuned", "k-mers", "frozen backbone"


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


def content(ours: Answers, baseline: Answers, probe: Answers) -> dict[str, Any]:
    """What is measured at one length, as JSON; all three answered on the same windows."""
    votes = ours.votes()
    return {
        "length": ours.windows.length,
        "windows": len(ours.listed),
        "rows": [ours.row(OURS), baseline.row(BASELINE), probe.row(PROBE)],
        "gain": ours.gain(baseline)._asdict(),
        "confusion": ours.confusion(),
        "vote_accuracy": float(np.mean([vote["named"] == vote["species"] for vote in votes])),
        "votes": votes,
    }


def report(classes: Sequence[str], at_length: Mapping[str, Any]) -> str:
    """What is measured at one length in words: a line a model, the gain, the confusion matrix, the votes."""
    windows, each = at_length["windows"], at_length["windows"] // len(classes)
    lines = [f"{windows:,} windows of {at_length['length']:,} bases, {each:,} of each species"]
    lines.append(f"{'':<16} accuracy  95% interval        macro-F1")
    lines += [
        f"{row['model']:<16} {row['accuracy']:.4f}    {row['low']:.4f} to {row['high']:.4f}    "
        f"{row['macro_f1']:.4f}"
        for row in at_length["rows"]
    ]
    gain = at_length["gain"]
    lines.append(
        f"{f'gain on {BASELINE}':<16} {gain['value']:+.4f}   {gain['low']:+.4f} to {gain['high']:+.4f}"
    )
    lines += ["", *confusion_table(classes, at_length["confusion"])]
    right = f"{at_length['vote_accuracy']:.0%} right"
    return "\n".join(
        [*lines, "", f"{len(at_length['votes']):,} records by the vote of their windows: {right}"]
    )


def confusion_table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> list[str]:
    """Lines of a table: a row a species, a column what its windows were taken for."""
    width = max(len(name) for name in (*classes, "named"))
    lines = [f"{'named':>{width}}  " + "  ".join(f"{name:>{width}}" for name in classes)]
    return lines + [
        f"{name:>{width}}  " + "  ".join(f"{count:>{width},}" for count in row)
        for name, row in zip(classes, counts, strict=True)
    ]
