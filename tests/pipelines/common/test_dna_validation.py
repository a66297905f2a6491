"""A validation returns what core logs, and leaves its table and picture in the run folder."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from bio.genome.genome import open_genome
from bio.scoring.evaluation import evaluate
from bio.windows.window import cut_windows, tiled_windows
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import World
from pipelines.common.dna_validation import PICTURE, TABLE, validation


class NotFirst(World):
    """A process that sees all windows and does not write."""

    is_rank_0 = False  # type: ignore[assignment]


def test_the_same_bases_are_measured_at_every_length_of_a_warm_up(fasta: Path) -> None:
    genome = open_genome(fasta)
    windows = tiled_windows(genome, genome.record_spans, 48)
    model = SequenceModel(SequenceModelConfig(12, 8, 1))
    world = World(0, 1, torch.device("cpu"))

    metrics = validation(genome, windows, world, Path(), shorter=[12, 24])(model)

    for length in (12, 24):
        cut = cut_windows(windows, length)
        assert cut.coverage().tolist() == windows.coverage().tolist()
        evaluation = evaluate(model, genome, cut, world)
        assert evaluation.all.bases == evaluate(model, genome, windows, world).all.bases
        assert metrics[f"bits_per_base_{length}"] == pytest.approx(evaluation.all.bits_per_base)
    rows = json.loads(Path(TABLE).read_text())["by_length"]
    assert [row["length"] for row in rows] == [12, 24, 48]
    assert rows[-1]["bits_per_base"] == pytest.approx(metrics["bits_per_base"])


@pytest.mark.parametrize("kind", [World, NotFirst])
def test_all_return_what_the_first_writes(fasta: Path, kind: type[World]) -> None:
    genome = open_genome(fasta)
    windows = tiled_windows(genome, genome.record_spans, 48)
    model = SequenceModel(SequenceModelConfig(12, 8, 1))
    world = kind(0, 1, torch.device("cpu"))

    markov = {1: 1.95, 2: 1.9, 3: 2.1} if kind is World else {}
    metrics = validation(genome, windows, world, Path(), markov)(model)

    evaluation = evaluate(model, genome, windows, world)
    best = {"markov_bits_per_base": 1.9} if markov else {}
    assert metrics == pytest.approx({**evaluation.metrics(), **best})
    if kind is NotFirst:
        assert list(Path().iterdir()) == []
        return
    content = json.loads(Path(TABLE).read_text())
    assert content["parts"]["all"]["bits_per_base"] == pytest.approx(metrics["bits_per_base"])
    assert "repeat" not in content["parts"]
    assert content["by_context"] == evaluation.context_rows()
    assert [row["bits_per_base"] for row in content["markov"]] == list(markov.values())
    assert imread(PICTURE).ndim == 3
