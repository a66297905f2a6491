"""Splits: each has every base once, the same blocks in all species, and nothing of another split."""

from pathlib import Path

import numpy as np
import pytest

from bio.genome.vocabulary import encode, without_mask
from bio.species.segments import SpeciesData, concatenate
from tests.bio.conftest import random_bases, write_fasta
from tests.bio.species_sets import opened, two_species


def text_lengths(data: SpeciesData) -> dict[str, list[list[int]]]:
    return {
        split: [[len(segment.bases) for segment in segments] for segments in of_classes]
        for split, of_classes in data.segments.items()
    }


def test_records_are_the_splits(tmp_path: Path) -> None:
    content = two_species(tmp_path, {"a": 30, "b": 20, "c": 10}, split={"train": ["b", "a"], "test": ["c"]})
    data = opened(tmp_path, content)
    assert data.names == ["one", "two"]
    assert text_lengths(data) == {"train": [[20, 30]] * 2, "test": [[10]] * 2}
    assert [segment.name for segment in data.segments["train"][0]] == ["b", "a"]


def test_joined_has_every_base_but_n_in_order() -> None:
    pieces = [encode("ACNNG"), encode("N"), encode("TTNA")]
    assert concatenate(pieces).tolist() == encode("ACGTTA").tolist()
    assert concatenate([]).tolist() == []


def test_files_are_joined_and_their_ends_held_out(tmp_path: Path) -> None:
    text = random_bases(100, letters="ACGTacgtN")
    files = {name: {"train": [f"{name}.train.fa"], "test": [f"{name}.test.fa"]} for name in ("one", "two")}
    for name, letter in (("one", "A"), ("two", "C")):
        write_fasta(tmp_path / f"{name}.train.fa", {"x": text[:40], "y": text[40:] + letter})
        write_fasta(tmp_path / f"{name}.test.fa", {"x": letter * 9})
    data = opened(tmp_path, {"species": files, "join": True, "valid_fraction": 0.25})
    train, valid = (data.segments[split][1] for split in ("train", "valid"))
    whole = np.concatenate([without_mask(train[0].bases), without_mask(valid[0].bases)])
    expected = f"{text}C".upper().replace("N", "")
    assert whole.tolist() == encode(expected).tolist()
    assert len(train[0].bases) == round(len(expected) * 0.75)
    assert train[0].name == "two.train"
    assert [len(segment.bases) for segment in data.segments["test"][0]] == [9]


def test_one_file_under_two_names_is_rejected(tmp_path: Path) -> None:
    content = two_species(tmp_path, {"a": 30, "b": 20}, split={"train": ["a"], "test": ["b"]})
    (tmp_path / "two.fa").write_bytes((tmp_path / "one.fa").read_bytes())
    with pytest.raises(ValueError, match=r"one\.fa of one and two\.fa of two are the same file"):
        opened(tmp_path, content)


@pytest.mark.parametrize("join", [True, False])
def test_a_block_is_in_one_split_in_all_species(tmp_path: Path, join: bool) -> None:
    random = np.random.default_rng(0)
    blocks: dict[str, dict[int, str]] = {"one": {}, "two": {}}
    for name, offset in (("one", 0), ("two", 1)):
        for number in random.permutation(40):
            if number % 7 != offset:  # the species lack different blocks, and have them in another order
                blocks[name][int(number)] = random_bases(20 + number, seed=100 * offset + number)
        named = {f"block{number:03d} {name}:5-9": bases for number, bases in blocks[name].items()}
        write_fasta(tmp_path / f"{name}.fa", named)
    rule = {"group": 4, "of": 5, "valid": [1], "test": [3]}
    data = opened(
        tmp_path,
        {"species": {n: {"fasta": f"{n}.fa"} for n in blocks}, "blocks": rule, "join": join},
    )
    for label, name in enumerate(data.names):
        for split, places in (("train", (0, 2, 4)), ("valid", (1,)), ("test", (3,))):
            numbers = sorted(n for n in blocks[name] if n // 4 % 5 in places)
            found = np.concatenate([segment.bases for segment in data.segments[split][label]])
            assert found.tolist() == encode("".join(blocks[name][n] for n in numbers)).tolist()
    if join:
        groups = {segment.name for segment in data.segments["test"][0]}
        assert groups == {segment.name for segment in data.segments["test"][1]}
        assert groups == {"blocks 12 to 15", "blocks 32 to 35"}


def test_bad_files_are_rejected_by_species(tmp_path: Path) -> None:
    content = two_species(tmp_path, {"a": 30, "b": 20}, split={"train": ["a"], "test": ["z"]})
    with pytest.raises(ValueError, match=r"no chromosome z among the 2 of one\.fa"):
        opened(tmp_path, content)
    with pytest.raises(ValueError, match=r"Record a of one.fa has no block number"):
        opened(tmp_path, {"species": content["species"], "blocks": {"test": [1]}})
    (tmp_path / "two.fa").write_text(">a\nACGU!\n")
    with pytest.raises(ValueError, match=r"Species two: .*'!' is not a nucleotide code"):
        opened(tmp_path, content)
    (tmp_path / "two.fa").unlink()
    with pytest.raises(FileNotFoundError, match=r"Species two: .*two.fa.*data.folder"):
        opened(tmp_path, content)


def test_a_species_without_blocks_of_a_split_is_named(tmp_path: Path) -> None:
    for name, numbers in (("one", range(4)), ("two", range(2))):
        write_fasta(tmp_path / f"{name}.fa", {f"b{n}": random_bases(9, n + len(numbers)) for n in numbers})
    rule = {"group": 1, "of": 4, "test": [3]}
    with pytest.raises(ValueError, match="two have no sequence in split test, but the others do"):
        opened(tmp_path, {"species": {n: {"fasta": f"{n}.fa"} for n in ("one", "two")}, "blocks": rule})
