"""Sets of species: shipped sets are complete; errors name the wrong key or species."""

from pathlib import Path
from typing import Any

import pytest

from bio.species.species_set import BlockSplit, fasta_of, read_species, records_of, set_names
from bio.windows.splits import SPLITS
from tests.bio.species_sets import write_set

SPLIT = {"train": ["1"], "test": ["2"]}


def content(**rule: Any) -> dict[str, Any]:
    return {"species": {"human": {"fasta": "h.fa"}, "mouse": {"fasta": "m.fa"}}, **rule}


@pytest.mark.parametrize("name", set_names())
def test_every_shipped_set_reads(name: str) -> None:
    found = read_species(name)
    assert len(found.names) >= (2 if name == "human_or_ecoli" else 4)
    for species in found.species.values():
        assert any(species.by_split.values()) or fasta_of(species).endswith((".fa.gz", ".fasta.gz"))


def test_the_great_apes_are_split_by_human_homologue() -> None:
    found = read_species("great_apes")
    assert records_of(found, found.species["human"], "train")["2"] == "chr2"
    gorilla = found.species["gorilla"]
    records = {split: records_of(found, gorilla, split) for split in SPLITS}
    assert records["train"]["2A"] == "chr12_pat_hsa2a"
    assert records["train"]["2B"] == "chr11_mat_hsa2b"
    assert "5" not in records["test"]  # the gorilla's are joined with 17, which is for training
    everywhere = [record for of_split in records.values() for record in of_split.values()]
    assert len(everywhere) == len(set(everywhere))


def test_pretraining_files_are_never_tested() -> None:
    pretrained = {file for s in read_species("encode_pretraining").species.values() for file in s.train}
    for task in ("encode_mammals", "encode_primates"):
        found = read_species(task)
        assert {file for s in found.species.values() for file in s.train} <= pretrained
        assert not pretrained & {file for s in found.species.values() for file in s.test}


def test_blocks_are_dealt_out_in_groups() -> None:
    blocks = BlockSplit(group=2, of=4, valid=[2], test=[3])
    splits = [blocks.split_of(number) for number in range(10)]
    assert splits == ["train"] * 4 + ["valid"] * 2 + ["test"] * 2 + ["train"] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"species": {}, "split": SPLIT}, "names no species"),
        (content(), "One rule must split the sequences, but there are 0"),
        (content(split=SPLIT, blocks={"test": [1]}), "One rule must split the sequences, but there are 2"),
        (content(split={"training": ["1"]}), "Split 'training' is unknown"),
        (content(split={"train": ["1"], "test": ["1"]}), "Chromosome 1 is in a split twice or in two splits"),
        (content(split=SPLIT, valid_fraction=1.0), "valid_fraction is 1.0"),
        (content(blocks={"of": 4, "test": [4]}), r"hold out the places \[4\] of 4 groups"),
        (content(blocks={"of": 2, "test": [0], "valid": [1]}), "leave some for training"),
        (content(splitt=SPLIT), "Key 'splitt' not in"),
        (content(blocks={"group": "many"}), "is not a set of species"),
        ({"species": {"Human": {"fasta": "a"}, "human": {"fasta": "b"}}, "split": SPLIT}, "clashing names"),
        ({"species": {"a b": {"fasta": "a"}, "A_b": {"fasta": "b"}}, "split": SPLIT}, "clashing names"),
        ({"species": {" ": {"fasta": "a"}}, "split": SPLIT}, "blank name"),
        (
            {"species": {"human": {"fasta": "x.fa"}, "mouse": {"fasta": "./x.fa"}}, "split": SPLIT},
            "x.fa is listed twice, for human and for mouse",
        ),
        ({"species": {"human": {}}, "split": SPLIT}, "human needs one of `fasta` and `source`"),
        ({"species": {"human": {"source": "hs11"}}, "split": SPLIT}, "Did you mean hs1"),
        (
            {"species": {"human": {"train": ["a"], "test": ["b"]}, "mouse": {"train": ["c"]}}},
            "human have files for test, mouse have none",
        ),
        ({"species": {"human": {"test": ["b"]}}}, "No species has files for train"),
        (
            {
                "species": {
                    "human": {"fasta": "a", "chromosomes": {"1": "x", "2": "y"}},
                    "mouse": {"fasta": "b", "chromosomes": {"1": "x"}},
                },
                "split": SPLIT,
            },
            "species mouse has no chromosome for test",
        ),
        (
            {"species": {"human": {"fasta": "a", "chromosomes": {"1": "x"}}}, "split": SPLIT},
            "No species has the chromosome 2 of split test",
        ),
    ],
)
def test_a_set_that_cannot_be_used_is_rejected(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    path = write_set(tmp_path, wrong)
    with pytest.raises(ValueError, match=message) as raised:
        read_species(str(path))
    assert str(path) in str(raised.value)


def test_an_unknown_set_names_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Did you mean great_apes"):
        read_species("grate_apes")
    torn = tmp_path / "torn.yaml"
    torn.write_text("species: {human\nsplit: [")
    with pytest.raises(ValueError, match=r"torn\.yaml is not a set of species"):
        read_species(str(torn))
    for text in ("- human\n- mouse\n", "species: [human, mouse]\n", "human\n"):
        (tmp_path / "list.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"list\.yaml is not a set of species"):
            read_species(str(tmp_path / "list.yaml"))
    twice = tmp_path / "twice.yaml"
    twice.write_text("species:\n  human: {fasta: a}\n  human: {fasta: b}\n")
    with pytest.raises(ValueError, match=r"twice\.yaml is not a set of species"):
        read_species(str(twice))
