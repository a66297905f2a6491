"""Adapters, hooks and parametrizations of any part of a mixer act in forward, step and gradient alike."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from core.layers.mamba import Mamba, MambaState
from core.layers.plain import all_plain, is_plain

D_MODEL, LENGTH = 8, 11
PARTS = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
Leaf = nn.Linear | nn.Conv1d


class Doubled(nn.Module):
    """An adapter: the wrapped layer, whose attributes it hides, plus an equal delta."""

    def __init__(self, base: Leaf) -> None:
        super().__init__()
        self.base, self.delta = base, copy.deepcopy(base).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.delta(x)


class Scale(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return 2 * tensor


class DoubledLinear(nn.Linear):
    """A subclass with the attributes of a linear layer and another result."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledTensor(Tensor):
    """A weight that acts as its double in any operation, as weights of quantization libraries may."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        def plain(value: object) -> object:
            return 2 * value.as_subclass(Tensor) if isinstance(value, DoubledTensor) else value

        if function in (nn.functional.linear, torch.conv1d):
            return function(*map(plain, arguments), **{k: plain(v) for k, v in (keywords or {}).items()})
        return super().__torch_function__(function, types, arguments, keywords or {})


def replace(mixer: Mamba, part: str) -> None:
    setattr(mixer, part, Doubled(getattr(mixer, part)))


def hook(mixer: Mamba, part: str) -> None:
    getattr(mixer, part).register_forward_hook(lambda module, inputs, output: 2 * output)


def rebind(mixer: Mamba, part: str) -> None:
    layer = getattr(mixer, part)
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def parametrize_all(mixer: Mamba, part: str) -> None:
    for name in dict(getattr(mixer, part).named_parameters()):
        parametrize.register_parametrization(getattr(mixer, part), name, Scale())


def subclass(mixer: Mamba, part: str) -> None:
    if part == "conv1d":
        pytest.skip("covers linear layers")
    getattr(mixer, part).__class__ = DoubledLinear


def subclass_tensors(mixer: Mamba, part: str) -> None:
    layer = getattr(mixer, part)
    for name, parameter in list(layer.named_parameters()):
        doubled = nn.Parameter(parameter.detach().as_subclass(DoubledTensor), requires_grad=False)
        layer.register_parameter(name, doubled)


CHANGES: list[Callable[[Mamba, str], None]] = [
    replace,
    hook,
    rebind,
    parametrize_all,
    subclass,
    subclass_tensors,
]


def pair_of(change: Callable[[Mamba, str], None], part: str, **options: object) -> tuple[Mamba, Mamba]:
    """Return a mixer whose part doubles its result, and a plain one with doubled parameters there."""
    torch.manual_seed(0)
    changed = Mamba(D_MODEL, d_state=4, dt_rank=3, **options)  # type: ignore[arg-type]
    expected = copy.deepcopy(changed)
    for parameter in getattr(expected, part).parameters():
        parameter.data *= 2
    change(changed, part)
    assert not is_plain(getattr(changed, part))
    return changed, expected


def inputs() -> Tensor:
    return torch.randn(2, LENGTH, D_MODEL, generator=torch.Generator().manual_seed(2))


def assert_close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
every_part = pytest.mark.parametrize("part", PARTS)


@every_part
@every_change
def test_a_changed_layer_acts_in_forward_and_step(change: Callable[[Mamba, str], None], part: str) -> None:
    (changed, expected), x = pair_of(change, part), inputs()
    y, state = expected(x, expected.initial_state(2))
    assert_close(changed(x), y)
    first, between = changed(x[:, :4], changed.initial_state(2))
    second, last = changed(x[:, 4:], between)
    assert_close(torch.cat([first, second], dim=1), y)
    stepped, steps = changed.initial_state(2), []
    for position in x.unbind(1):
        output, stepped = changed.step(position, stepped)
        steps.append(output)
    assert_close(torch.stack(steps, dim=1), y)
    for pair in (*zip(last, state, strict=True), *zip(stepped, state, strict=True)):
        assert_close(*pair)


@every_part
@every_change
def test_a_changed_layer_acts_on_packed_sequences(change: Callable[[Mamba, str], None], part: str) -> None:
    (changed, expected), x = pair_of(change, part), inputs()[:1]
    bounds = torch.tensor([0, 3, 3, 4, LENGTH])
    start = MambaState(*(torch.randn_like(tensor) for tensor in expected.initial_state(4)))
    y, state = changed(x, start, bounds)
    expected_y, expected_state = expected(x, start, bounds)
    assert_close(y, expected_y)
    for pair in zip(state, expected_state, strict=True):
        assert_close(*pair)


@every_part
@pytest.mark.parametrize("change", [hook, parametrize_all, rebind], ids=lambda change: change.__name__)
def test_a_changed_layer_acts_in_the_gradient(change: Callable[[Mamba, str], None], part: str) -> None:
    (changed, expected), x = pair_of(change, part), inputs()
    leaves = x.clone().requires_grad_(), x.clone().requires_grad_()
    for mixer, leaf in zip((changed, expected), leaves, strict=True):
        mixer(leaf).square().sum().backward()
    assert_close(leaves[0].grad, leaves[1].grad)  # type: ignore[arg-type]
    doubled = {id(parameter) for parameter in getattr(expected, part).parameters()}
    named = {name.replace(".parametrizations", "").replace(".original", ""): p.grad
             for name, p in changed.named_parameters()}  # fmt: skip
    for name, parameter in expected.named_parameters():
        factor = 2 if id(parameter) in doubled else 1
        assert_close(named[name], factor * parameter.grad)  # type: ignore[operator]


@every_part
def test_backward_hooks_fire(part: str) -> None:
    mixer, calls = Mamba(D_MODEL, d_state=4), []
    getattr(mixer, part).register_full_backward_hook(lambda *arguments: calls.append(part))
    mixer(inputs()).sum().backward()
    assert calls == [part]


@pytest.mark.parametrize("options", [{"complex": True}, {"selective": ("dt",)}, {"selective": False}])
def test_other_mixers_call_a_changed_layer(options: dict) -> None:
    for part in ("in_proj", "conv1d"):
        (changed, expected), x = pair_of(hook, part, **options), inputs()
        assert_close(changed(x), expected(x))
        assert_close(changed.step(x[:, 0], changed.initial_state(2))[0], expected(x)[:, 0])


@every_part
def test_layers_with_another_bias_are_read(part: str) -> None:
    """A replaced layer of the same class may have a bias where the mixer has none, or lack one."""
    torch.manual_seed(0)
    mixer, x = Mamba(D_MODEL, d_state=4), inputs()
    layer = getattr(mixer, part)
    layer.bias = None if layer.bias is not None else nn.Parameter(torch.randn(len(layer.weight)))
    steps, state = [], mixer.initial_state(2)
    for position in x.unbind(1):
        output, state = mixer.step(position, state)
        steps.append(output)
    assert_close(mixer(x), torch.stack(steps, dim=1))
    reference = copy.deepcopy(mixer)
    getattr(reference, part).register_forward_hook(lambda module, inputs, output: output + 0)
    assert_close(mixer(x), reference(x))


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no quantized linear")
def test_a_quantized_mixer_is_near_the_mixer() -> None:
    torch.manual_seed(0)
    mixer, x = Mamba(64), torch.randn(2, LENGTH, 64)
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(mixer), {nn.Linear})
    assert not all_plain(quantized)
    y = mixer(x)
    assert (quantized(x) - y).abs().max() < 0.05 * y.abs().max()
    state = quantized.initial_state(2)
    for t, position in enumerate(x.unbind(1)):
        output, state = quantized.step(position, state)
        assert (output - y[:, t]).abs().max() < 0.05 * y.abs().max()


def test_plain_modules_are_plain() -> None:
    mixer = Mamba(D_MODEL)
    assert all_plain(mixer)
    handle = mixer.out_proj.register_forward_hook(lambda *arguments: None)
    assert not all_plain(mixer)
    handle.remove()
    assert all_plain(mixer)
