"""Causal convolution as torch operators: dispatch by device, autograd, fake tensors for torch.compile.

The public function has checked the arguments. No argument is fp64.
"""

import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels import dispatch
from kernels.checks import check_bounds, reject_second_derivative

_library = torch.library.Library("helixwave", "FRAGMENT")
_ARGUMENTS = (
    "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, Tensor? cu_seqlens, bool silu, "
    "bool return_final_state"
)
_library.define(f"causal_conv1d({_ARGUMENTS}) -> (Tensor y, Tensor final_state)")
_library.define(f"causal_conv1d_backward(Tensor grad_y, Tensor? grad_final_state, {_ARGUMENTS}) -> Tensor[]")
_library.define(
    "causal_conv1d_step(Tensor(a!) state, Tensor x, Tensor weight, Tensor? bias, bool silu) -> Tensor"
)


# This function imports inside: Triton must not load on a machine without a GPU.
def _backend(x: Tensor) -> ModuleType:
    """Return the module with `forward`, `backward` and `step` for the device of x."""
    if x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        from kernels.causal_conv1d import triton

        return triton
    from kernels.causal_conv1d import cpu

    return cpu


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
    return_final_state: bool,
) -> tuple[Tensor, Tensor]:
    if cu_seqlens is not None and cu_seqlens.is_cpu:
        check_bounds(cu_seqlens, x.shape[1])
    return _backend(x).forward(x, weight, bias, initial_state, cu_seqlens, silu, return_final_state)


def _forward_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
    return_final_state: bool,
) -> tuple[Tensor, Tensor]:
    y = x.new_empty(x.shape)
    if not return_final_state:
        return y, x.new_empty(0)
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return y, x.new_empty(sequences, weight.shape[1] - 1, x.shape[2])


def _backward(grad_y: Tensor, grad_final_state: Tensor | None, *arguments: Any) -> list[Tensor]:
    """Return the gradients of the present float arguments, in their order and dtypes."""
    *inputs, return_final_state = arguments
    gradients = _backend(inputs[0]).backward(
        grad_y, grad_final_state if return_final_state else None, *inputs
    )
    present = [pair for pair in zip(inputs[:4], gradients, strict=True) if pair[0] is not None]
    return [gradient.to(argument.dtype).contiguous() for argument, gradient in present]


def _backward_fake(grad_y: Tensor, grad_final_state: Tensor | None, *arguments: Any) -> list[Tensor]:
    return [argument.new_empty(argument.shape) for argument in arguments[:4] if argument is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.flags = inputs[5:]


def _differentiate(ctx: Any, grad_y: Tensor, grad_final_state: Tensor) -> tuple[Tensor | None, ...]:
    arguments = ctx.saved_tensors
    gradients = iter(_run_backward(grad_y, grad_final_state, *arguments, *ctx.flags))
    grads = [None if argument is None else next(gradients) for argument in arguments[:4]]
    return (*grads, None, None, None)


@torch.no_grad()
def _step(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    if not state.is_inference():
        torch.autograd.graph.increment_version(state)
    updated = state.contiguous()
    y = _backend(x).step(updated, x, weight, bias, silu)
    if updated is not state:
        state.copy_(updated)
    return y


def _step_fake(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


for _name, _function, _fake in (
    ("causal_conv1d", _forward, _forward_fake),
    ("causal_conv1d_backward", _backward, _backward_fake),
    ("causal_conv1d_step", _step, _step_fake),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"helixwave::{_name}", _fake, lib=_library)
torch.library.register_autograd("helixwave::causal_conv1d", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd(
    "helixwave::causal_conv1d_backward", reject_second_derivative("causal_conv1d"), lib=_library
)
_library.impl("causal_conv1d_step", torch.library.fallthrough_kernel, "Autograd")

_operators = torch.ops.helixwave
causal_conv1d = dispatch.shortcut_with_autograd(
    _operators.causal_conv1d.default, _forward, _save, _differentiate
)
_run_backward = dispatch.shortcut_without_grad(_operators.causal_conv1d_backward.default, _backward)
causal_conv1d_step = dispatch.shortcut(_operators.causal_conv1d_step.default, _step)
