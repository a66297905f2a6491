"""Classifier training: it learns, resumes with identical weights, and refuses data without classes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audio.evaluation.trained_classifier import FILE, load_classifier
from pipelines import audio_classifier
from pipelines.common.config import CONFIGS, merge, read_yaml
from tests.pipelines.digits import TINY_CLASSIFIER, write_digits

CPU = torch.device("cpu")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error of a failing start, and check that no run folder exists."""
    assert audio_classifier.main([*arguments, "run.dir=run"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert not Path("run").exists()
    return error


def test_it_learns_and_says_what_it_learnt_from(classifier: Path) -> None:
    trained = load_classifier(classifier, CPU).training
    assert trained.accuracy["test"] > 0.25  # a guess has a tenth right
    assert trained.counts == {"train": 50, "valid": 50, "test": 50}
    assert (trained.data, trained.quantizer, trained.rate) == ("fsdd", "mulaw", 16_000)
    assert len(trained.classes) == 10
    summary = json.loads((classifier / "summary.json").read_text())
    assert 0 <= summary["validation"]["accuracy"] <= 1


def test_the_published_weights_are_those_of_the_best_validation_calibrated(classifier: Path) -> None:
    best = load_file(classifier / "checkpoints" / "best.safetensors")
    published = load_file(classifier / FILE)
    assert published.keys() == best.keys()
    temperature = load_classifier(classifier, CPU).training.temperature
    for name, tensor in best.items():
        expected = tensor / temperature if name.startswith("model.head.") else tensor
        assert torch.equal(published[name], expected)


def test_resumed_equals_uninterrupted(classifier: Path, digits: Path) -> None:
    shutil.copytree(classifier, "killed")
    last = sorted(Path("killed/checkpoints").glob("step-*"))[-1]
    last.unlink()
    Path("killed", FILE).unlink()
    assert audio_classifier.main(["run.dir=killed", "--resume"]) == 0
    resumed, uninterrupted = load_file(f"killed/{FILE}"), load_file(classifier / FILE)
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in resumed)


def test_a_dry_run_writes_nothing(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY_CLASSIFIER, f"data.folder={digits}", "run.dir=run", "--dry-run"]
    assert audio_classifier.main(arguments) == 0
    assert "50 for train, 50 for valid, 50 for test" in capsys.readouterr().out
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["classifier_digits", "classifier_fsdd", "classifier_sc09"])
def test_shipped_configurations_are_the_classifier_s(name: str) -> None:
    config = merge(audio_classifier.Config, read_yaml(str(CONFIGS / f"{name}.yaml")))
    assert config.run.dir == f"runs/{name}"
    if name != "classifier_digits":
        assert config.model.features == 1024


class TestBadInput:
    def test_audio_without_classes(self, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
        error = fails(capsys, "data.source=folder", f"data.folder={digits}")
        assert "has no classes" in error

    def test_no_clips_to_test_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        folder = write_digits(Path("few"), takes=range(5, 12))
        assert "has no clips for test" in fails(capsys, "data.source=fsdd", f"data.folder={folder}")

    def test_a_folder_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no folder absent" in fails(capsys, "data.source=fsdd", "data.folder=absent")

    def test_a_width_that_cannot_be(self, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "width is 12" in fails(capsys, "model.width=12", f"data.folder={digits}")
