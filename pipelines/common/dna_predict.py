"""Name the species of each record of a FASTA, from several of its windows.

    python -m pipelines.dna_classify predict checkpoint=runs/mine fasta=unknown.fa

The windows of a record are evenly spaced; they overlap where it is short, and a record shorter than a window
is read whole. The table has a row for each record, and one for all: the species that its windows together
speak for, and the probability of each species, the geometric mean over the windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bio.genome.genome import Genome, Record, open_genome
from bio.genome.vocabulary import N, without_mask
from core.checkpoints.checkpoint import resolve_checkpoint
from core.statistics import evenly_spaced
from core.storage.atomic import replaced_atomically
from core.training import TrainingConfig, World, distributed_world
from core.training.step import autocast
from pipelines.common.config import parse_config
from pipelines.common.dna_answers import pooled_probabilities
from pipelines.common.dna_classification import Probabilities, probabilities
from pipelines.common.dna_classifier import TrainedClassifier, trained_classifier

ALL = "all"


@dataclass(frozen=True)
class PredictConfig:
    checkpoint: str = field(
        metadata={"help": "a run folder of dna_classify (its best checkpoint), or a file"}
    )
    fasta: str = field(metadata={"help": "the FASTA to name: plain, gzip or bgzip; packed beside it once"})
    windows: int = field(default=16, metadata={"help": "windows of each record"})
    length: int | None = field(
        default=None, metadata={"help": "bases in a window; null: as many as in training"}
    )
    max_n_fraction: float = field(default=0.5, metadata={"help": "leave out windows with more N than this"})
    output: str = field(default="species.tsv", metadata={"help": "the table to write"})
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto", metadata={"help": "of matrix products; auto: bf16 on a GPU, fp32 on a CPU"}
    )

    def __post_init__(self) -> None:
        for name in ("windows", "length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")


@dataclass(frozen=True)
class Named:
    """What the windows of a record say; probabilities (windows, classes)."""

    record: str
    bases: int
    probabilities: Probabilities


class RecordWindows(Dataset[Tensor]):
    """The tokens of windows of one record, (length,) uint8 each."""

    def __init__(self, genome: Genome, record: Record, starts: Sequence[int], length: int) -> None:
        self.genome, self.record, self.starts, self.length = genome, record, starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> Tensor:
        start = self.starts[number]
        return torch.from_numpy(self.genome.tokens(self.record.name, start, start + self.length))


def run(arguments: Sequence[str]) -> None:
    """The command `predict`."""
    config = parse_config(PredictConfig, arguments, "dna_classify predict", __doc__ or "")
    with distributed_world() as world:
        classifier = trained_classifier(
            resolve_checkpoint(Path(config.checkpoint), prefer_best=True), world.device
        )
        named = predict(config, classifier, world)
    if world.is_rank_0:
        with replaced_atomically(Path(config.output)) as temporary:
            temporary.write_text(table(named, classifier.classes), encoding="utf-8")
        print(report(named, classifier.classes, config))


def predict(config: PredictConfig, classifier: TrainedClassifier, world: World) -> list[Named]:
    """What the windows of each record say; ValueError where no record has a window with few enough N."""
    genome = open_genome(config.fasta)
    length = config.length or classifier.length
    found = []
    for record in genome.records.values():
        size = min(length, record.length)
        starts = spaced_starts(genome, record, size, config)
        windows = RecordWindows(genome, record, starts, size)
        with autocast(TrainingConfig(precision=config.precision), world.device):
            of_windows = (
                probabilities(
                    classifier.model,
                    windows,
                    len(classifier.classes),
                    world,
                    both_strands=True,
                    segment=classifier.length,
                )
                if starts
                else np.zeros((0, len(classifier.classes)))
            )
        found.append(Named(record.name, record.length, of_windows))
    if not any(len(named.probabilities) for named in found):
        raise ValueError(
            f"Every window of {config.fasta} holds more than {config.max_n_fraction:.0%} N: "
            "raise max_n_fraction."
        )
    return found


def spaced_starts(genome: Genome, record: Record, length: int, config: PredictConfig) -> list[int]:
    """The starts of at most config.windows windows of a record, without those of too many N."""
    last = record.length - length
    starts = np.unique(evenly_spaced(last + 1, config.windows)).tolist()
    is_unknown = without_mask(genome.bases[record.offset : record.offset + record.length]) == N
    limit = config.max_n_fraction * length
    return [start for start in starts if is_unknown[start : start + length].sum() <= limit]


def table(found: list[Named], classes: list[str]) -> str:
    """Tab-separated: record, bases, windows, species, then a column of probability a species."""
    lines = [["record", "bases", "windows", "species", *classes]]
    for named in [*found, together(found)]:
        name, shares = verdict(named, classes)
        lines.append(
            [
                named.record,
                str(named.bases),
                str(len(named.probabilities)),
                name,
                *(f"{s:.4f}" for s in shares),
            ]
        )
    return "".join("\t".join(line) + "\n" for line in lines)


def together(found: list[Named]) -> Named:
    """All records as one."""
    return Named(
        ALL, sum(named.bases for named in found), np.concatenate([named.probabilities for named in found])
    )


def verdict(named: Named, classes: list[str]) -> tuple[str, list[float]]:
    """The species and the probability of each; none where there is no window."""
    if not len(named.probabilities):
        return "", []
    shares = pooled_probabilities(named.probabilities)
    return classes[int(shares.argmax())], shares.tolist()


def report(found: list[Named], classes: list[str], config: PredictConfig) -> str:
    """The row of all in words."""
    whole = together(found)
    name, shares = verdict(whole, classes)
    by_share = sorted(zip(shares, classes, strict=True), reverse=True)
    listed = ", ".join(f"{other} {share:.1%}" for share, other in by_share)
    return (
        f"{config.fasta}: {name}, by {len(whole.probabilities):,} windows of {len(found):,} record(s) "
        f"({listed}); {config.output} holds the table."
    )
