"""What a classifier says of windows: the same numbers, however the work is shared."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bio.genome.vocabulary import COMPLEMENT
from bio.scoring.kmer import MAX_K
from core.models.classifier import pooled_hidden
from core.models.sequence import SequenceModel
from core.training import World

BASES_AT_ONCE = 1 << 18
"""Bases of a batch, whoever computes it: a window always meets the same neighbours, to the same bits."""


@dataclass(frozen=True)
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
        default_factory=list,
        metadata={
            "help": "further lengths of windows that are measured; windows longer than those of training are "
            "read in segments as long as those"
        },
    )
    k: int = field(default=6, metadata={"help": "bases in the k-mers of the baseline"})
    fit_windows: int = field(
        default=6000, metadata={"help": "training windows that the baseline and the probe are fitted on"}
    )
    fit_bases: int = field(
        default=1 << 26, metadata={"help": "the most bases that these windows have: fewer windows if long"}
    )
    workers: int = field(
        default=0, metadata={"help": "processes that read windows; the results are the same for any number"}
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
    segment: int | None = None,
) -> Probabilities:
    """The probabilities (windows, classes) of a classifier in evaluation mode; processes share batches.

    both_strands: the mean over a window and its reverse complement. segment: longer windows are read in
    segments of so many bases, each from a fresh state, without a shorter rest; theirs is the geometric mean.
    """
    found = torch.zeros(len(windows), classes, dtype=torch.float64, device=world.device)  # type: ignore[arg-type]
    for numbers, tokens in _batches(windows, world, workers):
        strands = [tokens, reverse_strand(tokens)] if both_strands else [tokens]
        for strand in strands:
            found[numbers] += _of_segments(model, strand, segment or strand.shape[1]) / len(strands)
    return world.sum(found).cpu().numpy()


def _of_segments(model: nn.Module, tokens: Tensor, segment: int) -> Tensor:
    """The probabilities (windows, classes) fp64 of tokens (windows, length)."""
    segment = min(segment, tokens.shape[1])
    count = tokens.shape[1] // segment
    logits = model(tokens[:, : count * segment].reshape(-1, segment))[:, 0].double()
    return logits.log_softmax(dim=-1).unflatten(0, (len(tokens), count)).mean(dim=1).softmax(dim=-1)


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


def _batches(windows: Dataset[Tensor], world: World, workers: int) -> Iterator[tuple[list[int], Tensor]]:
    """(numbers, tokens on the device) of this process's batches, with a progress bar on the first."""
    count = len(windows)  # type: ignore[arg-type]
    rows = max(1, BASES_AT_ONCE // max(1, len(windows[0]))) if count else 1
    firsts = range(world.rank * rows, count, rows * world.size)
    chosen = [list(range(first, min(first + rows, count))) for first in firsts]
    loader = DataLoader(windows, batch_sampler=chosen, num_workers=workers)
    bar = tqdm(total=sum(map(len, chosen)), unit="window", disable=not world.is_rank_0, leave=False, delay=2)
    with bar:
        for numbers, tokens in zip(chosen, loader, strict=True):
            yield numbers, tokens.to(world.device)
            bar.update(len(numbers))
