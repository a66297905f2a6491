"""The multi-scale model: sizes; forward, step, chunks and a plain U-Net are one function."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, pad
from torch.utils._pytree import tree_leaves

from core.decoding.decoder import generate
from core.layers.block import Block
from core.layers.s4d import S4DBlock
from core.models.multiscale import (
    Centre,
    MixerConfig,
    MultiscaleModel,
    MultiscaleModelConfig,
    Stage,
    StageState,
)

S4D, COMPLEX = MixerConfig(complex=False, selective=False), MixerConfig(complex=True, selective=True)
COMPLEX_S4D, S4D_MLP = MixerConfig(complex=True, selective=False), MixerConfig("s4d_mlp")
VARIANTS = {
    "S6": {"pools": [4, 4]},
    "S4D around S6": {"pools": [4, 4], "outer": COMPLEX_S4D, "middle": S4D, "centre": COMPLEX},
    "three uneven pools": {"pools": [2, 3, 5], "centre": COMPLEX_S4D},
    "pools of 16": {"pools": [16, 16], "outer": COMPLEX_S4D, "middle": COMPLEX_S4D, "centre": COMPLEX},
    "one pool": {"pools": [3], "outer": MixerConfig(complex=False, selective=["dt"])},
    "pool of one": {"pools": [3, 1]},
    "S4D and MLP": {"pools": [4, 4], "outer": S4D_MLP, "middle": S4D_MLP, "centre": S4D_MLP},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def model_of(**options: object) -> MultiscaleModel:
    torch.manual_seed(0)
    small = {"d_model": 4, "n_layer": 2, "d_state": 4, "vocab_size": 32}
    return MultiscaleModel(MultiscaleModelConfig(**(small | options)))


def tokens_of(*shape: int) -> Tensor:
    return torch.randint(32, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def live_parts(state: StageState) -> list:
    """Return the tensors of a state without the unused parts of its frames."""
    if not isinstance(state, StageState):
        return tree_leaves(state)
    phase, inputs, outputs, inner = state.pooled
    frames = [inputs[:, :phase], outputs[:, phase:]]
    return [phase, *frames, *tree_leaves((state.down, state.up)), *live_parts(inner)]


def run_in_chunks(model: MultiscaleModel, tokens: Tensor, cuts: list[int]) -> tuple[Tensor, StageState]:
    """Return the logits and the final state of the chunks between cuts; chunks of one position use step."""
    state, outputs = model.initial_state(len(tokens)), []
    for start, end in zip([0, *cuts], [*cuts, tokens.shape[1]], strict=True):
        if end - start == 1:
            logits, state = model.step(tokens[:, start], state)
            logits = logits[:, None]
        else:
            logits, state = model(tokens[:, start:end], state)
        outputs.append(logits)
    return torch.cat(outputs, dim=1), state


@pytest.mark.parametrize(
    ("n_layer", "d_model", "pools", "millions"),
    [(8, 64, [4, 4], 6.1), (15, 96, [4, 4], 24.3), (3, 64, [16, 16], 3.5)],
)
def test_models_have_the_published_sizes(
    n_layer: int, d_model: int, pools: list[int], millions: float
) -> None:
    for kind in (MixerConfig(), COMPLEX):
        with torch.device("meta"):
            config = MultiscaleModelConfig(
                n_layer=n_layer, d_model=d_model, pools=pools, outer=kind, middle=kind, centre=kind
            )
            model = MultiscaleModel(config)
        size = sum(parameter.numel() for parameter in model.parameters())
        assert size / 1e6 == pytest.approx(millions, rel=0.03)
        assert sum(isinstance(module, Block) for module in model.modules()) == 5 * n_layer


def plain_stage(module: Stage | Centre, x: Tensor) -> Tensor:
    """Run the U-Net in the order of its definition: each layer up adds the input of its mirror layer."""

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def layer(block: Block | S4DBlock, x: Tensor) -> Tensor:
        if isinstance(block, Block):
            return x + block.mixer(normed(x, block.norm.weight))
        x = x + block.mixer(normed(x, block.norm.weight))[0]
        return x + block.out_proj(gelu(block.in_proj(normed(x, block.mlp_norm.weight))))

    if isinstance(module, Centre):
        y = x
        for block in module.chain.layers:
            y = layer(block, y)
        return y + x
    passed = []
    for block in module.down.layers:
        passed.append(x)
        x = layer(block, x)
    (batch, length, channels), pool = x.shape, module.pooled.pool
    frames = pad(x, (0, 0, 0, -length % pool)).reshape(batch, -1, pool * channels)
    coarse = module.pooled.up(plain_stage(module.pooled.inner, module.pooled.down(frames)))
    shifted = pad(coarse, (0, 0, 1, -1)).reshape(batch, -1, channels)[:, :length]
    x = x + shifted
    for block in module.up.layers:
        x = layer(block, x) + passed.pop()
    return x


@every_variant
@pytest.mark.parametrize("length", [1, 16, 37])
def test_model_is_the_plain_u_net(options: dict, length: int) -> None:
    model, tokens = model_of(**options), tokens_of(2, length)
    y = plain_stage(model.stage, model.embedding(tokens.int()))
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * model.norm_f.weight
    torch.testing.assert_close(model(tokens), model.head(y), **CLOSE)


@pytest.mark.parametrize("name", ["S6", "S4D around S6", "three uneven pools", "pools of 16"])
def test_2000_steps_are_forward(name: str) -> None:
    model, tokens = model_of(**VARIANTS[name] | {"n_layer": 1}), tokens_of(3, 2000)
    with torch.no_grad():
        expected, state = model(tokens, model.initial_state(3))
    logits, final_state = run_in_chunks(model, tokens, list(range(1, 2000)))
    assert torch.equal(model(tokens), expected)
    assert (logits - expected).abs().max() < 1e-4
    torch.testing.assert_close(live_parts(final_state), live_parts(state), **CLOSE)


@every_variant
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_chunks_equal_the_whole(options: dict, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, 70))
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=6)))
    model, tokens = model_of(**options | {"n_layer": 1}), tokens_of(2, length)
    logits, state = model(tokens, model.initial_state(2))
    chunks, final_state = run_in_chunks(model, tokens, cuts)
    torch.testing.assert_close(chunks, logits, **CLOSE)
    torch.testing.assert_close(live_parts(final_state), live_parts(state), **CLOSE)


@pytest.mark.parametrize("options", [VARIANTS["S4D around S6"], VARIANTS["three uneven pools"]])
def test_the_past_does_not_see_the_future(options: dict) -> None:
    """Change the token at position k of row k: at every phase, no logits before k change."""
    length = 67
    model, tokens = model_of(**options), tokens_of(1, length).repeat(length, 1)
    changed = tokens.clone()
    changed.diagonal().add_(1).remainder_(32)
    differs = (model(changed) != model(tokens)).any(dim=-1)
    assert torch.equal(differs, torch.ones(length, length, dtype=torch.bool).triu())


def gradients_of(model: MultiscaleModel, tokens: Tensor, chunks: list[int]) -> list[Tensor]:
    state, losses = model.initial_state(len(tokens)), []
    for chunk in tokens.split(chunks, dim=1):
        logits, state = model(chunk, state)
        losses.append(logits.square().sum())
    return list(torch.autograd.grad(sum(losses), list(model.parameters())))


@every_variant
def test_gradients_flow_through_everything_and_through_the_state(options: dict) -> None:
    model, tokens = model_of(**options), tokens_of(2, 75 if options["pools"] != [16, 16] else 600)
    expected = torch.autograd.grad(model(tokens).square().sum(), list(model.parameters()))
    assert all(gradient.any() for gradient in expected)
    cuts = [11, 22, tokens.shape[1] - 33]
    for gradient, reference in zip(gradients_of(model, tokens, cuts), expected, strict=True):
        assert (gradient - reference).norm() < 1e-4 * reference.norm()


def packed(model: MultiscaleModel, sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sequences (length,) end to end in one row, padded to whole frames, and their bounds."""
    rows = [torch.cat([s, tokens_of(-len(s) % model.frame)]) for s in sequences]
    bounds = torch.tensor([0, *map(len, rows)], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return torch.cat(rows)[None], bounds


@every_variant
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(0, 70), min_size=1, max_size=5))
def test_packed_sequences_equal_separate_ones(options: dict, lengths: list[int]) -> None:
    model = model_of(**options | {"n_layer": 1})
    sequences = [tokens_of(sum(lengths))[:length] for length in lengths]
    tokens, bounds = packed(model, sequences)
    logits = model(tokens, cu_seqlens=bounds)[0]
    for sequence, start in zip(sequences, bounds.tolist(), strict=False):
        torch.testing.assert_close(logits[start : start + len(sequence)], model(sequence[None])[0], **CLOSE)


@every_variant
def test_packed_sequences_have_the_gradients_of_separate_ones(options: dict) -> None:
    model = model_of(**options)
    sequences = [tokens_of(length) for length in (300, 17, 600)]
    alone = sum(model(sequence[None]).square().sum() for sequence in sequences)
    expected = torch.autograd.grad(alone, list(model.parameters()))
    tokens, bounds = packed(model, sequences)
    logits = model(tokens, cu_seqlens=bounds)[0]
    kept = [
        logits[start : start + len(s)].square().sum()
        for s, start in zip(sequences, bounds.tolist(), strict=False)
    ]
    gradients = torch.autograd.grad(sum(kept), list(model.parameters()))
    for gradient, reference in zip(gradients, expected, strict=True):
        assert (gradient - reference).norm() < 1e-4 * reference.norm()


def test_bad_packing_is_an_error() -> None:
    model = model_of(pools=[4, 2])
    with pytest.raises(ValueError, match="each must be a multiple of 8, the product of the pools"):
        model(tokens_of(1, 16), cu_seqlens=torch.tensor([0, 4, 16]))
    with pytest.raises(ValueError, match="cu_seqlens or a state, not both"):
        model(tokens_of(1, 16), model.initial_state(1), torch.tensor([0, 16]))


@pytest.mark.parametrize("level", ["cheap", "block"])
def test_recomputation_changes_no_gradient_and_saves_memory(level: str) -> None:
    def saved_elements(model: MultiscaleModel) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(tokens)
        return sum(sizes)

    tokens = tokens_of(2, 75)
    recomputed, plain = model_of(recompute=level, d_model=16), model_of(d_model=16)
    gradients, expected = (gradients_of(model, tokens, [30, 45]) for model in (recomputed, plain))
    assert all(map(torch.equal, gradients, expected))
    if level == "block":
        assert saved_elements(recomputed) < 0.5 * saved_elements(plain)


@pytest.mark.parametrize("options", [VARIANTS["S6"], VARIANTS["S4D around S6"]])
def test_autocast_is_within_rounding_of_fp32(options: dict) -> None:
    model, tokens = model_of(**options | {"d_model": 16}), tokens_of(2, 75)
    expected = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
        stepped, _ = run_in_chunks(model, tokens, [7, 8, 9, 40, 41, 42])
    assert logits.dtype == stepped.dtype == torch.bfloat16
    for value in (logits, stepped):
        assert (value - expected).abs().max() < 0.05 * expected.abs().max()


def test_each_part_has_its_mixers() -> None:
    model = model_of(pools=[2, 2, 2], outer=COMPLEX_S4D, middle=MixerConfig(selective=["dt"]), centre=COMPLEX)
    stage, kinds = model.stage, []
    while isinstance(stage, Stage):
        kinds.append({(b.mixer.complex, *b.mixer.selected) for b in (*stage.down.layers, *stage.up.layers)})
        stage = stage.pooled.inner
    kinds.append({(block.mixer.complex, *block.mixer.selected) for block in stage.chain.layers})
    assert kinds == [{(True,)}, {(False, "dt")}, {(False, "dt")}, {(True, "dt", "B", "C")}]


def test_a_step_writes_only_into_the_tensors_of_its_state() -> None:
    """A replayed graph of a step continues where the last step ended."""
    model = model_of(pools=[2, 3])
    state = model.initial_state(2)
    places = [leaf.data_ptr() for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
    for token in tokens_of(6, 2):
        _, state = model.step(token, state)
        assert places == [leaf.data_ptr() for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
    assert state.pooled.phase == state.pooled.inner.pooled.phase == 0


def test_a_step_does_not_enter_the_graph_of_the_forward_before_it() -> None:
    model, tokens = model_of(), tokens_of(2, 20)
    _, state = model(tokens, model.initial_state(2))
    for _ in range(16):
        logits, state = model.step(tokens[:, 0], state)
    assert not logits.requires_grad
    assert not any(leaf.requires_grad for leaf in tree_leaves(state) if isinstance(leaf, Tensor))


def test_generation_follows_the_probabilities_of_forward() -> None:
    """The prompt ends in the middle of a frame of either clock."""
    model, prompt = model_of(**VARIANTS["S4D around S6"]), tokens_of(22)
    tokens, log_likelihood = generate(model, 3, 40, prompt)
    whole = torch.cat([prompt.expand(3, -1), tokens], dim=1)
    log_probabilities = model(whole[:, :-1])[:, len(prompt) - 1 :].log_softmax(dim=-1)
    expected = log_probabilities.gather(-1, tokens[..., None]).sum(dim=(1, 2))
    torch.testing.assert_close(log_likelihood, expected.double(), rtol=1e-5, atol=1e-4)


def test_initialisation_equals_that_of_the_sequence_model() -> None:
    model = model_of(d_model=64, vocab_size=250, n_layer=4, pools=[2])
    assert model.embedding.weight.shape == model.head.weight.shape == (256, 64)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    # Kaiming uniform with a = sqrt(5) is U(-1/sqrt(d_inner), 1/sqrt(d_inner)), here over sqrt(n_layer).
    for chain, bound in ((model.stage.up, 128**-0.5 / 2), (model.stage.pooled.inner.chain, 256**-0.5 / 2)):
        largest = chain.layers[3].mixer.out_proj.weight.abs().max()
        assert 0.98 * bound < largest <= bound


def test_a_new_model_guesses_uniformly() -> None:
    for options in VARIANTS.values():
        model, tokens = model_of(**options | {"d_model": 16}), tokens_of(4, 65)
        loss = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten().long())
        assert loss.item() == pytest.approx(torch.tensor(32.0).log().item(), abs=0.4)


def test_bad_input_is_an_error() -> None:
    model = model_of()
    with pytest.raises(ValueError, match="must be integers"):
        model(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"must be \(batch, length\)"):
        model(tokens_of(4))
    with pytest.raises(ValueError, match=r"must be \(batch\)"):
        model.step(tokens_of(1, 4), model.initial_state(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"pools": []}, r"pools is \[\]"),
        ({"pools": [4, 0]}, r"pools is \[4, 0\]"),
        ({"recompute": "all"}, "recompute is all"),
    ],
)
def test_bad_shapes_are_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiscaleModelConfig(**options)
