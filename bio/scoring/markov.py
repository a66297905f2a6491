"""Markov models of fixed order: the baseline that a learned model must beat."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bio.genome.genome import Genome
from bio.genome.spans import Integers, Spans
from bio.genome.vocabulary import without_mask
from bio.scoring.kmer import kmer_ids

MAX_ORDER = 12
CHUNK_BASES = 1 << 20


@dataclass(frozen=True)
class MarkovModel:
    """counts: (4^order, 4), how often each base followed each context, one added to every count."""

    order: int
    counts: npt.NDArray[np.uint32]


def check_order(order: int) -> None:
    """Raises ValueError for an order outside 0 to 12."""
    if not 0 <= order <= MAX_ORDER:
        raise ValueError(
            f"A Markov model of order {order} cannot be counted: the order must be 0 to {MAX_ORDER}."
        )


def fit_markov(genome: Genome, spans: Spans, order: int) -> MarkovModel:
    """The model of an order, 0 to 12, fitted on spans (n, 2) of a genome; contexts with N are passed over.

    Raises ValueError for an order outside 0 to 12.
    """
    check_order(order)
    counts = np.ones(4 ** (order + 1), np.uint32)
    for ids in _transitions(genome, spans, order):
        # A one of another type than the counts would make this fifty times slower.
        np.add.at(counts, ids, np.uint32(1))
    return MarkovModel(order, counts.reshape(-1, 4))


def markov_bits(model: MarkovModel, genome: Genome, spans: Spans) -> float:
    """Bits per base of a model on spans (n, 2), over the bases whose context lies in their span without N.

    Raises ValueError when there is no such base.
    """
    bits, count = 0.0, 0
    for ids in _transitions(genome, spans, model.order):
        context, base = np.divmod(ids, 4)
        rows = model.counts[context]
        bits += np.log2(rows.sum(axis=1)).sum() - np.log2(rows[np.arange(len(ids)), base]).sum()
        count += len(ids)
    if not count:
        raise ValueError(
            f"No base to score with a Markov model of order {model.order}: give longer intervals."
        )
    return float(bits / count)


def _transitions(genome: Genome, spans: Spans, order: int) -> Iterator[Integers]:
    """The ids of (context, base), base last, for each known one in the spans, in chunks."""
    for start, end in spans.tolist():
        for first in range(start, end - order, CHUNK_BASES):
            tokens = without_mask(genome.bases[first : min(first + CHUNK_BASES + order, end)])
            ids = kmer_ids(tokens, order + 1)
            yield ids[ids >= 0]
