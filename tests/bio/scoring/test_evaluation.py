"""An evaluation is the same for any number of ranks, rows and chunks; its parts add up."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from bio.genome.genome import Genome, open_genome
from bio.genome.spans import as_spans
from bio.scoring.evaluation import PICTURE, TABLE, Evaluation, evaluate, validation
from bio.scoring.likelihood import Score, base_losses
from bio.scoring.streaming import repeat_and_unique, stream_losses
from bio.windows.dataset import NOT_A_TARGET, inputs_and_targets, read_windows, target_repeats
from bio.windows.window import TiledWindows, cut_windows, tiled_windows
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import World
from tests.bio.conftest import MakeGenome, random_bases
from tests.bio.scoring.test_likelihood import model_of

LENGTH = 31
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    return make_genome({"a": random_bases(400, 1, "ACGTACGTNacgtn"), "b": random_bases(100, 2)})


@pytest.fixture(scope="module")
def windows(genome: Genome) -> TiledWindows:
    return tiled_windows(genome, genome.record_spans, LENGTH)


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    return model_of()


def assert_same(one: Evaluation, other: Evaluation) -> None:
    assert one.context_edges == other.context_edges
    pairs = [(one.repeat, other.repeat), (one.unique, other.unique)]
    for left, right in [*pairs, *zip(one.by_context, other.by_context, strict=True)]:
        assert left.bases == right.bases
        assert left.nats == pytest.approx(right.nats, rel=1e-6)


@torch.no_grad()
def test_scores_are_those_of_one_forward_over_every_window(
    genome: Genome, windows: TiledWindows, model: SequenceModel
) -> None:
    packed = read_windows(genome, windows, windows.starts, np.zeros(len(windows), bool))
    inputs, targets = inputs_and_targets(packed)
    losses, _ = base_losses(model, inputs, targets, model.initial_state(len(packed)))
    is_target, is_repeat = targets != NOT_A_TARGET, target_repeats(packed)
    evaluation = evaluate(model, genome, windows, ALONE)

    for score, chosen in ((evaluation.repeat, is_repeat), (evaluation.unique, ~is_repeat)):
        assert score.bases == (is_target & chosen).sum()
        assert score.nats == pytest.approx(losses.double()[chosen].sum().item(), rel=1e-6)
    edges = pairwise(evaluation.context_edges)
    for (low, high), score in zip(edges, evaluation.by_context, strict=True):
        positions = slice(low - 1, high - 1)  # the target at position t has t + 1 bases before it
        assert score.bases == is_target[:, positions].sum()
        assert score.nats == pytest.approx(losses[:, positions].double().sum().item(), rel=1e-6)


@pytest.mark.parametrize("piece", [1, 7, 30, 31, 32, 200])
def test_pieces_change_nothing(
    genome: Genome, windows: TiledWindows, model: SequenceModel, piece: int
) -> None:
    assert_same(evaluate(model, genome, windows, ALONE, piece), evaluate(model, genome, windows, ALONE))


@pytest.mark.parametrize("size", [2, 3, 50])
def test_ranks_together_equal_one(
    genome: Genome, windows: TiledWindows, model: SequenceModel, size: int
) -> None:
    partial: list[torch.Tensor] = []

    class Processes(World):
        """Rank that adds its sums to those of the ranks before."""

        def sum(self, tensor: torch.Tensor) -> torch.Tensor:
            partial.append(tensor)
            return torch.stack(partial).sum(0)

    for rank in range(size):
        together = evaluate(model, genome, windows, Processes(rank, size, ALONE.device))
    assert_same(together, evaluate(model, genome, windows, ALONE))


def test_processes_share_the_windows_evenly(
    genome: Genome, windows: TiledWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = model_of(), []
    original = model.hidden

    def counted(inputs: torch.Tensor, *arguments: object) -> object:
        rows.append(len(inputs))
        return original(inputs, *arguments)

    monkeypatch.setattr(model, "hidden", counted)
    monkeypatch.setattr(World, "sum", lambda _, tensor: tensor)
    evaluate(model, genome, windows, World(0, 5, ALONE.device))
    assert len(windows) == 15
    assert rows == [3]


def test_window_equals_streaming(genome: Genome, model: SequenceModel) -> None:
    start, end = genome.span("a", 17, 17 + LENGTH + 1)
    (scored,) = stream_losses(model, genome, as_spans([(start, end)]))
    window = TiledWindows(LENGTH, np.array([start]), genome.record_spans)
    evaluation = evaluate(model, genome, window, ALONE)
    for score, expected in zip(
        repeat_and_unique(genome, scored), (evaluation.repeat, evaluation.unique), strict=True
    ):
        assert score.bases == expected.bases > 0
        assert score.nats == pytest.approx(expected.nats, rel=1e-6)


def test_metrics_fit_the_log_and_agree(genome: Genome, windows: TiledWindows, model: SequenceModel) -> None:
    evaluation = evaluate(model, genome, windows, ALONE)
    metrics = evaluation.metrics()
    assert metrics["loss"] == pytest.approx(evaluation.all.nats / evaluation.all.bases)
    assert metrics["bits_per_base"] == pytest.approx(metrics["loss"] / math.log(2))
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    share = evaluation.repeat.bases / evaluation.all.bases
    mixed = share * metrics["repeat_bits_per_base"] + (1 - share) * metrics["unique_bits_per_base"]
    assert mixed == pytest.approx(metrics["bits_per_base"])
    rows = evaluation.context_rows()
    assert sum(row["bases"] for row in rows) == evaluation.all.bases
    assert (rows[0]["least_context"], rows[-1]["most_context"]) == (1, LENGTH)


def test_without_repeats_there_is_no_part_of_them(genome: Genome, model: SequenceModel) -> None:
    unmasked = tiled_windows(genome, as_spans([genome.span("b")]), LENGTH)
    assert set(evaluate(model, genome, unmasked, ALONE).metrics()) == {"loss", "bits_per_base", "perplexity"}


def test_windows_of_only_n_are_an_error(make_genome: MakeGenome, model: SequenceModel) -> None:
    genome = make_genome({"a": "ACGTACGT" + "N" * 40})
    some = tiled_windows(genome, genome.record_spans, 8, max_n_fraction=1)
    counted = evaluate(model, genome, some, ALONE)
    assert counted.all == Score(pytest.approx(counted.all.nats), 7)
    assert math.isfinite(counted.all.loss)
    only_n = tiled_windows(genome, as_spans([genome.span("a", 8)]), 8, max_n_fraction=1)
    with pytest.raises(ValueError, match="hold only N"):
        evaluate(model, genome, only_n, ALONE)


class OtherRank(World):
    """Rank that sees all windows and does not write."""

    is_rank_0 = False  # type: ignore[assignment]


def test_validation_reads_the_same_bases_at_every_length(run_fasta: Path) -> None:
    genome = open_genome(run_fasta)
    windows = tiled_windows(genome, genome.record_spans, 48)
    model = SequenceModel(SequenceModelConfig(12, 8, 1))
    world = World(0, 1, torch.device("cpu"))

    metrics = validation(genome, windows, world, Path(), shorter_lengths=[12, 24])(model)

    for length in (12, 24):
        cut = cut_windows(windows, length)
        assert cut.coverage().tolist() == windows.coverage().tolist()
        evaluation = evaluate(model, genome, cut, world)
        assert evaluation.all.bases == evaluate(model, genome, windows, world).all.bases
        assert metrics[f"bits_per_base_{length}"] == pytest.approx(evaluation.all.bits_per_base)
    rows = json.loads(Path(TABLE).read_text())["by_length"]
    assert [row["length"] for row in rows] == [12, 24, 48]
    assert rows[-1]["bits_per_base"] == pytest.approx(metrics["bits_per_base"])


@pytest.mark.parametrize("kind", [World, OtherRank])
def test_every_rank_returns_the_metrics_and_rank_0_writes(run_fasta: Path, kind: type[World]) -> None:
    genome = open_genome(run_fasta)
    windows = tiled_windows(genome, genome.record_spans, 48)
    model = SequenceModel(SequenceModelConfig(12, 8, 1))
    world = kind(0, 1, torch.device("cpu"))

    markov = {1: 1.95, 2: 1.9, 3: 2.1} if kind is World else {}
    metrics = validation(genome, windows, world, Path(), markov)(model)

    evaluation = evaluate(model, genome, windows, world)
    best = {"markov_bits_per_base": 1.9} if markov else {}
    assert metrics == pytest.approx({**evaluation.metrics(), **best})
    if kind is OtherRank:
        assert list(Path().iterdir()) == []
        return
    content = json.loads(Path(TABLE).read_text())
    assert content["parts"]["all"]["bits_per_base"] == pytest.approx(metrics["bits_per_base"])
    assert "repeat" not in content["parts"]
    assert content["by_context"] == evaluation.context_rows()
    assert [row["bits_per_base"] for row in content["markov"]] == list(markov.values())
    assert imread(PICTURE).ndim == 3
