"""Batches of species: a row is a function of its number, whoever asks; augmentations change what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bio.genome.vocabulary import A, N, T, reverse_complement
from bio.species.dataset import SpeciesDataset, WindowList
from bio.species.windows import SpeciesWindows, species_windows
from tests.bio.conftest import write_fasta
from tests.bio.species_sets import opened, two_species


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> SpeciesWindows:
    folder = tmp_path_factory.mktemp("species")
    content = two_species(folder, {"a": 900, "b": 500}, split={"train": ["a", "b"]})
    return species_windows(opened(folder, content), "train", 33, 0.0)


@pytest.mark.parametrize("mutation", [0.0, 0.2])
def test_rows_are_the_same_however_they_are_shared(windows: SpeciesWindows, mutation: float) -> None:
    dataset = SpeciesDataset(windows, 8, seed=1, mutation=mutation)
    inputs, targets = dataset(5, range(8))
    assert inputs.shape == (8, 33)
    assert (inputs.dtype, targets.dtype, targets.shape) == (torch.uint8, torch.int8, (8, 1))
    shares = [dataset(5, range(first, first + 2)) for first in range(0, 8, 2)]
    assert torch.equal(torch.cat([share[0] for share in shares]), inputs)
    assert torch.equal(torch.cat([share[1] for share in shares]), targets)
    assert not torch.equal(dataset(6, range(8))[0], inputs)


def test_inputs_are_windows_of_their_class_on_either_strand(windows: SpeciesWindows) -> None:
    inputs, targets = SpeciesDataset(windows, 64)(0, range(64))
    strands = set()
    for row, label in zip(inputs.numpy(), targets[:, 0].tolist(), strict=True):
        texts = [segment.bases.tobytes() for segment in windows.segments[label]]
        forward = any(row.tobytes() in text for text in texts)
        backward = any(reverse_complement(row).tobytes() in text for text in texts)
        assert forward != backward
        strands.add(forward)
    assert strands == {True, False}


def test_mutation_changes_about_its_share_into_bases(windows: SpeciesWindows) -> None:
    plain, _ = SpeciesDataset(windows, 256)(0, range(256))
    mutated, _ = SpeciesDataset(windows, 256, mutation=0.2)(0, range(256))
    changed = (plain != mutated).float().mean().item()
    assert changed == pytest.approx(0.2 * 3 / 4, abs=0.02)
    assert mutated.min() >= A
    assert mutated.max() <= T
    with pytest.raises(ValueError, match=r"mutation is 1.0"):
        SpeciesDataset(windows, 1, mutation=1.0)


def test_mutation_leaves_n(tmp_path: Path) -> None:
    content = two_species(tmp_path, {"a": 90}, split={"train": ["a"]})
    write_fasta(tmp_path / "one.fa", {"a": "ANC" * 30})
    windows = species_windows(opened(tmp_path, content), "train", 90, 0.5)
    plain, classes = SpeciesDataset(windows, 8)(0, range(8))
    mutated, _ = SpeciesDataset(windows, 8, mutation=0.9)(0, range(8))
    assert (classes == 0).any()
    assert torch.equal(plain == N, mutated == N)


def test_next_base_targets_follow_their_inputs(windows: SpeciesWindows) -> None:
    inputs, targets = SpeciesDataset(windows, 4, next_base=True)(2, range(4))
    whole, _ = SpeciesDataset(windows, 4)(2, range(4))
    assert torch.equal(inputs, whole[:, :-1])
    assert torch.equal(targets, whole[:, 1:].to(torch.int8))


def test_a_window_list_reads_windows_and_their_beginnings(windows: SpeciesWindows) -> None:
    listed = windows.list_windows(3, 33)
    assert [len(WindowList(windows, listed, n)[0]) for n in (None, 7)] == [33, 7]
    expected = np.stack([windows.read(window) for window in listed])
    found = WindowList(windows, listed)
    assert torch.equal(torch.stack([found[i] for i in range(len(found))]), torch.from_numpy(expected))
