"""Markov models follow their definition, give known bits on the bundled sample, and are cached."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bio.scoring.markov
from bio.genome.genome import Genome, open_genome
from bio.genome.spans import as_spans
from bio.sample import SAMPLE
from bio.scoring.markov import fit_markov, markov_baseline, markov_bits
from bio.windows.splits import separate, split_by_fraction
from bio.windows.training_data import DataConfig, TrainingData, open_data
from bio.windows.window import TiledWindows
from core.training import World
from tests.bio.conftest import MakeGenome, random_bases, write_fasta

SEQUENCE = st.text("ACGTNac", min_size=1, max_size=120)


def plain_bits(train: str, held_out: str, order: int) -> float | None:
    """Return the bits per base of an add-one model by dictionaries; None without bases to score."""

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
def test_order_outside_0_to_12_is_an_error(sample: Genome, order: int) -> None:
    with pytest.raises(ValueError, match=f"order of a Markov model is {order}; it must be 0 to 12"):
        fit_markov(sample, as_spans(), order)


def open_tiny(fasta: Path, **options: object) -> TrainingData:
    config = DataConfig(str(fasta), length=48, **options)  # type: ignore[arg-type]
    return open_data(config, World(0, 1, torch.device("cpu")))


def baseline(data: TrainingData, windows: TiledWindows, orders: list[int]) -> dict[int, float]:
    train = separate(data.splits)["train"]
    return markov_baseline(data.genome, train, data.held_out_genome, windows.coverage(), orders, Path())


@pytest.fixture
def fitted_orders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Orders of the models that were fitted."""
    orders: list[int] = []

    def fit(genome, spans, order):  # type: ignore[no-untyped-def]
        orders.append(order)
        return fit_markov(genome, spans, order)

    monkeypatch.setattr(bio.scoring.markov, "fit_markov", fit)
    return orders


def test_baseline_is_fitted_on_training_bases(run_fasta: Path) -> None:
    data = open_tiny(run_fasta, valid_fraction=0.2)
    windows = data.held_out["valid"]
    bits = baseline(data, windows, [0, 2])
    for order, value in bits.items():
        model = fit_markov(data.genome, data.splits["train"], order)
        assert value == markov_bits(model, data.genome, windows.coverage())
    assert list(bits) == [0, 2]


def test_baseline_leaves_out_held_out_bases_of_overlapping_intervals(run_fasta: Path) -> None:
    Path("segments.bed").write_text("chr1\t0\t3000\ttrain\nchr1\t1000\t2000\tvalid\n")
    data = open_tiny(run_fasta, bed="segments.bed")
    baseline(data, data.held_out["valid"], [1])
    assert '"train_bases": 2000' in Path(bio.scoring.markov.TABLE).read_text()


def test_baseline_is_cached_for_the_same_bases(run_fasta: Path, fitted_orders: list[int]) -> None:
    data = open_tiny(run_fasta)
    first = baseline(data, data.held_out["valid"], [1, 2])
    more = baseline(data, data.held_out["valid"], [2, 1, 3])
    assert fitted_orders == [1, 2, 3]
    assert list(more) == [2, 1, 3]
    assert more.items() >= first.items()
    other = open_tiny(write_fasta(Path("other.fa"), {"chr1": random_bases(3000, 5)}))
    assert baseline(other, other.held_out["valid"], [1]) != first
    assert fitted_orders == [1, 2, 3, 1]


def test_baseline_without_orders_writes_no_table(run_fasta: Path) -> None:
    data = open_tiny(run_fasta)
    assert baseline(data, data.held_out["valid"], []) == {}
    assert not Path(bio.scoring.markov.TABLE).exists()
