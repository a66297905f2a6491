"""Classifier: the output for a clip depends only on its sound."""

import pytest
import torch

from audio.data.mel import CLIP
from audio.data.waveform import FULL_SCALE
from audio.evaluation.classifier import Classifier, ClassifierConfig

SMALL = ClassifierConfig(classes=3, width=8, blocks=1)


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(SMALL).eval()


def waveforms(rows: int) -> torch.Tensor:
    return torch.randn(rows, CLIP, generator=torch.Generator().manual_seed(0)) * 0.1


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_neighbours(model: Classifier) -> None:
    together = model.embed(waveforms(5))
    alone = torch.cat([model.embed(row[None]) for row in waveforms(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert together.std(dim=0).max() > 1e-3


@torch.no_grad()
def test_integers_and_floats_are_the_same_sound(model: Classifier) -> None:
    pcm = (waveforms(2).clamp(-1, 0.999) * FULL_SCALE).round().to(torch.int16)
    torch.testing.assert_close(model(pcm), model(pcm.float() / FULL_SCALE))


@torch.no_grad()
def test_loudness_has_no_influence(model: Classifier) -> None:
    torch.testing.assert_close(model(waveforms(2)), model(waveforms(2) * 5), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_shapes_fit_training(model: Classifier) -> None:
    assert model(waveforms(2)).shape == (2, 1, 3)
    assert model.embed(waveforms(2)).shape == (2, SMALL.features)
    torch.testing.assert_close(model.logits(model.embed(waveforms(2))), model(waveforms(2))[:, 0])


def test_the_number_of_features_is_the_published_one() -> None:
    assert ClassifierConfig().features == 1024


def test_every_parameter_has_a_gradient() -> None:
    model = Classifier(SMALL)
    torch.nn.functional.cross_entropy(model(waveforms(3))[:, 0], torch.arange(3)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"blocks": 0}, {"width": 12}, {"width": 0}])
def test_invalid_sizes_are_rejected(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        ClassifierConfig(**wrong)
