"""Held-out windows under a model: bits a base over all, over repeats, and by the position in the window.

The position tells whether context helps: the first target of a window has one base before it, the last has
all the others.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bio.genome.genome import Genome
from bio.scoring.likelihood import Score, base_losses, to_device
from bio.windows.dataset import NOT_A_TARGET, evaluation_batches, inputs_and_targets, target_repeats
from bio.windows.window import TiledWindows
from core.models.sequence import SequenceModel
from core.statistics import context_edges
from core.training import World

PIECE_BASES = 1 << 17
"""Inputs that are run at once: enough to fill a GPU, whatever the windows' length."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of the targets of all windows.

    repeat, unique: of soft-masked targets, and of the others.
    context_edges: (bins + 1,); by_context: (bins,). Bin i holds the targets with context_edges[i] to
        context_edges[i + 1] - 1 bases before them in their window.
    """

    repeat: Score
    unique: Score
    context_edges: list[int]
    by_context: list[Score]

    @property
    def all(self) -> Score:
        return self.repeat + self.unique

    def metrics(self) -> dict[str, float]:
        """What a validation logs: `loss` (nats a base), `bits_per_base`, `perplexity`, and the bits a base of
        repeats and of unique sequence, where both are there."""
        metrics = {
            "loss": self.all.loss,
            "bits_per_base": self.all.bits_per_base,
            "perplexity": self.all.perplexity,
        }
        if self.repeat.bases and self.unique.bases:
            metrics["repeat_bits_per_base"] = self.repeat.bits_per_base
            metrics["unique_bits_per_base"] = self.unique.bits_per_base
        return metrics

    def context_rows(self) -> list[dict[str, Any]]:
        """A row a bin that has targets: least_context and most_context (bases), bases, bits_per_base."""
        return [
            {
                "least_context": low,
                "most_context": high - 1,
                "bases": score.bases,
                "bits_per_base": score.bits_per_base,
            }
            for (low, high), score in zip(pairwise(self.context_edges), self.by_context, strict=True)
            if score.bases
        ]


@torch.no_grad()
def evaluate(
    model: SequenceModel, genome: Genome, windows: TiledWindows, world: World, piece: int = PIECE_BASES
) -> Evaluation:
    """The scores of a model (on the world's device) on windows, in one pass that the processes share.

    Windows longer than `piece` run in pieces with carried state: memory does not grow with their length.
    Raises ValueError where the windows hold no target.
    """
    length = windows.length
    rows = max(1, min(piece // length, -(-len(windows) // world.size)))
    totals = torch.zeros(4, length, dtype=torch.float64, device=world.device)
    for packed in evaluation_batches(genome, windows, rows, world.rank, world.size):
        packed = to_device(packed, world.device)
        state = model.initial_state(rows)
        for first in range(0, length, piece):
            part = packed[:, first : first + piece + 1]
            inputs, targets = inputs_and_targets(part)
            losses, state = base_losses(model, inputs, targets, state)
            totals[:, first : first + piece] += _sums(losses, targets, target_repeats(part))
    return _evaluation(world.sum(totals).cpu().numpy())


def _sums(losses: Tensor, targets: Tensor, repeats: Tensor) -> Tensor:
    """(4, length) from (rows, length): nats and number of the targets, then of those in repeats."""
    is_target = targets != NOT_A_TARGET
    columns = losses, is_target, losses * repeats, is_target & repeats
    return torch.stack([column.sum(0, dtype=torch.float64) for column in columns])


def _evaluation(totals: npt.NDArray[np.float64]) -> Evaluation:
    nats, bases, repeat_nats, repeat_bases = totals.sum(axis=1)
    if not bases:
        raise ValueError("The windows to validate on hold only N: name other intervals.")
    edges = context_edges(totals.shape[1])
    binned = np.add.reduceat(totals[:2], edges[:-1] - 1, axis=1)
    return Evaluation(
        repeat=Score(float(repeat_nats), int(repeat_bases)),
        unique=Score(float(nats - repeat_nats), int(bases - repeat_bases)),
        context_edges=edges.tolist(),
        by_context=[Score(float(nats), int(bases)) for nats, bases in binned.T],
    )
