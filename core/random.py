"""Counter-based random numbers: each value is a pure function of (seed, stream, counter).

There is no generator state, so every worker, rank and resumed run gets the same values. The hash is the
finaliser of SplitMix64 (Steele, Lea and Flood, 2014), defined once here in wrapping int64 arithmetic for
NumPy arrays and for tensors of any device. `kernels/decoding/cuda_source/sampling.cuh` is its CUDA twin.
"""

from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt
from torch import Tensor

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Word = TypeVar("Word", Integers, Tensor)

GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
FEISTEL_ROUNDS = 8
"""Rounds of the shuffle; with four, the orders of a few windows are visibly not uniform."""


@overload
def random_words(seed: int, stream: int, counter: Integers) -> Words: ...
@overload
def random_words(seed: int, stream: int, counter: Tensor) -> Tensor: ...
def random_words(seed: int, stream: int, counter: Integers | Tensor) -> Words | Tensor:
    """Return 64 random bits for each counter (any shape); the streams of a seed are independent.

    Arrays give uint64. Tensors give int64 with the same bits, on their device and without a synchronisation.
    """
    key = stream_key(seed, stream)
    if isinstance(counter, Tensor):
        return _words(key, counter)
    return _words(key, np.asarray(counter, np.int64)).view(np.uint64)


def random_uniform(seed: int, stream: int, counter: Integers) -> npt.NDArray[np.floating]:
    """Return a number in [0, 1) for each counter (n,)."""
    return (random_words(seed, stream, counter) >> np.uint64(11)) * 2.0**-53


def random_below(limit: int, seed: int, stream: int, counter: Tensor) -> Tensor:
    """Return an int64 in [0, limit) for each counter; limit <= 2**31, uniform up to 2**-32."""
    return (logical_shift_right(random_words(seed, stream, counter), 32) * limit) >> 32


def shuffled(counter: Integers, size: int, seed: int, stream: int) -> Integers:
    """Return the index at each counter (n,) of endless shuffled epochs over 0 .. size - 1.

    Epoch e covers the counters e * size .. (e + 1) * size - 1 and holds every index once. A Feistel network
    permutes the smallest sufficient power of four; values beyond `size` are permuted again until they fit.
    """
    epoch, position = np.divmod(counter, size)
    keys = random_words(seed, stream, epoch).view(np.int64)
    half_bits = max(1, -(-(size - 1).bit_length() // 2))
    index = _feistel(position, keys, half_bits)
    while (outside := index >= size).any():
        index[outside] = _feistel(index[outside], keys[outside], half_bits)
    return index


def stream_key(seed: int, stream: int) -> int:
    """Return the int64 key of a stream; `seed` counts modulo 2**64."""
    seed_word = np.array([seed & ((1 << 64) - 1)], np.uint64).view(np.int64)
    return int(_mix(_mix(seed_word) + np.int64(stream))[0])


def hash_bits(word: Word) -> Word:
    """Return the SplitMix64 finaliser, a permutation, of int64 words."""
    word = (word ^ logical_shift_right(word, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    word = (word ^ logical_shift_right(word, 27)) * (0x94D049BB133111EB - (1 << 64))
    return word ^ logical_shift_right(word, 31)


def logical_shift_right(word: Word, bits: int) -> Word:
    """Shift int64 words right and fill with zeros, where `>>` fills with the sign."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _words(key: int, counter: Word) -> Word:
    return _mix(_mix(counter + key) ^ key)


def _mix(word: Word) -> Word:
    return hash_bits(word + GOLDEN_GAMMA)


def _feistel(value: Integers, keys: Integers, half_bits: int) -> Integers:
    """Permute values (n,) below 4**half_bits by the keys (n,)."""
    mask = (1 << half_bits) - 1
    round_keys = np.arange(FEISTEL_ROUNDS, dtype=np.int64) * GOLDEN_GAMMA
    left, right = value >> half_bits, value & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mix(keys + right + round_key) & mask)
    return left << half_bits | right
