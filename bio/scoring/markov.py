"""Markov models of fixed order: the baseline for a trained model."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bio.genome.genome import Genome
from bio.genome.spans import Integers, Spans, total
from bio.genome.vocabulary import without_mask
from bio.scoring.kmer import kmer_ids
from core.storage.atomic import write_json

MAX_ORDER = 12
CHUNK_BASES = 1 << 20
TABLE, TEST_TABLE = "markov.json", "markov_test.json"


@dataclass(frozen=True)
class MarkovModel:
    """counts: (4^order, 4) number of times that each base followed each context, plus one."""

    order: int
    counts: npt.NDArray[np.uint32]


def check_order(order: int) -> None:
    """Raise ValueError for an order outside 0 to 12."""
    if not 0 <= order <= MAX_ORDER:
        raise ValueError(f"The order of a Markov model is {order}; it must be 0 to {MAX_ORDER}.")


def fit_markov(genome: Genome, spans: Spans, order: int) -> MarkovModel:
    """Fit a model of an order (0 to 12) on spans (n, 2) of a genome, skipping contexts with N.

    Raises ValueError for an order outside 0 to 12.
    """
    check_order(order)
    counts = np.ones(4 ** (order + 1), np.uint32)
    for ids in _transitions(genome, spans, order):
        # an addend of another type than the counts is fifty times slower
        np.add.at(counts, ids, np.uint32(1))
    return MarkovModel(order, counts.reshape(-1, 4))


def markov_bits(model: MarkovModel, genome: Genome, spans: Spans) -> float:
    """Return the bits per base of a model on spans (n, 2), over bases with a whole context without N.

    Raises ValueError if there is no such base.
    """
    bits, count = 0.0, 0
    for ids in _transitions(genome, spans, model.order):
        context, base = np.divmod(ids, 4)
        rows = model.counts[context]
        bits += np.log2(rows.sum(axis=1)).sum() - np.log2(rows[np.arange(len(ids)), base]).sum()
        count += len(ids)
    if not count:
        raise ValueError(f"No base to score with a Markov model of order {model.order}. Use longer spans.")
    return float(bits / count)


def markov_baseline(
    genome: Genome,
    spans: Spans,
    held_out_genome: Genome,
    held_out_spans: Spans,
    orders: Sequence[int],
    folder: Path,
    table: str = TABLE,
) -> dict[int, float]:
    """Return the held-out bits per base of Markov models by order, fitted on the training bases.

    genome, spans: training bases. Results are cached in the file `table` of `folder` for the same bases;
    progress goes to stderr. Raises ValueError for an order outside 0 to 12.
    """
    path = folder / table
    checksum = _checksum((genome, spans), (held_out_genome, held_out_spans))
    bits = _read_cache(path, checksum)
    if missing := [order for order in orders if order not in bits]:
        for order in tqdm(missing, desc="Markov models", unit="order", dynamic_ncols=True):
            bits[order] = markov_bits(fit_markov(genome, spans, order), held_out_genome, held_out_spans)
        content = {
            "bases": checksum,
            "train_bases": total(spans),
            "held_out_bases": total(held_out_spans),
            "rows": [{"order": order, "bits_per_base": bits[order]} for order in sorted(bits)],
        }
        write_json(path, content)
    return {order: bits[order] for order in orders}


def _transitions(genome: Genome, spans: Spans, order: int) -> Iterator[Integers]:
    """Yield the ids of (context, base), base last, of the spans in chunks, without those that hold N."""
    for start, end in spans.tolist():
        for first in range(start, end - order, CHUNK_BASES):
            tokens = without_mask(genome.bases[first : min(first + CHUNK_BASES + order, end)])
            ids = kmer_ids(tokens, order + 1)
            yield ids[ids >= 0]


def _read_cache(table: Path, checksum: str) -> dict[int, float]:
    """Return the bits by order in the table; empty if the table is missing or of other bases."""
    if not table.exists():
        return {}
    content = json.loads(table.read_text(encoding="utf-8"))
    if content["bases"] != checksum:
        return {}
    return {row["order"]: row["bits_per_base"] for row in content["rows"]}


def _checksum(*parts: tuple[Genome, Spans]) -> str:
    text = hashlib.sha256()
    for genome, spans in parts:
        text.update(genome.sha256.encode() + spans.tobytes())
    return text.hexdigest()
