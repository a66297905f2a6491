"""The selective scan as operators of torch: traced by torch.compile, differentiated, sent by device.

Here the arguments are checked, B and C are constant (channels, N) or varying (batch, length, groups, N), and
nothing is fp64.
"""

import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels import dispatch as direct
from kernels.checks import check_bounds, refuse_second_derivative

_library = torch.library.Library("helixwave", "FRAGMENT")
_ARGUMENTS = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "bool dt_softplus, Tensor? initial_state, Tensor? cu_seqlens, bool reverse"
)
_library.define(f"selective_scan({_ARGUMENTS}) -> (Tensor y, Tensor final_state, Tensor checkpoints)")
_library.define(
    "selective_scan_backward(Tensor? grad_y, Tensor? grad_final_state, "
    f"{_ARGUMENTS}, Tensor checkpoints) -> Tensor[]"
)
_library.define(
    "selective_scan_step(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? dt_bias, bool dt_softplus) -> Tensor"
)


def _implementation(x: Tensor) -> ModuleType:
    """Return the module of `forward`, `backward` and `step` that covers every case where x lives."""
    if x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        from kernels.selective_scan import triton as gpu

        return gpu
    from kernels.selective_scan import cpu

    return cpu


def _cuda_kernels(*arguments: Any) -> ModuleType | None:
    """Return the module of the CUDA C++ kernels if they cover these arguments of the forward.

    Unlike the others they read rows that lie apart, as slices of a projection do.
    """
    x, dt, A, B, C, _, z, *_, cu_seqlens, _ = arguments
    if not x.is_cuda or torch.version.hip:
        return None
    from kernels.selective_scan import cuda

    return cuda if cuda.covers(x, dt, A, B, C, z, cu_seqlens) else None


def _contiguous(*arguments: Any) -> list[Any]:
    return [argument.contiguous() if isinstance(argument, Tensor) else argument for argument in arguments]


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, initial_state, cu_seqlens = arguments[0], arguments[9], arguments[10]
    if cu_seqlens is not None and cu_seqlens.is_cpu:
        check_bounds(cu_seqlens, x.shape[1])
    if x.numel() > 0:
        if kernels := _cuda_kernels(*arguments):
            return kernels.forward(*arguments)
        return _implementation(x).forward(*_contiguous(*arguments))
    y, final_state, checkpoints = _forward_fake(*arguments)
    if initial_state is None:
        return y, final_state.zero_(), checkpoints.zero_()
    return y, final_state.copy_(initial_state), checkpoints.zero_()


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, _, A, *_, cu_seqlens, _ = arguments
    sequences = len(x) if cu_seqlens is None else cu_seqlens.shape[0] - 1
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if kernels := _cuda_kernels(*arguments):
        checkpoints = kernels.new_checkpoints(x, A)
    else:
        chunks = -(-x.shape[1] // _implementation(x).CHUNK)
        checkpoints = A.new_empty(len(x), chunks, *A.shape)
    return y, A.new_empty(sequences, *A.shape), checkpoints


def _backward(grad_y: Tensor | None, grad_final_state: Tensor | None, *arguments: Any) -> list[Tensor]:
    """Return the gradients of the float arguments that are there, in their order and dtypes."""
    x, initial_state = arguments[0], arguments[9]
    inputs = [argument for argument in _differentiable(arguments) if argument is not None]
    if x.numel() == 0:
        gradients = [torch.zeros_like(argument, memory_format=torch.contiguous_format) for argument in inputs]
        if initial_state is not None and grad_final_state is not None:
            gradients[-1].copy_(grad_final_state)
        return gradients
    if grad_y is None:
        grad_y = torch.zeros_like(x)
    if kernels := _cuda_kernels(*arguments[:-1]):
        gradients = kernels.backward(grad_y, grad_final_state, *arguments)
    else:
        gradients = _implementation(x).backward(*_contiguous(grad_y, grad_final_state, *arguments))
    present = zip(_differentiable(arguments), gradients, strict=True)
    return [gradient.to(argument.dtype) for argument, gradient in present if argument is not None]


def _backward_fake(grad_y: Tensor | None, grad_final_state: Tensor | None, *arguments: Any) -> list[Tensor]:
    inputs = [argument for argument in _differentiable(arguments) if argument is not None]
    return [torch.empty_like(argument, memory_format=torch.contiguous_format) for argument in inputs]


def _differentiable(arguments: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
    """Return the float arguments of the forward: x, dt, A, B, C, D, z, dt_bias, initial_state."""
    return (*arguments[:8], arguments[9])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *before, dt_softplus, initial_state, cu_seqlens, reverse = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*before, initial_state, cu_seqlens, output[2])
    ctx.dt_softplus, ctx.reverse = dt_softplus, reverse


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_final_state: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    *before, initial_state, cu_seqlens, checkpoints = ctx.saved_tensors
    arguments = (*before, ctx.dt_softplus, initial_state, cu_seqlens, ctx.reverse)
    if grad_y is None and grad_final_state is None:
        return (None,) * len(arguments)
    gradients = iter(_run_backward(grad_y, grad_final_state, *arguments, checkpoints))
    placed = [None if argument is None else next(gradients) for argument in _differentiable(arguments)]
    return (*placed[:8], None, placed[8], None, None)


def _step(state: Tensor, x: Tensor, *arguments: Any) -> Tensor:
    if x.numel() == 0:
        return _step_fake(state, x)
    if not state.is_inference():
        torch.autograd.graph.increment_version(state)
    if state.is_contiguous():
        return _implementation(x).step(state, *_contiguous(x, *arguments))
    updated = state.contiguous()
    y = _implementation(x).step(updated, *_contiguous(x, *arguments))
    state.copy_(updated)
    return y


def _step_fake(state: Tensor, x: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


for _name, _function, _fake in (
    ("selective_scan", _forward, _forward_fake),
    ("selective_scan_backward", _backward, _backward_fake),
    ("selective_scan_step", _step, _step_fake),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"helixwave::{_name}", _fake, lib=_library)
torch.library.register_autograd(
    "helixwave::selective_scan", _differentiate, setup_context=_save, lib=_library
)
torch.library.register_autograd(
    "helixwave::selective_scan_backward", refuse_second_derivative("selective_scan"), lib=_library
)
_library.impl("selective_scan_step", torch.library.fallthrough_kernel, "Autograd")

_operators = torch.ops.helixwave
selective_scan = direct.differentiable(_operators.selective_scan.default, _forward, _save, _differentiate)
_run_backward = direct.backward(_operators.selective_scan_backward.default, _backward)
selective_scan_step = direct.undifferentiated(_operators.selective_scan_step.default, _step)
