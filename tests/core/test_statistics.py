"""Intervals have their nominal coverage; bins cover every position."""

import numpy as np
import pytest

from core.statistics import accuracy, context_edges, difference, wilson


@pytest.mark.parametrize(("correct", "count"), [(0, 7), (7, 7), (3, 10), (480, 500)])
def test_wilson_bounds_solve_the_score_equation(correct: int, count: int) -> None:
    """A bound p satisfies (share - p)^2 = z^2 p (1 - p) / count (Wilson 1927)."""
    interval = wilson(correct, count)
    assert interval.value == correct / count
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    for bound in (interval.low, interval.high):
        squared_error = 1.959963984540054**2 * bound * (1 - bound) / count
        assert (interval.value - bound) ** 2 == pytest.approx(squared_error, abs=1e-12)


def test_clusters_widen_the_interval() -> None:
    right = np.repeat(np.random.default_rng(0).random(20) < 0.5, 50)  # right or wrong by whole clusters
    alone = accuracy(right, [str(i) for i in range(1000)])
    in_clusters = accuracy(right, [str(i // 50) for i in range(1000)])
    assert alone.value == in_clusters.value
    assert in_clusters.high - in_clusters.low > 4 * (alone.high - alone.low)


def test_the_clustered_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        chances = np.clip(random.normal(0.6, 0.15, 40), 0, 1)
        right = random.random((40, 25)) < chances[:, None]
        interval = accuracy(right.ravel(), [str(i // 25) for i in range(1000)])
        covered += interval.low <= 0.6 <= interval.high
    assert covered >= 89


def test_paired_difference_is_narrower_than_two_intervals() -> None:
    random = np.random.default_rng(0)
    hard = random.random(600) < 0.4
    one, other = ~hard, ~hard & (random.random(600) < 0.95)
    clusters = [str(i) for i in range(600)]
    interval = difference(one, other, clusters)
    assert interval.value == pytest.approx(one.mean() - other.mean())
    assert 0 < interval.low < interval.value < interval.high
    assert accuracy(other, clusters).high > accuracy(one, clusters).low
    assert difference(one, one, clusters) == (0, 0, 0)


def test_intervals_are_deterministic() -> None:
    right = np.arange(100) % 3 == 0
    clusters = [str(i // 10) for i in range(100)]
    assert accuracy(right, clusters) == accuracy(right, clusters)


def test_few_clusters_fall_back_to_single_answers() -> None:
    random = np.random.default_rng(0)
    one, other = random.random(200) < 0.8, random.random(200) < 0.7
    in_two = difference(one, other, [str(i // 100) for i in range(200)])
    assert in_two == difference(one, other, [f"{i:03}" for i in range(200)])
    assert in_two.low < in_two.value < in_two.high


@pytest.mark.parametrize("length", [1, 2, 3, 31, 1024, 1 << 20])
def test_edges_cover_every_position_once(length: int) -> None:
    edges = context_edges(length)
    assert edges[0] == 1
    assert edges[-1] == length + 1
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= 2 * length.bit_length() + 2
