"""A run folder is either usable or rejected before anything is written."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from core.checkpoints.checkpoint import CheckpointError, step_checkpoints
from core.training import RunFolder, RunFolderError, TrainingConfig, World, start_run
from core.training.metrics import read_metrics
from core.training.optimizer import adamw
from core.training.progress import Progress
from tests.core.training.toy import ALONE, CPU, ToyModel

CONFIG: dict[str, Any] = {"model": {"width": 8}, "train": {"betas": (0.9, 0.95), "file": None}}


def run_with_checkpoints(folder: Path, steps: tuple[int, ...] = (2,), keep: int = 3) -> RunFolder:
    run, model = RunFolder(folder, CONFIG), ToyModel()
    run.begin(0)
    for step in steps:
        run.log("train", step, {"loss": 1.0 / step})
        run.save(model, adamw(model, TrainingConfig()), None, Progress(step=step), keep)
    run.close()
    return run


def test_new_run_writes_its_configuration(tmp_path: Path) -> None:
    RunFolder(tmp_path / "runs" / "a", CONFIG)
    written = OmegaConf.to_container(OmegaConf.load(tmp_path / "runs" / "a" / "config.yaml"))
    assert written == {"model": {"width": 8}, "train": {"betas": [0.9, 0.95], "file": None}}


def test_folder_in_use_is_rejected(tmp_path: Path) -> None:
    run_with_checkpoints(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"already holds a run. Start the same command with resume=true"):
        RunFolder(tmp_path / "run", CONFIG)
    with pytest.raises(RunFolderError, match=r"not empty and holds no run"):
        RunFolder(tmp_path, CONFIG)
    with pytest.raises(RunFolderError, match=r"not empty and holds no run"):
        RunFolder(tmp_path, CONFIG, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_missing_folder_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run folder .*typo to resume"):
        RunFolder(tmp_path / "typo", CONFIG, resume=True)
    assert not (tmp_path / "typo").exists()


def test_an_unwritable_folder_is_rejected_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match=r"is a file|cannot be written"):
            RunFolder(path, CONFIG)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunFolderError, match=r"run cannot be written \(No space left on device\)"):
        RunFolder(tmp_path / "run", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_too_small_for_the_checkpoints_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, model = RunFolder(tmp_path / "run", CONFIG), ToyModel(width=64)
    run.require_space(model, keep=3, with_average=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(RunFolderError, match=r"has 1 MiB free, but 3 checkpoints of this model need 2 MiB"):
        run.require_space(model, keep=3, with_average=True)


def test_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = run_with_checkpoints(tmp_path / "run", steps=(2, 4, 10, 12), keep=2)
    assert [int(path.stem[5:]) for path in step_checkpoints(run.checkpoints)] == [10, 12]
    assert run.latest == step_checkpoints(run.checkpoints)[-1]


def test_resumed_run_must_have_the_same_model_only(tmp_path: Path) -> None:
    run_with_checkpoints(tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match=r"model.width is 8 there and 16 here"):
        RunFolder(tmp_path / "run", {**CONFIG, "model": {"width": 16}}, resume=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    resumed = RunFolder(tmp_path / "run", {**CONFIG, "train": {"steps": 7}}, resume=True)
    assert resumed.latest is not None
    assert "steps: 7" in (tmp_path / "run" / "config.yaml").read_text()


def test_damaged_latest_checkpoint_is_named(tmp_path: Path) -> None:
    run = run_with_checkpoints(tmp_path / "run")
    assert run.latest is not None
    run.latest.write_bytes(run.latest.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"step-00000002.safetensors is truncated or damaged"):
        RunFolder(tmp_path / "run", CONFIG, resume=True)


def test_events_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    run = run_with_checkpoints(tmp_path / "run", steps=(2, 4))
    run.begin(2)
    run.log("train", 3, {"loss": 3.0})
    run.close()
    assert [event["step"] for event in read_metrics(run.metrics)] == [2, 3]


def test_only_the_writer_changes_the_folder(tmp_path: Path) -> None:
    run, model = RunFolder(tmp_path / "run", CONFIG, is_writer=False), ToyModel()
    run.begin(0)
    run.log("train", 1, {"loss": 1.0})
    run.save(model, adamw(model, TrainingConfig()), None, Progress(step=1), keep=1)
    run.save_best(model, None, Progress(step=1))
    run.finish({})
    run.close()
    assert not (tmp_path / "run").exists()


@dataclass(frozen=True)
class Location:
    """Group `run` of a configuration."""

    dir: str


@dataclass(frozen=True)
class Config:
    """Smallest configuration of a training script."""

    run: Location
    train: TrainingConfig = field(default_factory=TrainingConfig)
    resume: bool = False
    dry_run: bool = False


def test_start_run_checks_prints_and_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    config = Config(Location(str(folder)), TrainingConfig(batch_size=3))
    with pytest.raises(ValueError, match="batch of 3 sequences does not divide over 2"):
        start_run(config, World(0, 2, CPU), "the plan")
    assert capsys.readouterr().out == ""
    assert start_run(replace(config, dry_run=True), ALONE, "the plan") is None
    assert capsys.readouterr().out == "the plan\n"
    assert not folder.exists()

    run = start_run(config, ALONE, "the plan")
    assert run is not None
    assert run.path == folder
    with pytest.raises(RunFolderError, match="already holds a run"):
        start_run(config, ALONE, "the plan")
    capsys.readouterr()
    resumed = start_run(replace(config, resume=True), World(1, 3, CPU), "the plan")
    assert capsys.readouterr().out == ""  # other ranks are silent
    assert resumed is not None
    assert resumed.config["resume"] is False  # config.yaml starts new runs as well


DATA = {
    "model": {"width": 8},
    "data": {"fasta": "a.fa", "sha256": "1", "valid_chromosomes": ["2"]},
    "train": {"seed": 0, "steps": 4, "learning_rate": 0.1},
}


def test_resume_with_other_data_or_seed_is_rejected(tmp_path: Path) -> None:
    run, model = RunFolder(tmp_path / "run", DATA), ToyModel()
    run.begin(0)
    run.save(model, adamw(model, TrainingConfig()), None, Progress(step=2, tokens=128), 3)
    run.close()
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    for group, key, value, expected in (
        ("data", "valid_chromosomes", ["3"], r"data.valid_chromosomes is \['2'\] there and \['3'\] here"),
        ("data", "sha256", "2", "data.sha256 is 1 there and 2 here"),
        ("train", "seed", 1, "train.seed is 0 there and 1 here"),
    ):
        changed = {**DATA, group: {**DATA[group], key: value}}
        with pytest.raises(RunFolderError, match=expected):
            RunFolder(tmp_path / "run", changed, resume=True)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_other_changes_are_recorded_with_the_tokens_seen(tmp_path: Path) -> None:
    run, model = RunFolder(tmp_path / "run", DATA), ToyModel()
    run.begin(0)
    run.save(model, adamw(model, TrainingConfig()), None, Progress(step=2, tokens=128), 3)
    run.close()
    moved = {**DATA["data"], "fasta": "b.fa"}
    changed = {**DATA, "data": moved, "train": {**DATA["train"], "steps": 8}}
    again = RunFolder(tmp_path / "run", changed, resume=True)
    again.begin(2)
    again.close()
    (event,) = (e for e in read_metrics(tmp_path / "run" / "metrics.jsonl") if e["event"] == "resumed")
    assert event == {
        "event": "resumed",
        "step": 2,
        "changes": ["train.steps is 4 there and 8 here"],
        "tokens": 128,
    }
    same = RunFolder(tmp_path / "run", changed, resume=True)
    same.begin(2)
    same.close()


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    run_with_checkpoints(tmp_path / "run")
    code = (
        "import json, sys; from pathlib import Path; from core.training import RunFolder; "
        f"RunFolder(Path({str(tmp_path / 'run')!r}), {CONFIG!r}, resume=True)"
    )
    run = RunFolder(tmp_path / "run", CONFIG, resume=True)
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is being written by process" in other.stderr
    run.close()
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode == 0, other.stderr


def test_a_disk_too_small_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run", CONFIG)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(RunFolderError, match="MiB free"):
        run.require_space(ToyModel(), 3, with_average=False)
    assert not (tmp_path / "run").exists()
