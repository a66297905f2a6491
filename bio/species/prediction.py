"""Species of each record of a FASTA file, from several of its windows.

The windows of a record are evenly spaced; they overlap in a short record, and a record shorter than a window
is read as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bio.genome.genome import Genome, Record
from bio.genome.vocabulary import N, without_mask
from bio.species.classifier import (
    Probabilities,
    TrainedClassifier,
    pool_probabilities,
    predict_probabilities,
)
from core.statistics import evenly_spaced
from core.training import World

ALL = "all"
"""Name of the row for all records together."""


@dataclass(frozen=True)
class RecordPrediction:
    """Probabilities (windows, classes) of the windows of one record."""

    record: str
    bases: int
    probabilities: Probabilities

    def species(self, classes: Sequence[str]) -> tuple[str, list[float]]:
        """Return the most probable species and the probability of each; ("", []) without windows."""
        if not len(self.probabilities):
            return "", []
        shares = pool_probabilities(self.probabilities)
        return classes[int(shares.argmax())], shares.tolist()


class RecordWindows(Dataset[Tensor]):
    """Tokens (length,) uint8 of windows of one record."""

    def __init__(self, genome: Genome, record: Record, starts: Sequence[int], length: int) -> None:
        self.genome, self.record, self.starts, self.length = genome, record, starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        start = self.starts[index]
        return torch.from_numpy(self.genome.tokens(self.record.name, start, start + self.length))


def predict_records(
    genome: Genome,
    classifier: TrainedClassifier,
    world: World,
    windows: int,
    length: int,
    max_n_fraction: float,
) -> list[RecordPrediction]:
    """Predict the species of each record from at most `windows` windows of `length` bases, on both strands.

    Raises ValueError if every window of every record has more N than max_n_fraction.
    """
    predictions = []
    for record in genome.records.values():
        size = min(length, record.length)
        starts = spaced_starts(genome, record, size, windows, max_n_fraction)
        probabilities = np.zeros((0, len(classifier.classes)))
        if starts:
            probabilities = predict_probabilities(
                classifier.model,
                RecordWindows(genome, record, starts, size),
                len(classifier.classes),
                world,
                both_strands=True,
                chunk=classifier.length,
            )
        predictions.append(RecordPrediction(record.name, record.length, probabilities))
    if not any(len(prediction.probabilities) for prediction in predictions):
        raise ValueError(
            f"Every window of {genome.name} holds more than {max_n_fraction:.0%} N: raise max_n_fraction."
        )
    return predictions


def spaced_starts(
    genome: Genome, record: Record, length: int, windows: int, max_n_fraction: float
) -> list[int]:
    """Return the starts of at most `windows` evenly spaced windows; those with too many N are left out."""
    starts = np.unique(evenly_spaced(record.length - length + 1, windows)).tolist()
    is_unknown = without_mask(genome.bases[record.offset : record.offset + record.length]) == N
    limit = max_n_fraction * length
    return [start for start in starts if is_unknown[start : start + length].sum() <= limit]


def merge(predictions: Sequence[RecordPrediction]) -> RecordPrediction:
    """Return the predictions of all records as one."""
    bases = sum(prediction.bases for prediction in predictions)
    return RecordPrediction(
        ALL, bases, np.concatenate([prediction.probabilities for prediction in predictions])
    )


def format_table(predictions: Sequence[RecordPrediction], classes: Sequence[str]) -> str:
    """Return tab-separated lines: record, bases, windows, species, then one probability per species."""
    lines = [["record", "bases", "windows", "species", *classes]]
    for prediction in [*predictions, merge(predictions)]:
        name, shares = prediction.species(classes)
        counts = [str(prediction.bases), str(len(prediction.probabilities))]
        lines.append([prediction.record, *counts, name, *(f"{share:.4f}" for share in shares)])
    return "".join("\t".join(line) + "\n" for line in lines)
