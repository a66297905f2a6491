"""k-mer spectra of sequences, and distances between spectra."""

from functools import cache

import numpy as np
import numpy.typing as npt

from bio.genome.spans import Integers
from bio.genome.vocabulary import A, Bytes, T

Spectrum = npt.NDArray[np.float64]

MAX_K = 13


def kmer_ids(tokens: Bytes, k: int) -> Integers:
    """Return the id of the k-mer at each position, (length - k + 1,): its bases as base-4 digits.

    The id is -1 if the k-mer holds any symbol except A, C, G, T. tokens: (length,), without soft-mask flags.
    Raises ValueError for a k outside 1 to 13, because a table of 4^k entries would not fit in memory.
    """
    if not 1 <= k <= MAX_K:
        raise ValueError(f"The length of a k-mer is {k}; k must be 1 to {MAX_K}.")
    count = max(0, len(tokens) - k + 1)
    digits = tokens.astype(np.int32) - A
    is_unknown = (tokens < A) | (tokens > T)
    ids = np.zeros(count, np.int32)
    unknown = np.zeros(count, np.bool_)
    for offset in range(k):
        ids *= 4
        ids += digits[offset : offset + count]
        unknown |= is_unknown[offset : offset + count]
    ids[unknown] = -1
    return ids.astype(np.int64)


def kmer_spectrum(tokens: Bytes, k: int) -> Spectrum:
    """Return the frequency of each k-mer, (4^k,), in tokens (length,) or (sequences, length).

    k-mers with N do not count. Raises ValueError if there is no k-mer to count.
    """
    ids = np.concatenate([kmer_ids(row, k) for row in np.atleast_2d(tokens)])
    counts = np.bincount(ids[ids >= 0], minlength=4**k)
    if not counts.sum():
        raise ValueError(f"The sequences hold no {k}-mer of A, C, G, T. Use longer sequences or a smaller k.")
    return counts / counts.sum()


def strandless_spectrum(tokens: Bytes, k: int) -> Spectrum:
    """Return the frequency (strandless k-mers,) of each k-mer or its reverse complement in tokens (length,).

    Both strands give the same spectrum; it is zero without a k-mer of A, C, G, T. Raises as kmer_ids does.
    """
    ids = kmer_ids(tokens, k)
    columns = strandless_columns(k)
    kmers = columns[ids[ids >= 0]]
    return np.bincount(kmers, minlength=columns.max() + 1) / max(1, len(kmers))


@cache
def strandless_columns(k: int) -> Integers:
    """Return the column (4^k,) of each k-mer in a strandless spectrum, shared with its reverse complement."""
    ids = np.arange(4**k)
    reverse = np.zeros_like(ids)
    for place in range(k):
        reverse = reverse * 4 + (3 - ids // 4**place % 4)
    return np.unique(np.minimum(ids, reverse), return_inverse=True)[1]


def kmer_names(k: int) -> list[str]:
    """Return the k-mers in the order of a spectrum."""
    names = [""]
    for _ in range(k):
        names = [name + base for name in names for base in "ACGT"]
    return names


def jensen_shannon(first: Spectrum, second: Spectrum) -> float:
    """Return the Jensen-Shannon divergence (bits) of two spectra: 0 if equal, 1 if disjoint (Lin, 1991)."""
    middle = (first + second) / 2
    return float((_relative_entropy(first, middle) + _relative_entropy(second, middle)) / 2)


def pearson(first: Spectrum, second: Spectrum) -> float:
    """Return Pearson's correlation of two spectra."""
    return float(np.corrcoef(first, second)[0, 1])


def _relative_entropy(first: Spectrum, second: Spectrum) -> float:
    present = first > 0
    return float((first[present] * np.log2(first[present] / second[present])).sum())
