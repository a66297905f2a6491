"""core.random where tensors are: the same words of the same counters, on any device, waiting for nothing."""

import numpy as np
from torch import Tensor

from core.random import GOLDEN_GAMMA, stream_key


def random_words(seed: int, stream: int, counter: Tensor) -> Tensor:
    """64 random bits, as int64, for each int64 counter (any shape): those of core.random.random_words."""
    key = _signed(stream_key(seed, stream))
    return _mix(_mix(counter + key) ^ key)


def random_below(limit: int, seed: int, stream: int, counter: Tensor) -> Tensor:
    """An int64 from 0 to limit - 1 for each counter; limit up to 2^31, numbers equally likely to 2^-32."""
    return (_shifted(random_words(seed, stream, counter), 32) * limit) >> 32


def _mix(word: Tensor) -> Tensor:
    word = word + _signed(GOLDEN_GAMMA)
    word = (word ^ _shifted(word, 30)) * _signed(np.uint64(0xBF58476D1CE4E5B9))
    word = (word ^ _shifted(word, 27)) * _signed(np.uint64(0x94D049BB133111EB))
    return word ^ _shifted(word, 31)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """The word shifted right with zeros coming in, where int64 would repeat its sign."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: np.uint64) -> int:
    """The int64 of the same bits."""
    return int(word.astype(np.int64))
