"""Evaluation on held-out windows: bits per base over all bases, over repeats, and by context length.

The bits by context show whether context helps: the first target of a window has one base of context, the last
one has all the others.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bio.genome.genome import Genome
from bio.scoring.likelihood import Score, base_losses, to_device
from bio.scoring.plots import plot_context
from bio.windows.dataset import NOT_A_TARGET, evaluation_batches, inputs_and_targets, target_repeats
from bio.windows.window import TiledWindows, cut_windows
from core.models.sequence import SequenceModel
from core.statistics import context_edges
from core.storage.atomic import write_json
from core.training import Validate, World

CHUNK_BASES = 1 << 17
"""Inputs per forward pass: enough to fill a GPU at any window length."""
TABLE, PICTURE = "validation.json", "bits_by_context.png"


@dataclass(frozen=True)
class Evaluation:
    """Scores of the targets of all windows.

    repeat, unique: scores of soft-masked targets and of the others.
    context_edges: (bins + 1,). by_context: (bins,); bin i holds the targets with context_edges[i] to
        context_edges[i + 1] - 1 bases before them in their window.
    """

    repeat: Score
    unique: Score
    context_edges: list[int]
    by_context: list[Score]

    @property
    def all(self) -> Score:
        """Score of all targets."""
        return self.repeat + self.unique

    def metrics(self) -> dict[str, float]:
        """Return `loss` (nats per base), `bits_per_base` and `perplexity` for the log.

        Bits per base of repeats and of unique sequence are added if the windows have both.
        """
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
        """Return a row per bin with targets: least_context and most_context (bases), bases, bits_per_base."""
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
    model: SequenceModel, genome: Genome, windows: TiledWindows, world: World, chunk: int = CHUNK_BASES
) -> Evaluation:
    """Score a model (on the world's device) on windows in one pass, shared by the ranks.

    Windows longer than `chunk` run in chunks with carried state, so memory does not grow with their length.
    Raises ValueError if the windows hold no target.
    """
    length = windows.length
    rows = max(1, min(chunk // length, -(-len(windows) // world.size)))
    totals = torch.zeros(4, length, dtype=torch.float64, device=world.device)
    for packed in evaluation_batches(genome, windows, rows, world.rank, world.size):
        packed = to_device(packed, world.device)
        state = model.initial_state(rows)
        for first in range(0, length, chunk):
            part = packed[:, first : first + chunk + 1]
            inputs, targets = inputs_and_targets(part)
            losses, state = base_losses(model, inputs, targets, state)
            totals[:, first : first + chunk] += _sums(losses, targets, target_repeats(part))
    return _evaluation(world.sum(totals).cpu().numpy())


def validation(
    genome: Genome,
    windows: TiledWindows,
    world: World,
    folder: Path,
    markov: Mapping[int, float] = MappingProxyType({}),
    shorter_lengths: Sequence[int] = (),
) -> Validate:
    """Return a function that evaluates a model on held-out windows and returns its metrics.

    Each time, rank 0 writes TABLE with all results and PICTURE with the bits by context to the run folder.

    markov: bits per base of Markov models by order; the lowest is added to the metrics.
    shorter_lengths: lengths of a warm-up; the same bases are also evaluated in windows of each length.
    """
    best = {"markov_bits_per_base": min(markov.values())} if markov else {}

    def validate(model: nn.Module) -> dict[str, float]:
        def bits(length: int) -> float:
            cut = cut_windows(windows, length)
            return evaluate(cast(SequenceModel, model), genome, cut, world).all.bits_per_base

        evaluation = evaluate(cast(SequenceModel, model), genome, windows, world)
        by_length = {length: bits(length) for length in shorter_lengths}
        if world.is_rank_0:
            lengths = {**by_length, windows.length: evaluation.all.bits_per_base}
            table = validation_table(evaluation, markov, lengths)
            write_json(folder / TABLE, table)
            plot_context({f"windows of {windows.length:,}": table}, folder / PICTURE)
        at_lengths = {f"bits_per_base_{length}": bits for length, bits in by_length.items()}
        return {**evaluation.metrics(), **at_lengths, **best}

    return validate


def read_validation(folder: Path) -> dict[str, Any]:
    """Read the last validation table of a run folder."""
    table: dict[str, Any] = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    return table


def validation_table(
    evaluation: Evaluation, markov: Mapping[int, float], by_length: Mapping[int, float]
) -> dict[str, Any]:
    """Return an evaluation as JSON: rows by part (all, repeat, unique), context, length and Markov order."""
    parts = {"all": evaluation.all, "repeat": evaluation.repeat, "unique": evaluation.unique}
    return {
        "parts": {
            name: {"bases": score.bases, "bits_per_base": score.bits_per_base}
            for name, score in parts.items()
            if score.bases
        },
        "by_context": evaluation.context_rows(),
        "by_length": [{"length": length, "bits_per_base": bits} for length, bits in by_length.items()],
        "markov": [{"order": order, "bits_per_base": bits} for order, bits in markov.items()],
    }


def _sums(losses: Tensor, targets: Tensor, repeats: Tensor) -> Tensor:
    """Return (4, length) from (rows, length): nats and count of all targets, then of those in repeats."""
    is_target = targets != NOT_A_TARGET
    columns = losses, is_target, losses * repeats, is_target & repeats
    return torch.stack([column.sum(0, dtype=torch.float64) for column in columns])


def _evaluation(totals: npt.NDArray[np.float64]) -> Evaluation:
    nats, bases, repeat_nats, repeat_bases = totals.sum(axis=1)
    if not bases:
        raise ValueError("The validation windows hold only N. Choose other intervals.")
    edges = context_edges(totals.shape[1])
    binned = np.add.reduceat(totals[:2], edges[:-1] - 1, axis=1)
    return Evaluation(
        repeat=Score(float(repeat_nats), int(repeat_bases)),
        unique=Score(float(nats - repeat_nats), int(bases - repeat_bases)),
        context_edges=edges.tolist(),
        by_context=[Score(float(nats), int(bases)) for nats, bases in binned.T],
    )
