"""Models in float64: forward, step, backward and decoding agree with float32 to its rounding."""

import copy

import pytest
import torch
from torch import nn

from core.decoding.decoder import Decoder
from core.models.classifier import HeadConfig, SequenceClassifier
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.samplernn import SampleRnn, SampleRnnConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.models.wavenet import WaveNet, WaveNetConfig

S4D = MixerConfig("s4d_mlp")
COMPLEX = MixerConfig(complex=True, selective=False)
MODELS = {
    "sequence": lambda: SequenceModel(SequenceModelConfig(8, 8, 2)),
    "complex": lambda: SequenceModel(SequenceModelConfig(8, 8, 2, complex=True, tie_embeddings=False)),
    "cheap recomputation": lambda: SequenceModel(SequenceModelConfig(8, 8, 2, recompute="cheap")),
    "block recomputation": lambda: SequenceModel(SequenceModelConfig(8, 8, 2, recompute="block")),
    "multiscale": lambda: MultiscaleModel(MultiscaleModelConfig(8, 8, 1, pools=[2, 2], outer=COMPLEX)),
    "S4D": lambda: MultiscaleModel(MultiscaleModelConfig(8, 8, 1, pools=[2], outer=S4D, centre=S4D)),
    "wavenet": lambda: WaveNet(WaveNetConfig(8, 8, 8, 1, 3)),
    "samplernn": lambda: SampleRnn(SampleRnnConfig(8, 8, pools=[2, 2])),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_float64_equals_float32_to_rounding(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model, tokens = make(), torch.randint(8, (2, 9))
    wide = copy.deepcopy(model).double()
    logits, expected = wide(tokens), model(tokens)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), expected, rtol=1e-4, atol=1e-4)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for parameter, narrow in zip(wide.parameters(), model.parameters(), strict=True):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float64
        scale = narrow.grad.abs().max().item()
        torch.testing.assert_close(parameter.grad.float(), narrow.grad, rtol=1e-3, atol=1e-4 * scale + 1e-6)
    state = wide.initial_state(2)
    for position in range(9):
        step_logits, state = wide.step(tokens[:, position], state)
        torch.testing.assert_close(step_logits, logits[:, position], rtol=1e-10, atol=1e-10)
    first, state = wide(tokens[:, :4], wide.initial_state(2))
    second, _ = wide(tokens[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), logits, rtol=1e-10, atol=1e-10)
    decoded, _ = Decoder(wide, 2, seed=1).advance(6)
    assert decoded.shape == (2, 6)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_classifier_runs_in_float64(pooling) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model: nn.Module = SequenceClassifier(SequenceModel(SequenceModelConfig(8, 8, 1)), 3, HeadConfig(pooling))
    tokens = torch.randint(8, (2, 9))
    expected = model(tokens)
    logits = model.double()(tokens)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_models_run() -> None:
    torch.manual_seed(0)
    model, tokens = MODELS["sequence"](), torch.randint(8, (2, 9))
    expected = model(tokens)
    narrow = model.bfloat16()
    logits = narrow(tokens)
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()
    step_logits, _ = narrow.step(tokens[:, 0], narrow.initial_state(2))
    assert (step_logits.float() - expected[:, 0]).abs().max() < 0.1 * expected.abs().max()
