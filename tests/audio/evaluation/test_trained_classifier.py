"""Predictions do not depend on batches, and a classifier's file is complete or refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audio.data.mel import CLIP
from audio.evaluation.classifier import Classifier, ClassifierConfig
from audio.evaluation.trained_classifier import (
    FILE,
    TrainedClassifier,
    TrainingRecord,
    load_classifier,
    predict,
    require_classes,
    save_classifier,
)
from audio.metrics.predictions import Predictions
from core.checkpoints.checkpoint import CheckpointError, save_checkpoint

CPU = torch.device("cpu")
TRAINING = TrainingRecord(
    "digits", "ab" * 32, "mulaw", {"train": 5, "valid": 1, "test": 2}, ("no", "yes"), {"test": 0.5}, 1.5
)


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(classes=2, width=8, blocks=1)).eval()


def clips(rows: int) -> torch.Tensor:
    return torch.randn(rows, CLIP, generator=torch.Generator().manual_seed(0))


def test_predictions_do_not_depend_on_batches(model: Classifier) -> None:
    whole, batched = predict(model, [clips(7)]), predict(model, clips(7).split(3))
    torch.testing.assert_close(whole.features, batched.features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.log_probabilities, batched.log_probabilities, atol=1e-5, rtol=1e-4)
    expected = model(clips(7))[:, 0].double().log_softmax(dim=1)
    torch.testing.assert_close(whole.log_probabilities, expected, atol=1e-5, rtol=1e-4)


def test_log_probabilities_are_finite_where_float32_underflows(model: Classifier) -> None:
    with torch.no_grad():
        confident = Classifier(model.config)
        confident.head.weight.mul_(1e6)
        log_probabilities = predict(confident, [clips(3)]).log_probabilities
    assert log_probabilities.isfinite().all()
    assert (log_probabilities.exp().float() == 0).any()


def test_classes_and_confidence() -> None:
    probabilities = torch.tensor([[0.1, 0.9], [0.7, 0.3]], dtype=torch.float64)
    predictions = Predictions(torch.zeros(2, 4), probabilities.log())
    assert predictions.classes.tolist() == [1, 0]
    assert predictions.confidence.tolist() == pytest.approx([0.9, 0.7])
    assert predictions.accuracy(torch.tensor([1, 1])) == 0.5


def test_features_that_are_not_finite_are_rejected(model: Classifier) -> None:
    broken = Classifier(model.config)
    torch.nn.init.constant_(broken.stem[0].weight, torch.nan)
    with pytest.raises(ValueError, match="features of clip 0 are not finite"):
        predict(broken, [clips(2)])


def test_a_file_restores_the_classifier_and_its_training_record(model: Classifier, tmp_path: Path) -> None:
    save_classifier(tmp_path / FILE, model, TRAINING, step=3)
    loaded = load_classifier(tmp_path, CPU)
    assert loaded.training == TRAINING
    assert len(loaded.sha256) == 64
    assert loaded.sha256 == load_classifier(tmp_path / FILE, CPU).sha256
    torch.testing.assert_close(predict(loaded.model, [clips(2)]), predict(model, [clips(2)]), rtol=0, atol=0)
    save_classifier(tmp_path / "other", model, replace(TRAINING, data="sc09"), step=3)
    assert load_classifier(tmp_path / "other", CPU).sha256 != loaded.sha256


def test_another_kind_of_checkpoint_is_rejected(model: Classifier, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step", model, {"model": {}}, {"step": 1})
    with pytest.raises(CheckpointError, match="step is not a classifier"):
        load_classifier(tmp_path / "step", CPU)
    save_checkpoint(tmp_path / "old", model, {"model": {}, "training": {"data": "digits"}}, {"step": 1})
    with pytest.raises(CheckpointError, match="old was written by another version of Helixwave"):
        load_classifier(tmp_path / "old", CPU)
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*classifier\.safetensors"):
        load_classifier(tmp_path, CPU)


def test_another_set_of_classes_is_rejected(model: Classifier) -> None:
    trained = TrainedClassifier(model, TRAINING, Path("c"), "0")
    require_classes(trained, ("no", "yes"), "mine")
    for classes in (("yes", "no"), ("no",), ()):
        with pytest.raises(ValueError, match="has the classes no, yes, but mine has the classes"):
            require_classes(trained, classes, "mine")
