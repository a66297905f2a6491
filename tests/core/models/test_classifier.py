"""The sequence classifier: pooling, chunks of long sequences, and the start from a probe."""

import pytest
import torch

from core.models import classifier
from core.models.classifier import HeadConfig, SequenceClassifier, hidden_chunks, pooled_hidden
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training import cross_entropy_sum


@pytest.fixture(scope="module")
def backbone() -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(SequenceModelConfig(vocab_size=12, d_model=16, n_layer=2))


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 12, (batch, length), dtype=torch.uint8, generator=torch.manual_seed(1))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_head_reads_the_last_position_or_the_mean(backbone: SequenceModel, pooling: str) -> None:
    model = SequenceClassifier(backbone, 3, HeadConfig(pooling))  # type: ignore[arg-type]
    hidden = backbone.hidden(tokens(2, 9))
    pooled = hidden[:, -1] if pooling == "last" else hidden.mean(dim=1)
    logits = model(tokens(2, 9))
    assert logits.shape == (2, 1, 3)
    torch.testing.assert_close(logits[:, 0], model.head(pooled))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("length", [1, 7, 8, 29])
def test_chunks_with_carried_state_equal_the_whole(
    backbone: SequenceModel, pooling: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pooled_hidden(backbone, tokens(2, length), pooling)
    monkeypatch.setattr(classifier, "CHUNK_TOKENS", 4)
    monkeypatch.setattr(classifier.hidden_chunks, "__defaults__", (4,))
    with torch.no_grad():
        in_chunks = pooled_hidden(backbone, tokens(2, length), pooling)
        chunks = list(hidden_chunks(backbone, tokens(2, length), 4))
    torch.testing.assert_close(in_chunks, whole.detach(), rtol=1e-5, atol=1e-6)
    assert [chunk.shape[1] for chunk in chunks] == [min(4, length - first) for first in range(0, length, 4)]


def test_a_classifier_starts_with_the_logits_of_its_probe(backbone: SequenceModel) -> None:
    model = SequenceClassifier(backbone, 3, HeadConfig("mean")).eval()
    pooled = pooled_hidden(backbone, tokens(50, 9), "mean").detach()
    pooled[:, 0] = 2.0  # a channel that never changes has no deviation to scale by
    weight, bias = torch.randn(3, 16), torch.randn(3)
    model.start_from(pooled, weight, bias)
    scaled = (pooled - pooled.mean(dim=0)) / pooled.std(dim=0, correction=0).clamp(min=1e-9)
    scaled[:, 0] = 0.0
    logits = model.head((pooled - model.centre) / model.scale)
    torch.testing.assert_close(logits, scaled @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert {"centre", "scale"} <= set(model.state_dict())


def test_every_parameter_of_backbone_and_head_learns(backbone: SequenceModel) -> None:
    model = SequenceClassifier(backbone, 3, HeadConfig("last"))
    targets = torch.tensor([[0], [2]], dtype=torch.int8)
    cross_entropy_sum(model(tokens(2, 9)), targets).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.abs().sum() > 0


def test_a_bad_head_is_an_error() -> None:
    with pytest.raises(ValueError, match="dropout is 1"):
        HeadConfig(dropout=1.0)
