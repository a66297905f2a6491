"""What a DNA run measures while it trains: held-out bits, and whether context helps, as table and picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from torch import nn

from bio.genome.genome import Genome
from bio.scoring.evaluation import Evaluation, evaluate
from bio.scoring.plots import draw_context
from bio.windows.window import TiledWindows, cut_windows
from core.models.sequence import SequenceModel
from core.storage.atomic import write_json
from core.training import Validate, World

TABLE, PICTURE = "validation.json", "bits_by_context.png"


def validation(
    genome: Genome,
    windows: TiledWindows,
    world: World,
    folder: Path,
    markov: Mapping[int, float] = MappingProxyType({}),
    shorter: Sequence[int] = (),
) -> Validate:
    """What measures a model on held-out windows; each time the first process leaves the last result in the
    run folder: TABLE with all parts of it, PICTURE with the bits a base against the context.

    markov: bits a base of Markov models by order; the best of them goes with the metrics.
    shorter: the lengths of a warm-up, at which the same bases are measured too, cut into windows of each.
    """
    best = {"markov_bits_per_base": min(markov.values())} if markov else {}

    def validate(model: nn.Module) -> dict[str, float]:
        def bits(length: int) -> float:
            cut = cut_windows(windows, length)
            return evaluate(cast(SequenceModel, model), genome, cut, world).all.bits_per_base

        evaluation = evaluate(cast(SequenceModel, model), genome, windows, world)
        by_length = {length: bits(length) for length in shorter}
        if world.is_rank_0:
            table = content(evaluation, markov, {**by_length, windows.length: evaluation.all.bits_per_base})
            write_json(folder / TABLE, table)
            draw_context({f"windows of {windows.length:,}": table}, folder / PICTURE)
        at_lengths = {f"bits_per_base_{length}": bits for length, bits in by_length.items()}
        return {**evaluation.metrics(), **at_lengths, **best}

    return validate


def read_table(folder: Path) -> dict[str, Any]:
    """The last validation of the run in a folder."""
    table: dict[str, Any] = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    return table


def content(
    evaluation: Evaluation, markov: Mapping[int, float], by_length: Mapping[int, float]
) -> dict[str, Any]:
    """An evaluation as JSON: a row for all, for repeats and for unique sequence, one a bin of context, one a
    length of windows, one a Markov model."""
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
