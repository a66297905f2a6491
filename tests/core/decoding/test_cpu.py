"""The compiled step equals forward for every kind of block, and each row is independent of the others."""

import pytest
import torch

from core.decoding.cpu import CpuEngine
from core.decoding.decoder import Decoder
from core.decoding.state import Model
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.sequence import SequenceModel, SequenceModelConfig

PAIRED = MixerConfig(complex=True, selective=False)
CONFIGS = {
    "plain": SequenceModelConfig(vocab_size=12, d_model=24, n_layer=2),
    "complex": SequenceModelConfig(vocab_size=20, d_model=20, n_layer=2, complex=True, tie_embeddings=False),
    "only dt": SequenceModelConfig(vocab_size=12, d_model=10, n_layer=1, selective=["dt"], d_conv=2),
    "B and C": SequenceModelConfig(vocab_size=12, d_model=16, n_layer=1, selective=["B", "C"], d_state=20),
    "clocks": MultiscaleModelConfig(vocab_size=30, d_model=12, n_layer=2, pools=[2, 3, 2], d_state=6),
    "S4D outside": MultiscaleModelConfig(vocab_size=30, d_model=16, n_layer=1, pools=[4], outer=PAIRED),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_decoding_is_forward(config: SequenceModelConfig | MultiscaleModelConfig) -> None:
    torch.manual_seed(0)
    model: Model = (SequenceModel if isinstance(config, SequenceModelConfig) else MultiscaleModel)(config)
    model.embedding.weight.data *= 10
    decoder = Decoder(model, 2)
    assert isinstance(decoder._engine, CpuEngine)
    tokens, log_probability = decoder.advance(300)
    with torch.no_grad():
        logits = model(tokens)
    expected = logits.log_softmax(dim=-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(log_probability[:, 1:], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(decoder.state_dict()["logits"], logits[:, -1], rtol=0, atol=1e-4)


@torch.no_grad()
def test_decoding_is_forward_after_32000_steps() -> None:
    torch.manual_seed(0)
    model = MultiscaleModel(
        MultiscaleModelConfig(vocab_size=16, d_model=8, n_layer=1, pools=[2, 4], d_state=4)
    )
    model.embedding.weight.data *= 10
    decoder = Decoder(model, 1)
    tokens, log_probability = decoder.advance(32_000)
    logits = model(tokens)
    expected = logits.log_softmax(dim=-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(log_probability[:, 1:], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(decoder.state_dict()["logits"], logits[:, -1], rtol=0, atol=1e-4)


def test_a_row_is_bit_identical_in_any_batch() -> None:
    torch.manual_seed(0)
    model = MultiscaleModel(CONFIGS["clocks"])
    together = Decoder(model, 7, seed=2).advance(60)
    for row in (0, 3, 6):
        alone = Decoder(model, 1, seed=2, first_sample=row).advance(60)
        for one, all_rows in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_rows[row])
