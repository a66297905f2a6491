"""Small version of the published runs: each run is made once, resumed, and listed in the results."""

import gzip
import importlib
import json
from pathlib import Path
from typing import Any, TextIO

import pytest

from bio.species.evaluation import BASELINE, OURS, PROBE
from bio.species.species_set import read_species
from pipelines import dna_species
from pipelines.common.config import ConfigError, parse_config
from tests.bio.conftest import random_bases

SMALL = [
    "folder=data",
    "tasks=[encode_mammals]",
    "lengths=[32,64]",
    "processes=1",
    "classify=[train.steps=7]",
    "results=results/species.json",
]


def evaluation(accuracy: float) -> dict[str, Any]:
    """The part of an evaluation.json that the results use."""
    rows = [
        {"model": name, "accuracy": value, "low": value - 0.1, "high": value + 0.1, "macro_f1": value}
        for name, value in ((OURS, accuracy), (BASELINE, 0.5), (PROBE, 0.4))
    ]
    gain = {"value": accuracy - 0.5, "low": 0.0, "high": 0.4}
    lengths = [{"length": n, "windows": 100, "rows": rows, "gain": gain} for n in (32, 64, 1024)]
    return {"classes": list("abcde"), "lengths": lengths}


@pytest.fixture
def calls(own_folder: None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that runs are started with; each is finished at once."""
    made: list[Any] = []

    def start(command: list[str], output: TextIO, _: int) -> int:
        module = importlib.import_module(command[2])
        try:
            config = parse_config(module.Config, command[3:], "test", "")
        except ConfigError as error:
            output.write(f"error: {error}\n")
            return 1
        made.append(config)
        folder = Path(config.run.dir)
        folder.mkdir(exist_ok=True)
        (folder / "summary.json").write_text("{}")
        (folder / "evaluation.json").write_text(json.dumps(evaluation(0.6)))
        return 0

    monkeypatch.setattr(dna_species, "start", start)
    files = {
        file
        for name in ("encode_mammals", "encode_pretraining")
        for species in read_species(name).species.values()
        for of_split in species.by_split.values()
        for file in of_split
    }
    Path("data/vertebrates_ENCODE_MAY2005").mkdir(parents=True)
    for seed, file in enumerate(sorted(files)):
        Path("data", file).write_bytes(gzip.compress(f">x\n{random_bases(700, seed)}\n".encode()))
    return made


def test_all_runs_are_made_and_published(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert dna_species.main(SMALL) == 0
    pretraining, tuned = calls
    assert pretraining.data.species == "encode_pretraining"
    assert tuned.checkpoint == pretraining.run.dir
    assert (tuned.data.species, tuned.data.folder) == ("encode_mammals", "data")
    assert (tuned.data.length, tuned.train.batch_size) == (1024, 128)
    assert (tuned.train.steps, tuned.head.pooling, tuned.evaluation.lengths) == (7, "mean", [32, 64])
    results = json.loads(Path("results/species.json").read_text())
    assert [(row["task"], row["length"], row["accuracy"]) for row in results["rows"]] == [
        ("encode_mammals", 32, 0.6),
        ("encode_mammals", 64, 0.6),
    ]
    assert results["rows"][0] == results["rows"][0] | {"baseline": 0.5, "probe": 0.4, "chance": 0.2}
    assert results["command"].startswith("python -m pipelines.dna_species folder=data")
    assert Path("runs/species/accuracy_by_length.png").is_file()
    assert "encode_mammals" in capsys.readouterr().out


def test_finished_runs_are_not_made_again(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert dna_species.main(SMALL) == 0
    before = Path("results/species.json").read_text()
    calls.clear()
    assert dna_species.main(SMALL) == 1
    assert "runs/species already holds runs" in capsys.readouterr().err
    assert dna_species.main([*SMALL, "resume=true"]) == 0
    assert calls == []
    assert json.loads(before)["rows"] == json.loads(Path("results/species.json").read_text())["rows"]


def test_a_run_that_fails_is_named(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert dna_species.main([*SMALL, "classify=[train.stepps=7]"]) == 1
    error = capsys.readouterr().err
    assert "The run runs/species/encode_mammals failed (error: " in error
    assert "there is no key train.stepps" in error
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("tasks=[apes]", "it must name some of encode_mammals"),
        ("lengths=[0]", "it must hold numbers of at least 1"),
        ("processes=0", "processes is 0"),
        ("folder=absent", "There is no FASTA file"),
    ],
)
def test_an_impossible_plan_is_rejected(
    calls: list[Any], argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dna_species.main([*SMALL, argument]) == 1
    assert message in capsys.readouterr().err
    assert calls == []
    assert not Path("runs").exists()
