"""Both forms of a name find a record, coordinates are checked, and every run of N is found."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bio.genome.genome
from bio.genome.genome import Genome
from bio.genome.vocabulary import N, decode
from tests.bio.conftest import MakeGenome, random_bases


@pytest.fixture(scope="module")
def genome(make_genome: MakeGenome) -> Genome:
    records = {"chr1": random_bases(100, 1), "2": random_bases(70, 2).lower(), "MT": "ACGTNNACGT"}
    return make_genome(records)


@pytest.mark.parametrize(
    ("asked", "found"),
    [("chr1", "chr1"), ("1", "chr1"), ("2", "2"), ("chr2", "2"), ("Chr2", "2"), ("chrMT", "MT")],
)
def test_names_with_and_without_chr_find_each_other(genome: Genome, asked: str, found: str) -> None:
    assert genome.resolve(asked).name == found


def test_absent_name_lists_the_nearest(genome: Genome) -> None:
    with pytest.raises(ValueError, match=r"no chromosome chr12 among the 3 of genome.fa.*names: chr1"):
        genome.resolve("chr12")


def test_exact_name_wins_and_otherwise_ambiguity_is_an_error(make_genome: MakeGenome) -> None:
    genome = make_genome({"chr1": "ACGT", "1": "AC", "CHR2": "ACG", "2": "A"})
    assert (genome.resolve("chr1").length, genome.resolve("1").length) == (4, 2)
    with pytest.raises(ValueError, match=r"Chromosome chr2 of genome\.fa is ambiguous: write CHR2 or 2"):
        genome.resolve("chr2")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (5, 5, "inverted, empty or negative"),
        (9, 5, "inverted, empty or negative"),
        (-1, 5, "inverted, empty or negative"),
        (0, 101, "ends past the end of chr1, which has 100 bases here. It may come from another assembly"),
    ],
)
def test_bad_interval_is_refused(genome: Genome, start: int, end: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        genome.span("1", start, end)


def test_tokens_and_repeats_of_an_interval(genome: Genome) -> None:
    assert decode(genome.tokens("2", 3, 9)) == random_bases(70, 2)[3:9]
    assert genome.repeats("2").all()
    assert not genome.repeats("chr1").any()


def test_locate_undoes_span(genome: Genome) -> None:
    for record in genome.records.values():
        for base in (0, record.length - 1):
            assert genome.locate(genome.span(record.name, base, base + 1)[0]) == (record.name, base)


def test_copy_in_another_process_opens_the_same_map(genome: Genome) -> None:
    message = pickle.dumps(genome)
    assert len(message) < 1000
    assert np.array_equal(pickle.loads(message).bases, genome.bases)


@given(text=st.text("ACNn", min_size=1, max_size=60), scan=st.integers(1, 70))
@settings(max_examples=40)
def test_unknown_is_exactly_the_n(make_genome: MakeGenome, text: str, scan: int) -> None:
    genome = make_genome({"a": text, "b": "ANA"})
    expected = (genome.bases & 0x7F) == N
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bio.genome.genome, "SCAN_BASES", scan)
        runs = genome.unknown
    found = np.zeros(genome.bases.size, bool)
    for start, end in runs:
        found[start:end] = True
    assert np.array_equal(found, expected)
    assert (runs[1:, 0] > runs[:-1, 1]).all()
