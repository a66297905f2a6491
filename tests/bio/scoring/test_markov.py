"""Markov models give the bits of their definition, and the known table on the carried sample."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bio.scoring.markov
from bio.genome.genome import Genome, open_genome
from bio.genome.interval import split_by_fraction
from bio.genome.spans import as_spans
from bio.sample import SAMPLE
from bio.scoring.markov import fit_markov, markov_bits
from tests.bio.conftest import MakeGenome

SEQUENCE = st.text("ACGTNac", min_size=1, max_size=120)


def plain_bits(train: str, held_out: str, order: int) -> float | None:
    """Bits per base of an add-one model by dictionaries; None where there is nothing to score."""

    def transitions(text: str) -> list[str]:
        words = [text.upper()[i : i + order + 1] for i in range(len(text) - order)]
        return [word for word in words if "N" not in word]

    counts = Counter(transitions(train))
    contexts = Counter(word[:-1] for word in counts.elements())
    bits = [-math.log2((counts[word] + 1) / (contexts[word[:-1]] + 4)) for word in transitions(held_out)]
    return sum(bits) / len(bits) if bits else None


@given(train=SEQUENCE, held_out=SEQUENCE, order=st.integers(0, 4), chunk=st.sampled_from([1, 7, 1 << 20]))
@settings(max_examples=60)
def test_bits_are_those_of_the_definition(
    make_genome: MakeGenome, train: str, held_out: str, order: int, chunk: int
) -> None:
    genome = make_genome({"train": train, "valid": held_out})
    expected = plain_bits(train, held_out, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bio.scoring.markov, "CHUNK_BASES", chunk)
        model = fit_markov(genome, as_spans([genome.span("train")]), order)
        if expected is None:
            with pytest.raises(ValueError, match=f"No base to score with a Markov model of order {order}"):
                markov_bits(model, genome, as_spans([genome.span("valid")]))
        else:
            found = markov_bits(model, genome, as_spans([genome.span("valid")]))
            assert found == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    return open_genome(SAMPLE, tmp_path_factory.mktemp("cache"))


def test_order_six_is_best_on_the_sample(sample: Genome) -> None:
    splits = split_by_fraction(sample, 0.2)
    bits = [markov_bits(fit_markov(sample, splits["train"], k), sample, splits["valid"]) for k in range(9)]
    assert bits == pytest.approx(
        [1.9813, 1.9284, 1.9214, 1.9190, 1.9148, 1.9126, 1.9109, 1.9230, 1.9629], abs=6e-5
    )


@pytest.mark.parametrize("order", [-1, 13])
def test_order_outside_the_table_is_refused(sample: Genome, order: int) -> None:
    with pytest.raises(ValueError, match=f"A Markov model of order {order} cannot be counted"):
        fit_markov(sample, as_spans(), order)
