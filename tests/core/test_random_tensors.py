"""Tensors draw the words that arrays draw."""

import numpy as np
import pytest
import torch

from core.random import random_words
from core.random_tensors import random_below
from core.random_tensors import random_words as words_where_tensors_are

COUNTERS = np.concatenate([np.arange(-3, 1000), np.array([2**40, 2**62, -(2**63), 2**63 - 1])])


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**70])
@pytest.mark.parametrize("stream", [0, 5])
def test_the_words_are_those_of_numpy(seed: int, stream: int) -> None:
    found = words_where_tensors_are(seed, stream, torch.from_numpy(COUNTERS))
    assert np.array_equal(found.numpy().view(np.uint64), random_words(seed, stream, COUNTERS))


def test_any_shape_has_its_counters_words() -> None:
    counters = torch.arange(24)
    flat = words_where_tensors_are(3, 1, counters)
    assert torch.equal(words_where_tensors_are(3, 1, counters.view(2, 3, 4)).flatten(), flat)


@pytest.mark.parametrize("limit", [1, 2, 15, 2**31])
def test_numbers_below_a_limit_are_equally_likely(limit: int) -> None:
    count = 60_000
    found = random_below(limit, 7, 0, torch.arange(count))
    assert 0 <= found.min() <= found.max() < limit
    bins = min(limit, 15)
    shares = torch.bincount(found * bins // limit, minlength=bins) / count
    assert (shares - 1 / bins).abs().max() < 5 * (1 / bins / count) ** 0.5
