"""Windows of species: whole, uniform over all valid starts, the same for whoever asks."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from bio.genome.vocabulary import N, encode
from bio.species.segments import Segment, SpeciesData
from bio.species.windows import species_windows
from tests.bio.conftest import random_bases
from tests.bio.species_sets import opened, two_species

DRAWS = 100_000


def data_of(*classes: list[str]) -> SpeciesData:
    """Species with a training segment for each text."""
    segments = [[Segment(f"s{i}", encode(text)) for i, text in enumerate(texts)] for texts in classes]
    return SpeciesData([f"class{i}" for i in range(len(classes))], {"train": segments}, "")


def test_draws_are_uniform_over_species_then_segment_then_start() -> None:
    texts = [[random_bases(40), random_bases(23, 1)], [random_bases(60, 2)]]
    windows = species_windows(data_of(*texts), "train", 20, 0.0)
    drawn = windows.sample(np.arange(DRAWS), seed=3)
    assert all(len(windows.read(window)) == 20 for window in drawn[:1000])
    expected = {
        (label, number, start): DRAWS / 2 / len(of_class) / (len(text) - 19)
        for label, of_class in enumerate(texts)
        for number, text in enumerate(of_class)
        for start in range(len(text) - 19)
    }
    counts = dict.fromkeys(expected, 0)
    for window in drawn:
        counts[tuple(window)] += 1  # a start outside would be a KeyError
    assert chisquare(list(counts.values()), list(expected.values())).pvalue > 1e-3


def test_windows_hold_few_n_and_every_such_start_is_drawn() -> None:
    text = f"{random_bases(30)}{'N' * 12}{random_bases(25, 1)}{'N' * 3}{random_bases(9, 2)}"
    windows = species_windows(data_of([text], [text]), "train", 10, 0.35)
    tokens = encode(text)
    valid = {s for s in range(len(text) - 9) if (tokens[s : s + 10] == N).sum() <= 3}
    assert {window.start for window in windows.sample(np.arange(20_000), 0)} == valid
    assert {window.start for window in windows.list_windows(None, 1)} == valid


def test_a_window_depends_on_its_number_alone() -> None:
    windows = species_windows(data_of([random_bases(99)], [random_bases(80, 1)]), "train", 16, 0.0)
    together = windows.sample(np.arange(50), 7)
    assert [windows.sample(np.array([i]), 7)[0] for i in range(50)] == together
    assert windows.sample(np.arange(50), 8) != together


def test_evaluation_windows_are_balanced_whole_and_disjoint() -> None:
    windows = species_windows(
        data_of([random_bases(100), random_bases(35, 1)], [random_bases(55, 2)]), "train", 10, 0.0
    )
    listed = windows.list_windows(None, 10)
    assert [window.label for window in listed] == [0] * 5 + [1] * 5
    assert all(window.start % 10 == 0 for window in listed)
    assert len(set(listed)) == 10
    assert [window.label for window in windows.list_windows(3, 10)] == [0] * 3 + [1] * 3


def test_lower_case_reads_as_upper_case() -> None:
    windows = species_windows(data_of(["acgtnACGTN"], ["A" * 10]), "train", 10, 0.5)
    (first, _) = windows.list_windows(None, 1)
    assert windows.read(first).tolist() == encode("ACGTNACGTN").tolist()
    assert windows.read(first, 4).tolist() == encode("ACGT").tolist()


def test_pieces_of_homologous_segments_are_one_cluster() -> None:
    windows = species_windows(data_of([random_bases(99)], [random_bases(99, 1)]), "train", 9, 0.0)
    one, other = windows.list_windows(1, 9)
    assert windows.cluster(one) == windows.cluster(other)
    assert windows.record(one) != windows.record(other)


def test_a_window_longer_than_a_piece_is_a_cluster_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bio.species.windows.CLUSTER_BASES", 8)
    windows = species_windows(data_of([random_bases(90)], [random_bases(90, 1)]), "train", 30, 0.0)
    assert [windows.cluster(window) for window in windows.list_windows(None, 30)] == [
        "s0:0",
        "s0:1",
        "s0:2",
    ] * 2


def test_a_species_without_a_window_is_named(tmp_path: Path) -> None:
    data = opened(tmp_path, two_species(tmp_path, {"a": 30, "b": 50}, split={"train": ["a"], "test": ["b"]}))
    with pytest.raises(ValueError, match="Species one has no window of 31 bases in split train: its longest"):
        species_windows(data, "train", 31, 0.0)
    with pytest.raises(ValueError, match="no sequences in split valid, only in train, test"):
        species_windows(data, "valid", 3, 0.0)
    with pytest.raises(ValueError, match="the length must be at least 1"):
        species_windows(data, "train", 0, 0.0)
    gaps = data_of(["A" * 20], [f"A{'N' * 18}A"])
    with pytest.raises(ValueError, match=r"Species class1 has no window of 8 bases.*more than 10% N"):
        species_windows(gaps, "train", 8, 0.1)
    only_between = data_of(["A" * 20], [f"{'N' * 5}{'A' * 8}{'N' * 5}"])
    with pytest.raises(ValueError, match="class1 has no window of 8 bases at a multiple of 8"):
        species_windows(only_between, "train", 8, 0.0).list_windows(None, 8)
