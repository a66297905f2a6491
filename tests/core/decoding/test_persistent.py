"""The decoding kernel, emulated in C++ (tests/kernels/decoding), equals model.step."""

from typing import Any

import pytest
import torch

from core.decoding import persistent
from core.decoding.eager import EagerEngine
from core.decoding.persistent import PersistentEngine
from core.decoding.sampling import SamplingConfig, sample_keys
from core.decoding.state import DecodeState, Model, state_tensors
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from kernels.decoding import cuda
from kernels.decoding.arguments import Sizes
from pipelines import audio_pretrain
from pipelines.common.config import CONFIGS, merge, read_yaml
from tests.kernels.decoding import emulation

STEPS = 7


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulate a GPU of four multiprocessors, with blocks of 64 threads."""
    monkeypatch.setattr(cuda, "launch", emulation.launch)
    monkeypatch.setattr(cuda, "clusters", lambda ranks, _: 4 // ranks)
    monkeypatch.setattr(persistent, "THREADS", 64)


def started(
    engine: EagerEngine | PersistentEngine, model: Model, count: int
) -> EagerEngine | PersistentEngine:
    with torch.no_grad():
        logits, state = model(torch.arange(count)[:, None] % 5, model.initial_state(count))
    engine.load(DecodeState(logits[:, -1].clone(), state, 1), sample_keys(0, 0, count))
    return engine


MODELS = {
    "clocks": lambda: MultiscaleModel(
        MultiscaleModelConfig(
            vocab_size=40, d_model=32, n_layer=2, pools=[2, 2], d_state=8, centre=MixerConfig(complex=True)
        )
    ),
    "constant": lambda: SequenceModel(
        SequenceModelConfig(vocab_size=12, d_model=32, n_layer=1, selective=["dt"], tie_embeddings=False)
    ),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_the_kernel_equals_the_step(make: type[Model]) -> None:
    torch.manual_seed(0)
    model, count, config = make(), 3, SamplingConfig(top_k=30, top_p=0.95, min_p=0.001)
    model.embedding.weight.data *= 20
    allowed = torch.arange(model.config.padded_vocab_size) < model.config.vocab_size
    eager = started(EagerEngine(model, config, allowed), model, count)
    kernel = started(PersistentEngine(model, count, config, allowed), model, count)
    for steps in (1, STEPS - 1):
        tokens, log_probability = kernel.advance(steps)
        expected, expected_log_probability = eager.advance(steps)
        assert torch.equal(tokens, expected)
        torch.testing.assert_close(log_probability, expected_log_probability, rtol=0, atol=1e-4)
    torch.testing.assert_close(kernel.state(), eager.state(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [3, 11, 20], ids=["a few streams", "many streams", "more at once"])
def test_a_stream_is_bit_identical_in_any_batch(count: int) -> None:
    torch.manual_seed(0)
    model = MODELS["clocks"]()
    allowed = torch.ones(40, dtype=torch.bool)
    engine = started(PersistentEngine(model, count, SamplingConfig(), allowed), model, count)
    rows = [engine.state().row(row) for row in range(count)]
    together = engine.advance(STEPS)
    for row in (0, count - 1):
        alone = PersistentEngine(model, 1, SamplingConfig(), allowed)
        alone.load(rows[row], sample_keys(0, row, 1))
        for one, all_rows in zip(alone.advance(STEPS), together, strict=True):
            assert torch.equal(one[0], all_rows[row])


def test_a_sample_does_not_depend_on_the_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    options = {"vocab_size": 40, "d_model": 128, "n_layer": 1, "pools": [2], "d_state": 8}
    model, allowed = MultiscaleModel(MultiscaleModelConfig(**options)), torch.ones(40, dtype=torch.bool)
    results = []
    for ranks in (1, 2, 4):
        monkeypatch.setattr(persistent, "_ranks", lambda *_, ranks=ranks: ranks)
        engine = started(PersistentEngine(model, 1, SamplingConfig(), allowed), model, 1)
        assert engine._sizes[:2] == (ranks, 4)
        results.append([*engine.advance(STEPS), *state_tensors(engine.state().model_state)])
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


@pytest.mark.parametrize(("count", "expected"), [(1, 8), (120, 8), (121, 4), (240, 4), (241, 2), (9999, 2)])
def test_few_streams_have_many_ranks_each(count: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "clusters", lambda ranks, _: {2: 66, 4: 30, 8: 15}.get(ranks, 0))
    model = SequenceModel(SequenceModelConfig(vocab_size=8, d_model=256, n_layer=1))
    assert persistent._ranks(model, 2, count, torch.device("cuda")) == expected


def test_a_wide_model_has_the_most_ranks_that_the_gpu_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SequenceModel(SequenceModelConfig(vocab_size=8, d_model=512, n_layer=1))
    for largest in (16, 8):
        monkeypatch.setattr(cuda, "clusters", lambda ranks, _, largest=largest: int(ranks <= largest))
        assert persistent._ranks(model, 2, 1, torch.device("cuda")) == largest
    monkeypatch.setattr(cuda, "clusters", lambda ranks, _: int(ranks == 1))
    assert not any(persistent._possible_ranks(model, 2, torch.device("cuda")))


H200 = {1: 132, 2: 66, 4: 30, 8: 15, 16: 7}
CONFIGURED = {
    path.stem: merge(audio_pretrain.Config, read_yaml(str(path)))
    for path in CONFIGS.glob("*.yaml")
    if path.stem in ("sc09_small", "sc09_large", "youtubemix", "fsdd", "digits")
}
EXTREMES = {
    "largest": SequenceModelConfig(vocab_size=1024, d_model=768, n_layer=48, d_state=64, expand=4),
    "736": SequenceModelConfig(vocab_size=1024, d_model=736, n_layer=2, expand=4),
    "448": SequenceModelConfig(vocab_size=256, d_model=448, n_layer=8, expand=4),
    "complex": SequenceModelConfig(vocab_size=12, d_model=256, n_layer=8, d_state=64, complex=True),
    "odd": SequenceModelConfig(vocab_size=12, d_model=48, n_layer=2),
    "deep net": MultiscaleModelConfig(d_model=192, n_layer=8),
    "slow net": MultiscaleModelConfig(d_model=96, n_layer=8, pools=[16, 16]),
}


def plans_of(config: SequenceModelConfig | MultiscaleModelConfig, planes: int) -> list[tuple[Sizes, int]]:
    """Return the plans for few and many streams; none for a model that does not fit."""
    device = torch.device("cuda")
    with torch.device("meta"):
        model: Any = (SequenceModel if isinstance(config, SequenceModelConfig) else MultiscaleModel)(config)
    if not any(persistent._possible_ranks(model, planes, device)):
        return []
    plans = []
    for count in (1, 60, 400, 10_240):
        ranks = persistent._ranks(model, planes, count, device)
        program = persistent._program(model, ranks, planes)
        plans.append(persistent._plan(program, model, count, device))
    return plans


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("name", [*CONFIGURED, *EXTREMES])
def test_a_supported_model_fits_for_any_count(
    name: str, planes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "clusters", lambda ranks, _: H200[ranks])
    plans = plans_of(EXTREMES[name] if name in EXTREMES else CONFIGURED[name].model.unet, planes)
    assert plans or name in EXTREMES
    for sizes, share in plans:
        assert sizes.shared_memory() <= cuda.SHARED_MEMORY
        assert share <= sizes.STREAMS
        assert sizes.AHEAD % (sizes.PARTS // sizes.CLUSTER) == 0
        assert sizes.RING >= 2


@torch.no_grad()
def test_under_autocast_the_weights_are_bf16() -> None:
    torch.manual_seed(0)
    model, allowed = MODELS["constant"](), torch.arange(16) < 12
    with torch.autocast("cpu", torch.bfloat16):
        engine = PersistentEngine(model, 2, SamplingConfig(), allowed)
    first = torch.arange(2)[:, None]
    tokens, log_probability = started(engine, model, 2).advance(STEPS)
    expected = model(torch.cat([first, tokens], dim=1))[:, :-1].log_softmax(dim=-1)
    error = (log_probability - expected.gather(-1, tokens[..., None])[..., 0]).abs().max()
    assert 1e-5 < error < 5e-2
