"""Decoding on a GPU: engines equal forward, and a sample does not depend on batch, calls or restoring."""

import os

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from core.decoding.decoder import Decoder
from core.decoding.eager import EagerEngine
from core.decoding.graph import GraphEngine
from core.decoding.persistent import PersistentEngine
from core.decoding.sampling import SamplingConfig, sample, sample_keys
from core.decoding.state import DecodeState, Engine, Model
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.sequence import SequenceModel, SequenceModelConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no GPU.")

S4D = MixerConfig(complex=True, selective=False)
CONFIGS = {
    "plain": SequenceModelConfig(vocab_size=16, d_model=64, n_layer=3),
    "complex": SequenceModelConfig(vocab_size=12, d_model=32, n_layer=2, complex=True, tie_embeddings=False),
    "time-invariant": SequenceModelConfig(vocab_size=256, d_model=64, n_layer=2, selective=False),
    "only dt": SequenceModelConfig(vocab_size=20, d_model=48, n_layer=2, selective=["dt"], d_state=32),
    "many blocks": SequenceModelConfig(vocab_size=16, d_model=256, n_layer=2),
    "wide": SequenceModelConfig(vocab_size=16, d_model=768, n_layer=2),
    "clocks": MultiscaleModelConfig(n_layer=2),
    "clocks around S4D": MultiscaleModelConfig(
        n_layer=1, pools=[16, 16], outer=S4D, centre=MixerConfig(complex=True)
    ),
    "uneven clocks": MultiscaleModelConfig(n_layer=2, d_model=32, pools=[3, 2, 2], middle=S4D),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
STEPS = int(os.environ.get("DECODED_STEPS", "1500"))  # 32000 for the full check


every_engine = pytest.mark.parametrize("make", [GraphEngine, PersistentEngine])


def model_of(config: SequenceModelConfig | MultiscaleModelConfig) -> Model:
    torch.manual_seed(0)
    model: Model = (SequenceModel if isinstance(config, SequenceModelConfig) else MultiscaleModel)(config)
    model.embedding.weight.data *= 10
    return model.cuda()


def started(make: type, model: Model, count: int, config: SamplingConfig | None = None) -> Engine:
    mask = torch.arange(model.config.padded_vocab_size, device="cuda") < model.config.vocab_size
    engine = make(model, count, config or SamplingConfig(), mask)
    logits = torch.zeros(count, len(mask), device="cuda")
    engine.load(DecodeState(logits, model.initial_state(count), 0), sample_keys(0, 0, count, "cuda"))
    return engine


@torch.no_grad()
def error(model: Model, engine: Engine, tokens: Tensor, log_probability: Tensor) -> float:
    """Return the largest error of log-probabilities and last logits, relative to logits above 10."""
    logits = model(tokens)
    expected = logits.log_softmax(dim=-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    difference = (log_probability[:, 1:] - expected).abs().max()
    difference = max(difference, (engine.state().logits - logits[:, -1]).abs().max())
    print(f"{type(engine).__name__}: error {difference:.1e}, logits up to {logits.abs().max():.1f}")
    return float(difference / max(1, logits.abs().max() / 10))


@every_config
def test_decoding_is_forward(config: SequenceModelConfig | MultiscaleModelConfig) -> None:
    model = model_of(config)
    engine = started(PersistentEngine, model, 3)
    assert error(model, engine, *engine.advance(STEPS)) < 1e-4


@pytest.mark.parametrize("name", ["complex", "uneven clocks"])
def test_graphs_are_forward(name: str) -> None:
    model = model_of(CONFIGS[name])
    engine = started(GraphEngine, model, 3)
    assert error(model, engine, *engine.advance(200)) < 1e-4


@pytest.mark.parametrize("name", ["plain", "time-invariant", "clocks", "wide"])
def test_bf16_weights_are_close(name: str) -> None:
    model = model_of(CONFIGS[name])
    with torch.autocast("cuda", torch.bfloat16):
        engine = started(PersistentEngine, model, 3)
    assert error(model, engine, *engine.advance(STEPS)) < 0.1


@every_engine
def test_engines_sample_the_tokens_of_the_eager_engine(make: type) -> None:
    model = model_of(CONFIGS["clocks"])
    expected, _ = started(_Eager, model, 5).advance(100)
    tokens, _ = started(make, model, 5).advance(100)
    assert torch.equal(tokens, expected)


class _Eager(EagerEngine):
    def __init__(self, model: Model, count: int, config: SamplingConfig, allowed: Tensor) -> None:
        super().__init__(model, config, allowed)


@pytest.mark.parametrize("name", ["plain", "many blocks", "clocks"])
def test_a_sample_is_the_same_in_any_batch(name: str) -> None:
    model = model_of(CONFIGS[name])
    together = Decoder(model, 600, seed=3).advance(400)
    for count, first in [(1, 0), (1, 599), (7, 300), (200, 100), (300, 300)]:
        batch = Decoder(model, count, seed=3, first_sample=first).advance(400)
        for part, whole in zip(batch, together, strict=True):
            assert torch.equal(part, whole[first : first + count])


@every_engine
def test_any_split_into_calls_gives_the_same_bits(make: type) -> None:
    model = model_of(CONFIGS["clocks"])
    whole = started(make, model, 4).advance(200)
    engine = started(make, model, 4)
    parts = [engine.advance(steps) for steps in (1, 5, 16, 17, 161)]
    for one, calls in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(calls, dim=1))


def test_a_restored_decoder_continues_bit_by_bit() -> None:
    model = model_of(CONFIGS["clocks"])
    decoder = Decoder(model, 3, seed=1)
    decoder.prefill(torch.arange(100))
    decoder.advance(37)
    saved = {name: tensor.cpu() for name, tensor in decoder.state_dict().items()}
    expected = decoder.advance(300)
    restored = Decoder(model, 3)
    restored.load_state_dict(saved)
    for one, other in zip(restored.advance(300), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(0.0),
        SamplingConfig(1e-30),
        SamplingConfig(0.7),
        SamplingConfig(top_k=5),
        SamplingConfig(top_p=0.6),
        SamplingConfig(min_p=0.2),
        SamplingConfig(1.3, top_k=20, top_p=0.9, min_p=0.05),
    ],
    ids=str,
)
def test_tokens_are_those_of_sample(config: SamplingConfig) -> None:
    model, count = model_of(CONFIGS["clocks"]), 500
    engine = started(PersistentEngine, model, count, config)
    logits = torch.randn(count, 256, device="cuda") * 3
    keys = sample_keys(5, 0, count, "cuda")
    engine.load(DecodeState(logits.clone(), model.initial_state(count), 12), keys)
    tokens, log_probability = engine.advance(1)
    expected, expected_log = sample(
        logits, keys, 12, config, torch.ones(256, dtype=torch.bool, device="cuda")
    )
    assert (tokens[:, 0] == expected).float().mean() > 0.995  # ties in the last bit may differ
    same = tokens[:, 0] == expected
    torch.testing.assert_close(log_probability[same, 0], expected_log[same], rtol=1e-5, atol=1e-5)


def test_tokens_follow_the_softmax() -> None:
    model, count = model_of(CONFIGS["plain"]), 20_000
    engine = started(PersistentEngine, model, count)
    logits = torch.linspace(-2, 2, 16, device="cuda")
    engine.load(
        DecodeState(logits.expand(count, -1).clone(), model.initial_state(count), 3),
        sample_keys(0, 0, count, "cuda"),
    )
    counts = engine.advance(1)[0].flatten().bincount(minlength=16).cpu()
    assert chisquare(counts, logits.cpu().double().softmax(0) * count).pvalue > 0.001
