"""Embeddings equal those of one forward pass over each interval, and the index finds them."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from bio.dna_model import load_model
from bio.genome.vocabulary import encode
from core.models.classifier import pooled_hidden
from pipelines import dna_embed
from pipelines.common.config import schema_keys
from tests.bio.conftest import random_bases, write_fasta

TEXTS = {"a": random_bases(130), "b": random_bases(64, 1), "c": random_bases(101, 2)}


@pytest.fixture
def genome(own_folder: None) -> Path:
    return write_fasta(Path("genome.fa"), TEXTS)


def embedded(*arguments: str) -> tuple[np.ndarray, list[dict[str, str]]]:
    assert dna_embed.main(["output=vectors.npy", *arguments]) == 0
    index = csv.DictReader(Path("vectors.tsv").read_text().splitlines(), delimiter="\t")
    return np.load("vectors.npy"), list(index)


def alone(run: Path, text: str) -> torch.Tensor:
    model = load_model(run, torch.device("cpu"))
    with torch.no_grad():
        return model.hidden(torch.from_numpy(encode(text))[None])[0]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_record_vector_equals_one_forward_pass(run: Path, genome: Path, pooling: str) -> None:
    vectors, index = embedded(f"checkpoint={run}", f"fasta=[{genome}]", f"pooling={pooling}")
    assert [(row["record"], row["row"], row["rows"]) for row in index] == [
        ("a", "0", "1"),
        ("b", "1", "1"),
        ("c", "2", "1"),
    ]
    model = load_model(run, torch.device("cpu"))
    for vector, text in zip(vectors, TEXTS.values(), strict=True):
        expected = pooled_hidden(model, torch.from_numpy(encode(text))[None], pooling)[0].detach()
        torch.testing.assert_close(torch.from_numpy(vector), expected, rtol=1e-4, atol=1e-5)


def test_windows_tile_their_records(run: Path, genome: Path) -> None:
    vectors, index = embedded(f"checkpoint={run}", f"fasta=[{genome}]", "window=50")
    assert [(row["record"], row["start"], row["end"]) for row in index] == [
        ("a", "0", "50"),
        ("a", "50", "100"),
        ("b", "0", "50"),
        ("c", "0", "50"),
        ("c", "50", "100"),
    ]
    expected = alone(run, TEXTS["c"][50:100]).mean(dim=0)
    torch.testing.assert_close(torch.from_numpy(vectors[4]), expected, rtol=1e-4, atol=1e-5)
    assert Path("vectors.png").stat().st_size > 1000


def test_every_base_of_an_interval_has_its_vector(run: Path, genome: Path) -> None:
    Path("some.bed").write_text("a\t10\t40\tfirst\nc\t5\t9\n")
    vectors, index = embedded(f"checkpoint={run}", f"fasta=[{genome}]", "bed=some.bed", "per_base=true")
    assert [(row["name"], row["row"], row["rows"]) for row in index] == [
        ("first", "0", "30"),
        ("", "30", "4"),
    ]
    for text, found in ((TEXTS["a"][10:40], vectors[:30]), (TEXTS["c"][5:9], vectors[30:])):
        torch.testing.assert_close(torch.from_numpy(found), alone(run, text), rtol=1e-4, atol=1e-5)


def test_several_genomes_are_one_table(run: Path, genome: Path) -> None:
    write_fasta(Path("other.fa"), {"x": random_bases(70, 5)})
    vectors, index = embedded(f"checkpoint={run}", "fasta=[genome.fa,other.fa]")
    assert [row["fasta"] for row in index] == ["genome.fa"] * 3 + ["other.fa"]
    assert vectors.shape == (4, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fasta=[genome.fa]", "window=200"], "No interval holds a window of 200 bases: the longest has 130"),
        (["fasta=[]"], "fasta is empty"),
        (["fasta=[genome.fa,genome.fa]", "bed=x.bed"], "bed needs a single FASTA, but fasta has 2"),
        (["fasta=[genome.fa]", "output=x.parquet"], "its name must end in .npy"),
        (["fasta=[absent.fa]"], "There is no FASTA file"),
        (["fasta=[genome.fa]", "window=0"], "window is 0"),
    ],
)
def test_bad_input_leaves_nothing(
    run: Path, genome: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dna_embed.main([f"checkpoint={run}", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(Path().glob("*.npy"))


def test_every_key_has_help() -> None:
    assert all(entry.help for entry in schema_keys(dna_embed.Config).values())
