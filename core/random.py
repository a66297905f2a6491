"""Counter-based randomness: every value is a pure function of (seed, stream, counter).

Nothing is drawn in sequence, so any worker, rank or resumed run finds the same values.
The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
"""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
ROUND_KEYS = np.arange(8, dtype=np.uint64) * GOLDEN_GAMMA
"""Of the Feistel network; with four rounds, orders of few windows are visibly not uniform."""
SEED_BITS = (1 << 64) - 1


def random_words(seed: int, stream: int, counter: Integers) -> Words:
    """64 random bits for each counter (n,); streams of one seed are independent."""
    key = stream_key(seed, stream)
    return _mix(_mix(key + counter.astype(np.uint64)) ^ key)


def stream_key(seed: int, stream: int) -> np.uint64:
    """What sets the words of a stream apart from those of all others."""
    return _mix(_mix(np.array([seed & SEED_BITS], np.uint64)) + np.array([stream], np.uint64))[0]


def random_uniform(seed: int, stream: int, counter: Integers) -> npt.NDArray[np.floating]:
    """A number in [0, 1) for each counter (n,)."""
    return (random_words(seed, stream, counter) >> np.uint64(11)) * 2.0**-53


def shuffled(counter: Integers, size: int, seed: int, stream: int) -> Integers:
    """Endless shuffled epochs over 0 .. size-1: what stands at each counter (n,).

    Epoch e is counters e*size .. (e+1)*size - 1 and holds every index once. A Feistel network permutes a
    power of four that holds `size`; a value beyond `size` is permuted again until it falls inside.
    """
    epoch, position = np.divmod(counter, size)
    keys = random_words(seed, stream, epoch)
    half = max(1, -(-(size - 1).bit_length() // 2))
    index = _feistel(position.astype(np.uint64), keys, half)
    while (outside := index >= size).any():
        index[outside] = _feistel(index[outside], keys[outside], half)
    return index.astype(np.int64)


def _feistel(value: Words, keys: Words, half_bits: int) -> Words:
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = value >> shift, value & mask
    for round_key in ROUND_KEYS:
        left, right = right, left ^ (_mix(keys + right + round_key) & mask)
    return left << shift | right


def _mix(word: Words) -> Words:
    word = word + GOLDEN_GAMMA
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
