"""Sequence shared by two genomes is found at any coordinates and on either strand."""

import math

import numpy as np
import pytest

from bio.genome.spans import as_spans
from bio.genome.vocabulary import decode, encode, reverse_complement
from bio.windows.leakage import CHUNK_BASES, K, shared_kmers
from tests.bio.conftest import MakeGenome, random_bases

HELD_OUT = random_bases(4000, 1)
OTHER = random_bases(6000, 2)


def share(make_genome: MakeGenome, train: str, held_out: str) -> float:
    genomes = [make_genome({"chr1": train}), make_genome({"1": held_out})]
    first, second = ((genome, genome.record_spans) for genome in genomes)
    return shared_kmers(*first, *second)


def test_unrelated_sequences_share_nothing(make_genome: MakeGenome) -> None:
    assert share(make_genome, OTHER, HELD_OUT) == 0


@pytest.mark.parametrize("text", [HELD_OUT, HELD_OUT.lower(), decode(reverse_complement(encode(HELD_OUT)))])
def test_same_sequence_is_found_at_any_position(make_genome: MakeGenome, text: str) -> None:
    assert share(make_genome, OTHER + text, HELD_OUT) == 1


def test_share_is_relative_to_held_out_bases(make_genome: MakeGenome) -> None:
    assert share(make_genome, OTHER + HELD_OUT[:1000], HELD_OUT) == pytest.approx(0.23, abs=0.07)
    assert share(make_genome, HELD_OUT, OTHER + HELD_OUT) == pytest.approx(0.4, abs=0.07)


def test_substitution_changes_only_its_own_kmers(make_genome: MakeGenome) -> None:
    swap = {"A": "C", "C": "G", "G": "T", "T": "A"}
    mutated = HELD_OUT[:2000] + swap[HELD_OUT[2000]] + HELD_OUT[2001:]
    expected = 1 - K / (len(HELD_OUT) - K + 1)
    assert share(make_genome, mutated, HELD_OUT) == pytest.approx(expected, abs=0.02)


def test_only_the_spans_are_compared(make_genome: MakeGenome) -> None:
    genome = make_genome({"chr1": HELD_OUT})
    halves = as_spans([genome.span("chr1", 0, 2000)]), as_spans([genome.span("chr1", 2000, 4000)])
    assert shared_kmers(genome, halves[0], genome, halves[1]) == 0


def test_kmer_across_two_chunks_is_found(make_genome: MakeGenome) -> None:
    long = random_bases(CHUNK_BASES + 2000, 3)
    across = long[CHUNK_BASES - 1000 : CHUNK_BASES + 1000]
    assert share(make_genome, long, across) == share(make_genome, across, across) == 1


def test_n_matches_nothing(make_genome: MakeGenome) -> None:
    assert math.isnan(share(make_genome, "N" * 500, "N" * 500))
    assert share(make_genome, "N" * 500, HELD_OUT) == 0
    assert math.isnan(share(make_genome, HELD_OUT, HELD_OUT[: K - 1]))
    assert np.isfinite(share(make_genome, HELD_OUT[:K], HELD_OUT))
