"""The baseline is that of the training bases on the held-out ones, and is counted once for the same bases."""

from pathlib import Path

import pytest
import torch

from bio.scoring.markov import fit_markov, markov_bits
from core.training import World
from pipelines.common import dna_markov
from pipelines.common.dna import DataConfig, DnaData, open_data
from pipelines.common.dna_markov import markov_baseline
from tests.pipelines.conftest import write_fasta


def opened(fasta: Path, **options: object) -> DnaData:
    config = DataConfig(str(fasta), length=48, **options)  # type: ignore[arg-type]
    return open_data(config, World(0, 1, torch.device("cpu")))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The orders that have been counted."""
    orders: list[int] = []

    def fit(genome, spans, order):  # type: ignore[no-untyped-def]
        orders.append(order)
        return fit_markov(genome, spans, order)

    monkeypatch.setattr(dna_markov, "fit_markov", fit)
    return orders


def test_it_is_of_training_bases_on_the_bases_of_the_windows(fasta: Path) -> None:
    data = opened(fasta, valid_fraction=0.2)
    windows = data.held_out["valid"]
    found = markov_baseline(data, windows, [0, 2], Path())
    for order, bits in found.items():
        model = fit_markov(data.genome, data.splits["train"], order)
        assert bits == markov_bits(model, data.genome, windows.coverage())
    assert list(found) == [0, 2]


def test_what_is_held_out_is_not_counted_where_intervals_overlap(fasta: Path) -> None:
    Path("segments.bed").write_text("chr1\t0\t3000\ttrain\nchr1\t1000\t2000\tvalid\n")
    data = opened(fasta, bed="segments.bed")
    markov_baseline(data, data.held_out["valid"], [1], Path())
    assert '"train_bases": 2000' in Path(dna_markov.TABLE).read_text()


def test_it_is_counted_once_for_the_same_bases(fasta: Path, counted: list[int]) -> None:
    data = opened(fasta)
    first = markov_baseline(data, data.held_out["valid"], [1, 2], Path())
    more = markov_baseline(data, data.held_out["valid"], [2, 1, 3], Path())
    assert counted == [1, 2, 3]
    assert list(more) == [2, 1, 3]
    assert more.items() >= first.items()
    other = opened(write_fasta(Path("other.fa"), {"chr1": 3000}, seed=5))
    assert markov_baseline(other, other.held_out["valid"], [1], Path()) != first
    assert counted == [1, 2, 3, 1]


def test_no_orders_leave_no_table(fasta: Path) -> None:
    data = opened(fasta)
    assert markov_baseline(data, data.held_out["valid"], [], Path()) == {}
    assert not Path(dna_markov.TABLE).exists()
