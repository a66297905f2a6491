"""Counter-based numbers: functions of seed, stream and counter, the same in NumPy and torch, and uniform."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.random import hash_bits, random_below, random_uniform, random_words, shuffled

COUNTERS = np.concatenate([np.arange(-3, 1000), np.array([2**40, 2**62, -(2**63), 2**63 - 1])])
seeds = st.integers(-(2**70), 2**70)


@settings(deadline=None)
@given(seed=seeds, size=st.integers(1, 300), epochs=st.integers(1, 3))
def test_every_epoch_is_a_permutation(seed: int, size: int, epochs: int) -> None:
    order = shuffled(np.arange(epochs * size), size, seed, 1).reshape(epochs, size)
    assert (np.sort(order, axis=1) == np.arange(size)).all()


@settings(deadline=None)
@given(seed=seeds, size=st.integers(1, 10**12), counters=st.lists(st.integers(0, 10**15), max_size=20))
def test_values_depend_on_their_counter_only(seed: int, size: int, counters: list[int]) -> None:
    together = shuffled(np.array(counters, np.int64), size, seed, 1)
    alone = [int(shuffled(np.array([counter]), size, seed, 1)[0]) for counter in counters]
    assert together.tolist() == alone
    assert all(0 <= index < size for index in alone)


def test_orders_differ_between_epochs_seeds_and_streams() -> None:
    size = 1000
    first, second = shuffled(np.arange(2 * size), size, 0, 1).reshape(2, size)
    orders = [
        np.arange(size),
        first,
        second,
        shuffled(np.arange(size), size, 1, 1),
        shuffled(np.arange(size), size, 0, 2),
    ]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).mean() < 0.02
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.15


def test_every_position_of_a_shuffle_is_uniform() -> None:
    size, epochs = 5, 20_000
    where = shuffled(np.arange(epochs * size), size, 0, 1).reshape(epochs, size)
    counts = np.array([np.bincount(column, minlength=size) for column in where.T])
    expected = epochs / size
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 50  # chi-squared, 16 degrees: beyond 50 once in 40,000


@pytest.mark.parametrize("stream", [1, 2])
def test_uniform_numbers_are_uniform_and_uncorrelated(stream: int) -> None:
    numbers = random_uniform(3, stream, np.arange(100_000))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, 100, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 160  # chi-squared, 99 degrees: beyond 160 once in 10,000
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.015
    assert abs(np.corrcoef(numbers, random_uniform(4, stream, np.arange(100_000)))[0, 1]) < 0.015


def test_values_are_stable_between_releases() -> None:
    assert random_words(0, 1, np.array([0, 1, 2**40])).tolist() == [
        13419602337139355162,
        2843057293039994297,
        1660775209661735387,
    ]
    assert shuffled(np.arange(8), 8, 0, 1).tolist() == [0, 4, 5, 6, 2, 1, 3, 7]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**70])
@pytest.mark.parametrize("stream", [0, 5])
def test_tensors_and_arrays_give_the_same_words(seed: int, stream: int) -> None:
    words = random_words(seed, stream, torch.from_numpy(COUNTERS))
    assert np.array_equal(words.numpy().view(np.uint64), random_words(seed, stream, COUNTERS))


def test_words_do_not_depend_on_the_shape() -> None:
    counters = torch.arange(24)
    flat = random_words(3, 1, counters)
    assert torch.equal(random_words(3, 1, counters.view(2, 3, 4)).flatten(), flat)


@pytest.mark.parametrize("limit", [1, 2, 15, 2**31])
def test_numbers_below_a_limit_are_uniform(limit: int) -> None:
    count = 60_000
    numbers = random_below(limit, 7, 0, torch.arange(count))
    assert 0 <= numbers.min() <= numbers.max() < limit
    bins = min(limit, 15)
    shares = torch.bincount(numbers * bins // limit, minlength=bins) / count
    assert (shares - 1 / bins).abs().max() < 5 * (1 / bins / count) ** 0.5


def test_the_hash_is_the_published_splitmix64() -> None:
    gamma, words = 0x9E3779B97F4A7C15, []
    for index in range(1, 4):  # the generator of Steele et al. seeded with 0
        word = np.array([index * gamma % 2**64], np.uint64).view(np.int64)
        words.append(int(hash_bits(word).view(np.uint64)[0]))
    assert words == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_the_cuda_hash_gives_the_same_words() -> None:
    """Run the arithmetic of sampling.cuh line by line on Python integers modulo 2**64."""
    source = Path("kernels/decoding/cuda_source/sampling.cuh").read_text(encoding="ascii")
    match = re.search(r"u64 hash\(u64 key, u64 index\) \{(.*?)\}", source, re.DOTALL)
    assert match is not None
    lines = re.sub(r"u64 |ull|return ", "", match[1]).split(";")[:-1]
    for key, index in ((0, 0), (2**63 + 5, 2**40), (2**64 - 1, 255)):
        bits = 0
        for line in lines:
            expression = line.strip().removeprefix("bits = ")
            bits = eval(expression, {"key": key, "index": index, "bits": bits}) % 2**64
        word = np.array([(key + (index + 1) * 0x9E3779B97F4A7C15) % 2**64], np.uint64).view(np.int64)
        assert bits == int(hash_bits(word).view(np.uint64)[0])
