"""Bins of context: how far into its sequence a token stands."""

import numpy as np

from core.random import Integers

BINS_PER_DOUBLING = 2


def context_edges(length: int) -> Integers:
    """Edges (bins + 1,) of bins of positions, from 1 to length + 1, evenly spaced on a log scale."""
    steps = np.arange(BINS_PER_DOUBLING * length.bit_length())
    inner = np.unique(np.round(2 ** (steps / BINS_PER_DOUBLING)).astype(np.int64))
    return np.append(inner[inner <= length], length + 1)
