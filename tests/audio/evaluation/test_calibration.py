"""A temperature calibrates a classifier without changing its decisions."""

import pytest
import torch

from audio.data.mel import CLIP
from audio.evaluation.calibration import divide_logits, fit_temperature
from audio.evaluation.classifier import Classifier, ClassifierConfig
from audio.evaluation.trained_classifier import predict


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_scale_of_the_logits_is_recovered(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    temperature = fit_temperature((factor * logits).log_softmax(dim=1), labels)
    assert temperature == pytest.approx(factor, rel=0.06)


def test_perfect_accuracy_gives_temperature_one() -> None:
    assert fit_temperature(torch.eye(4, dtype=torch.float64).log_softmax(dim=1), torch.arange(4)) == 1


def test_division_changes_only_the_confidence() -> None:
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(classes=3, width=8, blocks=1)).eval()
    clips = torch.randn(6, CLIP)
    before = predict(model, [clips])
    divide_logits(model, 3.0)
    after = predict(model, [clips])
    assert torch.equal(after.features, before.features)
    assert torch.equal(after.classes, before.classes)
    torch.testing.assert_close(
        after.log_probabilities, (before.log_probabilities / 3).log_softmax(dim=1), atol=1e-6, rtol=1e-5
    )
