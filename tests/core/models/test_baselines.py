"""WaveNet and SampleRnn: forward, step and any chunks are one function, and causal."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from core.decoding.decoder import generate
from core.models.samplernn import SampleRnn, SampleRnnConfig
from core.models.wavenet import WaveNet, WaveNetConfig

MODELS: dict[str, Callable[[], nn.Module]] = {
    "wavenet": lambda: WaveNet(WaveNetConfig(32, d_model=6, d_skip=8, n_stack=2, n_layer=4)),
    "samplernn": lambda: SampleRnn(SampleRnnConfig(32, d_model=16, width=3, pools=[4, 3])),
}
every_model = pytest.mark.parametrize("name", MODELS)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]()


def tokens_of(*shape: int) -> Tensor:
    return torch.randint(32, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@every_model
def test_200_steps_are_forward(name: str) -> None:
    model, tokens = model_of(name), tokens_of(3, 200)
    state, logits = model.initial_state(3), []
    for token in tokens.T:
        one, state = model.step(token, state)
        logits.append(one)
    torch.testing.assert_close(torch.stack(logits, dim=1), model(tokens), **CLOSE)
    assert not any(leaf.requires_grad for leaf in tree_leaves(state) if isinstance(leaf, Tensor))


@every_model
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_chunks_equal_the_whole(name: str, data: st.DataObject) -> None:
    model, tokens = model_of(name), tokens_of(2, data.draw(st.integers(2, 70)))
    cut = data.draw(st.integers(1, tokens.shape[1] - 1))
    first, state = model(tokens[:, :cut], model.initial_state(2))
    second, _ = model(tokens[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), model(tokens), **CLOSE)


@every_model
def test_the_past_does_not_see_the_future(name: str) -> None:
    """Change the token at position k of row k: the logits at k change, and none before k."""
    model, tokens = model_of(name), tokens_of(1, 50).repeat(50, 1)
    changed = tokens.clone()
    changed.diagonal().add_(1).remainder_(32)
    differs = (model(changed) != model(tokens)).any(dim=-1)
    assert not differs.tril(-1).any()
    assert differs.diagonal().all()


def test_wavenet_has_the_documented_receptive_field() -> None:
    model, tokens = model_of("wavenet").double(), tokens_of(1, 80)
    changed = tokens.clone()
    changed[0, 10] += 1
    differs = (model(changed) != model(tokens)).any(dim=-1)[0]
    assert differs[10 : 10 + 31].all()
    assert not differs[10 + 31 :].any()


@every_model
def test_every_parameter_learns(name: str) -> None:
    model = model_of(name)
    gradients = torch.autograd.grad(model(tokens_of(2, 60)).square().sum(), list(model.parameters()))
    assert all(gradient.any() for gradient in gradients)


@every_model
def test_generation_follows_the_probabilities_of_forward(name: str) -> None:
    model, prompt = model_of(name), tokens_of(13)
    tokens, log_likelihood = generate(model, 3, 30, prompt)
    whole = torch.cat([prompt.expand(3, -1), tokens], dim=1)
    log_probabilities = model(whole[:, :-1])[:, len(prompt) - 1 :].log_softmax(dim=-1)
    expected = log_probabilities.gather(-1, tokens[..., None]).sum(dim=(1, 2))
    torch.testing.assert_close(log_likelihood, expected.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: WaveNetConfig(d_skip=0), "d_skip is 0"),
        (lambda: SampleRnnConfig(width=0), "width is 0"),
        (lambda: SampleRnnConfig(pools=[]), r"pools is \[\]"),
    ],
)
def test_bad_shapes_are_errors(config: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config()
