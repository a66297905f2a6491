"""Tracks hold every base once, and bins add up, for any division of the bases."""

import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bio.genome.genome import Genome
from bio.genome.spans import Spans, as_spans
from bio.scoring.streaming import ScoredBases
from bio.scoring.track import BedGraph, LikelihoodTrack
from tests.bio.conftest import MakeGenome, random_bases


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    return make_genome({"a": random_bases(100, 1), "b": random_bases(30, 2)})


@pytest.fixture(scope="module")
def spans(genome: Genome) -> Spans:
    return as_spans([genome.span("a", 7, 60), genome.span("a", 60, 62), genome.span("b")])


def parts_of(spans: Spans, losses: np.ndarray, cuts: list[int]) -> list[ScoredBases]:
    """Divide losses (bases,) of spans at the cuts and at the end of every span."""
    parts, offset = [], 0
    for span, (start, end) in enumerate(spans.tolist()):
        edges = [start, *sorted({start + cut for cut in cuts if cut < end - start} - {start}), end]
        for low, high in pairwise(edges):
            parts.append(ScoredBases(span, low, losses[offset : offset + high - low]))
            offset += high - low
    return parts


def random_losses(count: int) -> np.ndarray:
    losses = np.random.default_rng(0).random(count).astype(np.float32)
    losses[[0, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 54]] = np.nan
    return losses


@given(cuts=st.lists(st.integers(0, 52), max_size=4), size=st.integers(1, 70))
@settings(max_examples=30)
def test_bins_are_means_of_their_bases(genome: Genome, spans: Spans, cuts: list[int], size: int) -> None:
    losses, text = random_losses(85), io.StringIO()
    graph = BedGraph(text, genome, spans, size)
    for part in parts_of(spans, losses, cuts):
        graph.write(part)
    graph.close()

    of_base = {}
    offset = 0
    for span, (start, end) in enumerate(spans.tolist()):
        for position in range(start, end):
            name, base = genome.locate(position)
            of_base[span, name, base] = losses[offset]
            offset += 1
    expected: dict[tuple[int, str, int], list[tuple[int, float]]] = {}
    for (span, name, base), loss in of_base.items():
        expected.setdefault((span, name, base // size), []).append((base, loss))
    lines = []
    for (_, name, _), bases in expected.items():
        values = [loss for _, loss in bases if not math.isnan(loss)]
        if values:
            lines.append((name, bases[0][0], bases[-1][0] + 1, sum(values) / len(values) / math.log(2)))
    found = [line.split("\t") for line in text.getvalue().splitlines()]
    assert [(name, int(start), int(end)) for name, start, end, _ in found] == [line[:3] for line in lines]
    assert [float(line[3]) for line in found] == pytest.approx([line[3] for line in lines], abs=1e-4)


@pytest.mark.parametrize("cuts", [[], [1, 2, 30]])
def test_likelihoods_are_a_memory_mappable_file(spans: Spans, cuts: list[int], tmp_path: Path) -> None:
    losses = random_losses(85)
    with (tmp_path / "x.npy").open("wb") as file:
        track = LikelihoodTrack(file, spans)
        for part in parts_of(spans, losses, cuts):
            track.write(part)
    read = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, -losses)


def test_bedgraph_of_overlaps_or_bin_size_0_is_an_error(genome: Genome, spans: Spans) -> None:
    overlapping = as_spans([genome.span("a", 0, 10), genome.span("a", 9, 20)])
    with pytest.raises(ValueError, match=r"overlap.*Merge them first"):
        BedGraph(io.StringIO(), genome, overlapping, 5)
    with pytest.raises(ValueError, match="is 0 bases"):
        BedGraph(io.StringIO(), genome, spans, 0)
