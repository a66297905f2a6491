"""A sweep of tiny runs: equal to runs of dna_pretrain, resumable, with laws and plots."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from bio.dna_model import SIZES
from bio.scoring.scaling import best_rows, length_texts, power_laws, results_text
from core.training import NonFiniteError
from pipelines import dna_pretrain, dna_scaling
from pipelines.common.config import schema_keys
from pipelines.dna_scaling import BY_CONTEXT, BY_LENGTH, BY_PARAMETERS, LAWS, TABLE
from tests.pipelines.conftest import TINY

OF_A_RUN = [*TINY, "train.steps=2", "train.checkpoint_every=1", "model.d_state=2"]
SWEEP = [*OF_A_RUN, "sizes=[tiny,small]", "lengths=[48,24]"]
FINAL = "checkpoints/step-00000002.safetensors"


@pytest.fixture(scope="module", autouse=True)
def small_models() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", (8, 1))
        patch.setitem(SIZES, "small", (16, 2))
        yield


@pytest.fixture(scope="module")
def swept(fasta: Path, small_models: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished sweep; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    assert dna_scaling.main([*SWEEP, f"data.fasta={fasta}", f"run.dir={folder}"]) == 0
    return folder


def table(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / TABLE).read_text())["rows"]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = sorted(Path().rglob("*"))
    assert dna_scaling.main([*SWEEP, "run.dir=sweep", *arguments]) == 1
    assert sorted(Path().rglob("*")) == before
    return capsys.readouterr().err


def row(
    model: str, length: int, loss: float | None, rate: float = 8e-3, parameters: int = 10**6
) -> dict[str, Any]:
    measured: dict[str, float | None] = dict.fromkeys(("loss", "bits_per_base", "perplexity"))
    if loss is not None:
        measured = {"loss": loss, "bits_per_base": loss / math.log(2), "perplexity": math.exp(loss)}
    cost = {"markov_bits": 1.9, "tokens_per_s": 1e6, "data_wait": 0.01, "peak_gib": None}
    return {
        "model": model,
        "length": length,
        "learning_rate": rate,
        "parameters": parameters,
        **measured,
        **cost,
    }


def test_every_size_is_trained_at_every_length(swept: Path) -> None:
    rows = table(swept)
    assert [(row["model"], row["length"]) for row in rows] == [
        ("tiny", 48),
        ("tiny", 24),
        ("small", 48),
        ("small", 24),
    ]
    for row in rows:
        assert row["tokens"] == 2 * 3 * 48
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert 3 < row["perplexity"] < 8
        assert row["learning_rate"] == 8e-3
    assert rows[0]["parameters"] == rows[1]["parameters"] < rows[2]["parameters"]
    laws = json.loads((swept / LAWS).read_text())
    assert [(law["length"], law["low"]) for law in laws] == [(48, None), (24, None)]
    for picture in (BY_PARAMETERS, BY_LENGTH, BY_CONTEXT):
        assert imread(swept / picture).ndim == 3


def test_run_equals_dna_pretrain(swept: Path, fasta: Path) -> None:
    alone = [*OF_A_RUN, "data.length=24", "train.batch_size=6", "run.dir=alone", f"data.fasta={fasta}"]
    assert dna_pretrain.main(alone) == 0
    expected, found = load_file(f"alone/{FINAL}"), load_file(swept / "small-24-0.008" / FINAL)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_finished_runs_are_not_trained_again(
    swept: Path, fasta: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(swept, "sweep")
    shutil.rmtree("sweep/tiny-24-0.008")
    trained: list[str] = []
    original = dna_pretrain.pretrain

    def counted(config: dna_pretrain.Config, tables: Path) -> Any:
        trained.append(config.run.dir)
        return original(config, tables)

    monkeypatch.setattr(dna_pretrain, "pretrain", counted)
    assert dna_scaling.main([*SWEEP, f"data.fasta={fasta}", "run.dir=sweep"]) == 0
    assert trained == ["sweep/tiny-24-0.008"]
    assert "4 run(s), 3 finished" in capsys.readouterr().out
    assert [line["loss"] for line in table(Path("sweep"))] == [line["loss"] for line in table(swept)]


def test_stopped_run_is_resumed(swept: Path, fasta: Path) -> None:
    shutil.copytree(swept, "sweep")
    cell = Path("sweep/small-48-0.008")
    (cell / "summary.json").unlink()
    (cell / FINAL).unlink()
    first = (cell / "checkpoints/step-00000001.safetensors").stat().st_mtime_ns
    assert dna_scaling.main([*SWEEP, f"data.fasta={fasta}", "run.dir=sweep"]) == 0
    assert (cell / "checkpoints/step-00000001.safetensors").stat().st_mtime_ns == first
    resumed, whole = load_file(cell / FINAL), load_file(swept / cell.name / FINAL)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_diverged_run_is_a_row_and_the_sweep_continues(
    fasta: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts: list[float] = []
    original = dna_pretrain.pretrain

    def diverging(config: dna_pretrain.Config, tables: Path) -> Any:
        attempts.append(config.train.learning_rate)
        if config.train.learning_rate == 1.0:
            Path(config.run.dir).mkdir(parents=True)
            shutil.copy("config.yaml", config.run.dir)
            raise NonFiniteError("10 steps in a row had no finite loss")
        return original(config, tables)

    monkeypatch.setattr(dna_pretrain, "pretrain", diverging)
    sweep = [*SWEEP, f"data.fasta={fasta}", "run.dir=sweep", "sizes=[tiny]", "lengths=[]"]
    assert dna_scaling.main([*sweep, "learning_rates=[1e-3]"]) == 0
    text = Path("sweep/tiny-48-0.001/config.yaml").read_text()
    Path("config.yaml").write_text(text.replace("learning_rate: 0.001", "learning_rate: 1.0"))
    for _ in range(2):
        assert dna_scaling.main([*sweep, "learning_rates=[1.0,1e-3,2e-3]"]) == 0
        losses = [row["loss"] for row in table(Path("sweep"))]
        assert losses[0] is None
        assert None not in losses[1:]
        assert "diverged" in capsys.readouterr().out
    assert attempts == [1e-3, 1.0, 2e-3]


def test_other_settings_in_the_folder_are_an_error(
    swept: Path, fasta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(swept, "sweep")
    error = fails(capsys, f"data.fasta={fasta}", "train.steps=5", "train.clip=2.0")
    assert "train.steps is 2 there and 5 here; train.clip is 1.0 there and 2.0 here" in error
    assert "another run.dir" in error


def test_dry_run_prints_the_runs_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert dna_scaling.main([*SWEEP, "data.fasta=absent.fa", "learning_rates=[1e-3,2e-3]", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "8 run(s), 0 finished" in plan
    assert "2 steps of 6 windows of 24: new" in plan
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sizes=[huge]", "no model of size 'huge'; it must be one of 250k, 700k"),
        ("lengths=[48,36,7]", "A step of 144 tokens .* whole windows of 7 bases"),
        ("lengths=[0]", "whole windows of 0 bases"),
        ("lengths=[289]", "whole windows of 289 bases"),
        ("also=[tiny]", "also has 'tiny'; write a size and a length"),
        ("also=[huge@48]", "no model of size 'huge'"),
        ("publish=table.txt", "publish is table.txt; its name must end in .json"),
        ("learning_rates=[0.0]", "learning_rate is 0.0"),
        ("data.fasta=absent.fa", "absent.fa"),
        ("size=[tiny]", "Did you mean sizes"),
    ],
)
def test_bad_argument(argument: str, message: str, fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(message, fails(capsys, f"data.fasta={fasta}", argument))


def test_window_longer_than_a_step_is_a_step(fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["sizes=[tiny]", "lengths=[48]", "also=[tiny@288,tiny@48]", "data.markov_orders=[1,2]"]
    arguments = [*OF_A_RUN, *chosen, f"data.fasta={fasta}", "run.dir=sweep", "publish=results/tiny.json"]
    assert dna_scaling.main(arguments) == 0
    assert "1 steps of 1 windows of 288: new" in capsys.readouterr().out
    results = json.loads(Path("results/tiny.json").read_text())
    assert [(row["length"], row["tokens"]) for row in results["rows"]] == [(48, 288), (288, 288)]
    assert [row["order"] for row in results["markov"]] == [1, 2]
    best = min(row["bits_per_base"] for row in results["markov"])
    assert results["rows"][-1]["markov_bits"] == best
    assert imread("results/tiny_context.png").ndim == 3


def test_texts_name_the_best_length() -> None:
    rows = [row("a", 8, 1.3), row("a", 16, 1.2), row("b", 8, 1.3)]
    texts = length_texts(rows)
    assert texts[0].startswith(
        "a: windows of 16 are best, 1.7312 bits per base, 0.1443 less than windows of 8"
    )
    assert texts[1:] == ["best Markov model of the training bases: 1.9000 bits per base"]


def test_sweep_without_held_out_bases_is_an_error(fasta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SWEEP, f"data.fasta={fasta}", "run.dir=sweep", "data.valid_fraction=0"]
    assert dna_scaling.main(arguments) == 1
    assert "held nothing out" in capsys.readouterr().err


def test_best_learning_rate_is_selected() -> None:
    rows = [row("a", 8, 1.3, 1e-3), row("a", 8, 1.2, 2e-3), row("a", 8, None, 4e-3), row("b", 8, None)]
    assert best_rows(rows) == [rows[1]]
    text = results_text(rows).splitlines()
    assert [line.endswith("*") for line in text] == [False, False, True, False, False, False]
    assert text[3].endswith("diverged")


def test_one_law_per_length() -> None:
    rows = [
        row(str(size), length, scale * size**-0.1, parameters=size)
        for length, scale in ((8, 4.0), (16, 3.0))
        for size in (10**5, 10**6, 10**7)
    ]
    laws = power_laws([*rows, row("alone", 32, 1.0)])
    assert {length: law.scale for length, law in laws.items()} == pytest.approx({8: 4.0, 16: 3.0})
    assert results_text(rows).splitlines()[len(rows) + 2] == (
        "windows of 16: loss = 3 * parameters^-0.1000 nats, 95% interval of the exponent -0.1000 to -0.1000"
    )


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dna_scaling.main(["--help"])
    page = " ".join(capsys.readouterr().out.split())
    for key, entry in schema_keys(dna_scaling.Config).items():
        assert f" {key} (" in page
        assert entry.help in page
