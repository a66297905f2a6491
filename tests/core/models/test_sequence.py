"""The sequence model: sizes; forward, step, chunks, packing and recomputation are one function."""

import collections
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from core.models.sequence import SequenceModel, SequenceModelConfig

DNA_SIZES = [
    (8, 64, 0.263),
    (10, 96, 0.684),
    (12, 128, 1.401),
    (14, 192, 3.527),
    (16, 256, 7.013),
    (20, 384, 19.291),
    (24, 512, 40.694),
]


def model_of(**options: object) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(SequenceModelConfig(**({"vocab_size": 12, "d_model": 16, "n_layer": 3} | options)))


def tokens_of(*shape: int) -> Tensor:
    return torch.randint(12, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("n_layer", "d_model", "millions"), DNA_SIZES)
def test_dna_models_have_the_published_sizes(n_layer: int, d_model: int, millions: float) -> None:
    with torch.device("meta"):
        model = SequenceModel(SequenceModelConfig(vocab_size=12, d_model=d_model, n_layer=n_layer))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3) == millions


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_any_integer_is_a_token(dtype: torch.dtype) -> None:
    model, tokens = model_of(), tokens_of(2, 7)
    assert torch.equal(model(tokens.to(dtype)), model(tokens.long()))


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 11), max_size=4).map(sorted), is_complex=st.booleans())
def test_chunks_and_steps_equal_the_whole(cuts: list[int], is_complex: bool) -> None:
    model, tokens = model_of(complex=is_complex), tokens_of(2, 11)
    state, outputs = model.initial_state(2), []
    for start, end in zip([0, *cuts], [*cuts, 11], strict=True):
        if end - start == 1:
            logits, state = model.step(tokens[:, start], state)
            logits = logits[:, None]
        else:
            logits, state = model(tokens[:, start:end], state)
        outputs.append(logits)
    torch.testing.assert_close(torch.cat(outputs, dim=1), model(tokens), rtol=1e-5, atol=1e-5)


def test_packed_is_separate() -> None:
    model, tokens = model_of(), tokens_of(1, 12)
    packed = model(tokens, cu_seqlens=torch.tensor([0, 5, 5, 12]))
    separate = torch.cat([model(tokens[:, :5]), model(tokens[:, 5:])], dim=1)
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=1e-5)


def gradients_of(model: SequenceModel, tokens: Tensor, chunks: int) -> list[Tensor]:
    state, losses = model.initial_state(len(tokens)), []
    for chunk in tokens.chunk(chunks, dim=1):
        logits, state = model(chunk, state)
        losses.append(logits.square().sum())
    return list(torch.autograd.grad(sum(losses), list(model.parameters())))


def test_gradients_through_chunks_equal_those_of_the_whole() -> None:
    model, tokens = model_of(), tokens_of(2, 12)
    for chunked, whole in zip(gradients_of(model, tokens, 3), gradients_of(model, tokens, 1), strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", ["cheap", "block"])
@pytest.mark.parametrize("chunks", [1, 3])
def test_recomputation_changes_no_gradient(chunks: int, level: str) -> None:
    tokens = tokens_of(2, 12)
    recomputed = gradients_of(model_of(recompute=level), tokens, chunks)
    assert all(map(torch.equal, recomputed, gradients_of(model_of(), tokens, chunks)))


class Counter(TorchDispatchMode):
    """Count the calls of each operator."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any, keywords: Any = None) -> Any:
        self.calls[operator.__name__] += 1
        return operator(*arguments, **(keywords or {}))


@pytest.mark.parametrize(
    ("level", "convolutions", "scans"), [("none", 1, 1), ("cheap", 2, 1), ("block", 2, 2)]
)
def test_the_level_sets_the_operators_that_run_twice(level: str, convolutions: int, scans: int) -> None:
    with Counter() as counter:
        model_of(recompute=level)(tokens_of(2, 12)).sum().backward()
    blocks = model_of().config.n_layer
    assert counter.calls["causal_conv1d.default"] == convolutions * blocks
    assert counter.calls["selective_scan.default"] == scans * blocks


def test_recomputation_keeps_no_activation_of_a_block() -> None:
    def saved_elements(model: SequenceModel) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(tokens_of(2, 64))
        return sum(sizes)

    assert saved_elements(model_of(recompute="block")) < 0.25 * saved_elements(model_of())


def test_autocast_is_within_rounding_of_fp32() -> None:
    model, tokens = model_of(d_model=32), tokens_of(2, 64)
    expected = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


def test_hidden_is_the_input_of_the_head() -> None:
    model, tokens = model_of(tie_embeddings=False), tokens_of(2, 6)
    hidden, state = model.hidden(tokens, model.initial_state(2))
    assert hidden.shape == (2, 6, 16)
    assert len(state) == 3
    assert torch.equal(model.head(model.hidden(tokens)), model(tokens))


def test_the_past_does_not_see_the_future() -> None:
    model, tokens = model_of(), tokens_of(1, 9)
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 12
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(dim=-1).all()


def test_initialisation_is_the_published_one() -> None:
    model = model_of(d_model=128, n_layer=4, vocab_size=250, tie_embeddings=False)
    assert model.embedding.weight.shape == model.lm_head.weight.shape == (256, 128)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    # Kaiming uniform with a = sqrt(5) is U(-1/sqrt(d_inner), 1/sqrt(d_inner)), here over sqrt(n_layer).
    bound = 256**-0.5 / 2
    largest = model.layers[2].mixer.out_proj.weight.abs().max()
    assert 0.98 * bound < largest <= bound


def test_a_new_model_guesses_uniformly() -> None:
    """The loss of a new model is near that of uniform guessing."""
    for options in ({}, {"complex": True}, {"selective": False}, {"complex": True, "selective": False}):
        model, tokens = model_of(d_model=64, **options), tokens_of(4, 65)
        loss = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten().long())
        assert loss.item() == pytest.approx(torch.tensor(16.0).log().item(), abs=0.1)


def test_bad_input_is_an_error() -> None:
    model = model_of()
    with pytest.raises(ValueError, match="must be integers"):
        model(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"must be \(batch, length\)"):
        model(tokens_of(4))
    with pytest.raises(ValueError, match="state has 2 blocks; the model has 3"):
        model(tokens_of(1, 4), model.initial_state(1)[:2])
    with pytest.raises(ValueError, match="vocab_size is 0"):
        SequenceModelConfig(vocab_size=0)
