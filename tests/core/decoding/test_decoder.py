"""Decoder: samples do not depend on calls, saving or batches."""

import pytest
import torch

from core.decoding.decoder import Decoder, generate
from core.decoding.sampling import SamplingConfig
from core.decoding.state import Model
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.samplernn import SampleRnn, SampleRnnConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.models.wavenet import WaveNet, WaveNetConfig

PROMPT = torch.tensor([3, 1, 4, 1, 5], dtype=torch.uint8)


def sequence_model(**options: object) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(SequenceModelConfig(**({"vocab_size": 12, "d_model": 16, "n_layer": 2} | options)))


def multiscale_model() -> MultiscaleModel:
    torch.manual_seed(0)
    config = MultiscaleModelConfig(
        vocab_size=12,
        d_model=8,
        n_layer=1,
        pools=[2, 3],
        d_state=4,
        outer=MixerConfig(complex=True, selective=False),
    )
    return MultiscaleModel(config)


def baselines() -> list[Model]:
    torch.manual_seed(0)
    return [
        WaveNet(WaveNetConfig(vocab_size=12, d_model=8, d_skip=8, n_stack=1, n_layer=3)),
        SampleRnn(SampleRnnConfig(vocab_size=12, d_model=8, width=3, pools=[2, 3])),
    ]


every_model = pytest.mark.parametrize(
    "model",
    [sequence_model(), multiscale_model(), *baselines()],
    ids=["plain", "clocks", "wavenet", "samplernn"],
)


@every_model
@pytest.mark.parametrize("prompt", [None, PROMPT])
@pytest.mark.parametrize("cut", [1, 7])
def test_a_restored_decoder_continues_bit_by_bit(model: Model, prompt: torch.Tensor | None, cut: int) -> None:
    decoder = Decoder(model, 3, SamplingConfig(top_k=6), seed=5, first_sample=2)
    if prompt is not None:
        decoder.prefill(prompt)
    decoder.advance(cut)
    saved = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    tokens, log_probability = decoder.advance(20)
    restored = Decoder(model, 3, SamplingConfig(top_k=6))
    restored.load_state_dict(saved)
    assert restored.position == decoder.position - 20
    again, log_probability_again = restored.advance(20)
    assert torch.equal(again, tokens)
    assert torch.equal(log_probability_again, log_probability)


@every_model
def test_many_steps_per_call_equal_single_steps(model: Model) -> None:
    together = Decoder(model, 2).advance(13)
    decoder = Decoder(model, 2)
    alone = [decoder.advance(1) for _ in range(13)]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts, dim=1))


@every_model
def test_a_prompt_in_chunks_equals_the_whole_prompt(model: Model) -> None:
    prompts = torch.stack([PROMPT, PROMPT.flip(0)])
    whole, chunks = Decoder(model, 2, SamplingConfig(0)), Decoder(model, 2, SamplingConfig(0))
    whole.prefill(prompts)
    chunks.prefill(prompts[:, :2])
    chunks.prefill(prompts[:, 2:])
    assert chunks.position == whole.position == 5
    torch.testing.assert_close(chunks.state_dict()["logits"], whole.state_dict()["logits"])
    assert torch.equal(chunks.advance(5).tokens, whole.advance(5).tokens)


@every_model
def test_log_probabilities_are_those_of_forward(model: Model) -> None:
    tokens, log_probability = Decoder(model, 2, SamplingConfig(temperature=1.5)).advance(30)
    expected = model(tokens[:, :-1]).log_softmax(dim=-1).gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(log_probability[:, 1:], expected.detach(), rtol=1e-4, atol=1e-4)
    assert (log_probability[:, 0] == 0).all()


@every_model
@pytest.mark.parametrize("length", [1, 2, 3])
def test_tokens_after_a_prompt_shorter_than_the_convolution_follow_forward(model: Model, length: int) -> None:
    decoder = Decoder(model, 2)
    decoder.prefill(PROMPT[:length])
    tokens, log_probability = decoder.advance(20)
    whole = torch.cat([PROMPT[:length].expand(2, -1), tokens], dim=1)
    expected = model(whole[:, :-1]).log_softmax(dim=-1).gather(-1, whole[:, 1:, None])[:, length - 1 :, 0]
    torch.testing.assert_close(log_probability, expected.detach(), rtol=1e-4, atol=1e-4)


def test_generate_equals_a_decoder() -> None:
    model = sequence_model()
    decoder = Decoder(model, 2, seed=3)
    decoder.prefill(PROMPT)
    assert torch.equal(generate(model, 2, 9, PROMPT, seed=3).tokens, decoder.advance(9).tokens)


def test_the_state_of_another_decoder_is_an_error() -> None:
    saved = Decoder(sequence_model(), 2).state_dict()
    with pytest.raises(ValueError, match="Model and count must be the same"):
        Decoder(sequence_model(), 3).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"has no state\.4"):
        Decoder(sequence_model(n_layer=3), 2).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"has state\.[23], which this decoder has not"):
        Decoder(sequence_model(n_layer=1), 2).load_state_dict(saved)


def test_bad_input_is_an_error() -> None:
    decoder = Decoder(sequence_model(), 2)
    with pytest.raises(ValueError, match="steps is 0"):
        decoder.advance(0)
    with pytest.raises(ValueError, match="prompt is empty"):
        decoder.prefill(torch.tensor([]))
    with pytest.raises(ValueError, match="count is 0"):
        Decoder(sequence_model(), 0)
