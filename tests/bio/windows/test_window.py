"""Windows stay inside readable spans, are sampled uniformly, and hold few N."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bio.genome.genome import Genome
from bio.genome.spans import Spans, as_spans, contains, merge, overlap, total
from bio.genome.vocabulary import N
from bio.windows.window import random_windows, tiled_windows
from tests.bio.conftest import MakeGenome, random_bases

RECORDS = {
    "a": random_bases(120, 1),
    "b": random_bases(40, 2, "ACGTN"),
    "c": "N" * 10 + "ACGT" * 8 + "N" * 18,
}
pairs = st.lists(st.tuples(st.integers(0, 119), st.integers(1, 60)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    return make_genome(RECORDS)


def regions_of(genome: Genome, pairs: list[tuple[int, int]]) -> Spans:
    """Return merged regions of record a."""
    return merge(as_spans(genome.span("a", start, min(start + size, 120)) for start, size in pairs))


def starts_of(genome: Genome, regions: Spans, length: int, limit: int) -> set[int]:
    """Return every start of a window inside a region with at most `limit` N, by brute force."""
    return {
        start
        for begin, end in regions.tolist()
        for start in range(begin, end - length + 1)
        if ((genome.bases[start : start + length] & 0x7F) == N).sum() <= limit
    }


@given(pairs=pairs, length=st.integers(1, 70))
def test_tiles_are_whole_disjoint_and_as_many_as_fit(
    genome: Genome, pairs: list[tuple[int, int]], length: int
) -> None:
    regions = regions_of(genome, pairs)
    fitting = ((regions[:, 1] - regions[:, 0]) // length).sum()
    if not fitting:
        with pytest.raises(
            ValueError, match=f"No window of {length} bases fits: the longest interval, from a:"
        ):
            tiled_windows(genome, regions, length)
        return
    windows = tiled_windows(genome, regions, length)
    spans = np.stack([windows.starts, windows.starts + length], axis=1)
    assert len(windows) == fitting
    assert overlap(spans, regions) == total(spans) == fitting * length
    assert overlap(windows.coverage(), regions) == total(windows.coverage())


@given(length=st.integers(1, 45), fraction=st.floats(0, 1), data=st.data())
@settings(max_examples=200)
def test_random_starts_are_exactly_those_with_few_n(
    genome: Genome, length: int, fraction: float, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True))
    regions = merge(as_spans(genome.span(name) for name in names))
    expected = starts_of(genome, regions, length, int(fraction * length))
    if not expected:
        with pytest.raises(ValueError, match=r"No window of|hold more than"):
            random_windows(genome, regions, length, fraction)
        return
    windows = random_windows(genome, regions, length, fraction)
    allowed = {start for begin, end in windows.start_spans.tolist() for start in range(begin, end)}
    assert allowed == expected
    assert set(windows.sample(np.arange(200), 0).tolist()) <= expected


@given(length=st.integers(1, 30), fraction=st.floats(0, 1))
def test_tiles_with_too_many_n_are_left_out(genome: Genome, length: int, fraction: float) -> None:
    kept = starts_of(genome, genome.record_spans, length, int(fraction * length))
    tiles = {s for begin, end in genome.record_spans.tolist() for s in range(begin, end - length + 1, length)}
    assert tiled_windows(genome, genome.record_spans, length, fraction).starts.tolist() == sorted(
        tiles & kept
    )


def test_random_starts_are_uniform_and_reach_both_ends(make_genome: MakeGenome) -> None:
    genome = make_genome({"a": random_bases(20, 1), "b": random_bases(12, 2), "c": random_bases(5, 3)})
    windows = random_windows(genome, genome.record_spans, 8)
    starts, counts = np.unique(windows.sample(np.arange(100_000), 5), return_counts=True)
    assert starts.tolist() == sorted(starts_of(genome, genome.record_spans, 8, 8))
    expected = 100_000 / len(starts)
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 50  # chi-squared, 17 degrees: beyond 50 once in 25,000


def test_tiled_sampling_sees_every_window_once_an_epoch(genome: Genome) -> None:
    windows = tiled_windows(genome, genome.record_spans, 7)
    epochs = windows.sample(np.arange(3 * len(windows)), 4).reshape(3, -1)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == windows.starts.tolist()
    assert not np.array_equal(epochs[0], epochs[1])


def test_coverage_of_random_windows_is_all_readable_positions(genome: Genome) -> None:
    """Include windows without N that start before the end of their region."""
    regions = merge(as_spans([genome.span("a", 3, 50), genome.span("a", 60, 75), genome.span("c")]))
    windows = random_windows(genome, regions, 10, 0.0)
    read = np.unique((windows.sample(np.arange(5000), 1)[:, None] + np.arange(11)).ravel())
    read = read[contains(regions, read)]
    assert sorted(read.tolist()) == [
        p for start, end in windows.coverage().tolist() for p in range(start, end)
    ]


def test_only_n_and_no_regions_are_errors(genome: Genome) -> None:
    middle = as_spans([genome.span("c", 0, 10)])
    with pytest.raises(ValueError, match=r"All 2 windows of 5 bases hold more than 50% N. Allow more N"):
        tiled_windows(genome, middle, 5)
    with pytest.raises(ValueError, match=r"All 6 windows of 5 bases hold more than 50% N"):
        random_windows(genome, middle, 5)
    for make in (tiled_windows, random_windows):
        with pytest.raises(ValueError, match="It has no bases"):
            make(genome, as_spans(), 5)
