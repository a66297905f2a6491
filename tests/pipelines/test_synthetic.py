"""Selective models learn what time-invariant ones cannot; comparisons resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.training.metrics import read_metrics
from pipelines import synthetic
from pipelines.synthetic import main

SMALL = [
    "task.length=16",
    "task.warmup_lengths=[12]",
    "task.warmup_steps=[20]",
    "task.test_lengths=[8,16,32]",
    "model.d_model=16",
    "train.steps=320",
    "train.batch_size=16",
    "train.learning_rate=1e-2",
    "train.minimum_learning_rate=1e-2",
    "train.warmup=0",
    "train.betas=[0.9,0.999]",
    "train.weight_decay=0",
    "train.validate_every=160",
    "train.checkpoint_every=160",
]


def accuracy(folder: Path, mixer: str) -> dict[int, float]:
    rows = json.loads((folder / mixer / "accuracy.json").read_text())
    return {row["length"]: row["accuracy"] for row in rows}


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both runs, with published results next to it."""
    folder = tmp_path_factory.mktemp("synthetic") / "run"
    assert main([*SMALL, f"run.dir={folder}", f"publish={folder.parent / 'results.json'}"]) == 0
    return folder


def test_only_the_selective_model_learns(compared: Path) -> None:
    selective, invariant = (accuracy(compared, mixer) for mixer in ("mamba", "s4d"))
    assert selective[16] > 0.95
    assert selective[32] > 0.9  # twice the length of training
    assert invariant[32] < 0.6


def test_comparison_writes_runs_picture_and_results(compared: Path) -> None:
    for picture in (compared / "accuracy.png", compared.parent / "induction_heads.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    for mixer in ("mamba", "s4d"):
        assert (compared / mixer / "summary.json").exists()
        events = read_metrics(compared / mixer / "metrics.jsonl")
        assert [event["step"] for event in events if event["event"] == "validation"] == [20, 160, 320]
        assert [event["length"] for event in events if event["event"] == "stage"] == [12, 16]
    results = json.loads((compared.parent / "results.json").read_text())
    assert results["command"].startswith("python -m pipelines.synthetic task.length=16 ")
    assert [(row["task"], row["mixer"], row["length"]) for row in results["rows"]] == [
        ("induction_heads", mixer, length) for mixer in ("mamba", "s4d") for length in (8, 16, 32)
    ]
    assert results["rows"][1]["accuracy"] == accuracy(compared, "mamba")[16]


def test_same_command_resumes(compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resume with one finished run and one cut back to its middle checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(compared, folder)
    for file in (folder / "s4d").rglob("*"):
        if file.name in ("summary.json", "accuracy.json", "step-00000320.safetensors", "best.safetensors"):
            file.unlink()
    before = (folder / "mamba" / "metrics.jsonl").stat().st_mtime_ns
    assert main([*SMALL, f"run.dir={folder}"]) == 0
    assert (folder / "mamba" / "metrics.jsonl").stat().st_mtime_ns == before
    assert accuracy(folder, "s4d") == accuracy(compared, "s4d")
    table = capsys.readouterr().out
    assert f"        16{100 * accuracy(folder, 'mamba')[16]:>9.1f}%" in table


def test_other_settings_are_rejected_by_keys(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, f"run.dir={compared}", "train.seed=1", "task.length=24"]) == 1
    message = capsys.readouterr().err
    assert "task.length is 16 there and 24 here; train.seed is 0 there and 1 here" in message
    assert "choose another run.dir" in message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["task.name=copying"], "task.name is 'copying'; it must be"),
        (["mixers=[mamba,s5]"], "mixers is ['mamba', 's5']; it must be"),
        (["task.warmup_lengths=[8,16]", "task.warmup_steps=[10]"], "must be equally many"),
        (["task.warmup_lengths=[8]", "task.warmup_steps=[1000]"], "fewer than train.steps, 1,000"),
        (["task.warmup_lengths=[256]", "task.warmup_steps=[10]"], "all lengths different"),
        (["task.length=2"], "The length of induction_heads is 2"),
        (["task.test_lengths=[16,1]"], "The length of induction_heads is 1"),
    ],
)
def test_bad_settings_write_nothing(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"run.dir={tmp_path / 'run'}", *wrong]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def row(task: str, value: float) -> dict[str, Any]:
    return {"task": task, "mixer": "mamba", "length": 8, "accuracy": value}


def test_publishing_keeps_the_rows_of_other_tasks(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for number, (task, value) in enumerate((("a", 0.1), ("b", 0.2), ("a", 0.3))):
        facts = {"hardware": f"GPU {task}", "commit": str(number), "date": f"2026-01-0{number + 1}T10:00:00"}
        (tmp_path / "summary.json").write_text(json.dumps(facts))
        synthetic.publish(path, ["--config", task, str(number)], number, [row(task, value)], [tmp_path])
    results = json.loads(path.read_text())
    assert results["rows"] == [row("b", 0.2), row("a", 0.3)]
    head = [results[key] for key in ("hardware", "commit", "date", "seed")]
    assert head == ["GPU a; GPU b", "2; 1", "2026-01-03; 2026-01-02", "2; 1"]
    assert results["command"] == (
        "python -m pipelines.synthetic --config a 2; python -m pipelines.synthetic --config b 1"
    )


def test_damaged_table_is_rejected_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mine.json"
    table.write_text("[1,")
    assert main([*SMALL, f"run.dir={tmp_path / 'run'}", f"publish={table}"]) == 1
    assert "mine.json is not a published table" in capsys.readouterr().err
    assert table.read_text() == "[1,"
    assert not (tmp_path / "run").exists()
