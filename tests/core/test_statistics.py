"""Intervals of an accuracy: they hold what they should as often as they say."""

import numpy as np
import pytest
from scipy.stats import binomtest

from core.statistics import accuracy, context_edges, difference, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (3, 10), (480, 500)])
def test_wilson_is_scipy_s(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    found = wilson(right, count)
    assert found.value == right / count
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_answers_that_depend_on_each_other_widen_the_interval() -> None:
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
        found = accuracy(right.ravel(), [str(i // 25) for i in range(1000)])
        covered += found.low <= 0.6 <= found.high
    assert covered >= 89


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    random = np.random.default_rng(0)
    hard = random.random(600) < 0.4
    one, other = ~hard, ~hard & (random.random(600) < 0.95)
    clusters = [str(i) for i in range(600)]
    found = difference(one, other, clusters)
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert 0 < found.low < found.value < found.high
    assert accuracy(other, clusters).high > accuracy(one, clusters).low
    assert difference(one, one, clusters) == (0, 0, 0)


def test_intervals_are_the_same_each_time() -> None:
    right = np.arange(100) % 3 == 0
    clusters = [str(i // 10) for i in range(100)]
    assert accuracy(right, clusters) == accuracy(right, clusters)


def test_few_clusters_do_not_make_it_certain() -> None:
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
