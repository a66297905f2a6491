"""The selective scan as torch operators: dispatch by device, autograd, and fake tensors for torch.compile.

The public function has checked the arguments. B and C are constant (channels, N) or varying (batch, length,
groups, N), and no argument is fp64. The operators take `ScanArguments` as a flat list.
"""

import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels import dispatch
from kernels.checks import check_bounds, reject_second_derivative
from kernels.selective_scan.arguments import FLAGS, STEP, TENSORS, ScanArguments, ScanGradients, schema

_library = torch.library.Library("helixwave", "FRAGMENT")
_library.define(f"selective_scan({schema()}) -> (Tensor y, Tensor final_state, Tensor checkpoints)")
_library.define(
    "selective_scan_backward("
    f"Tensor? grad_y, Tensor? grad_final_state, {schema()}, Tensor checkpoints) -> Tensor[]"
)
_library.define(f"selective_scan_step(Tensor(a!) state, {schema(STEP)}) -> Tensor")


# These two functions import inside: Triton and CUDA must not load on a machine without a GPU.
def _backend(x: Tensor) -> ModuleType:
    """Return the module whose kernels cover every case on the device of x."""
    if x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        from kernels.selective_scan import triton

        return triton
    from kernels.selective_scan import cpu

    return cpu


def _cuda_backend(arguments: ScanArguments) -> ModuleType | None:
    """Return the module of the CUDA C++ kernels if they cover these arguments.

    They read strided rows, such as slices of a projection; the other backends need contiguous tensors.
    """
    if not arguments.x.is_cuda or torch.version.hip:
        return None
    from kernels.selective_scan import cuda

    return cuda if cuda.covers(arguments) else None


def _forward(*values: Any) -> tuple[Tensor, Tensor, Tensor]:
    arguments = ScanArguments(*values)
    x, initial_state, cu_seqlens = arguments.x, arguments.initial_state, arguments.cu_seqlens
    if cu_seqlens is not None and cu_seqlens.is_cpu:
        check_bounds(cu_seqlens, x.shape[1])
    if x.numel() > 0:
        if cuda := _cuda_backend(arguments):
            return cuda.forward(arguments)
        return _backend(x).forward(arguments.contiguous())
    y, final_state, checkpoints = _forward_fake(*values)
    if initial_state is None:
        return y, final_state.zero_(), checkpoints.zero_()
    return y, final_state.copy_(initial_state), checkpoints.zero_()


def _forward_fake(*values: Any) -> tuple[Tensor, Tensor, Tensor]:
    arguments = ScanArguments(*values)
    x, A = arguments.x, arguments.A
    backend = _cuda_backend(arguments) or _backend(x)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, A.new_empty(arguments.sequences, *A.shape), backend.new_checkpoints(arguments)


def _backward(grad_y: Tensor | None, grad_final_state: Tensor | None, *values: Any) -> list[Tensor]:
    """Return the gradients of the present float arguments, in their order and dtypes."""
    *scan, checkpoints = values
    arguments = ScanArguments(*scan)
    inputs = _float_arguments(arguments)
    x = arguments.x
    if x.numel() == 0:
        zeros = {
            name: torch.zeros_like(value, memory_format=torch.contiguous_format)
            for name, value in inputs.items()
        }
        if "initial_state" in zeros and grad_final_state is not None:
            zeros["initial_state"].copy_(grad_final_state)
        return list(zeros.values())
    if grad_y is None:
        grad_y = torch.zeros_like(x)
    gradients: ScanGradients
    if cuda := _cuda_backend(arguments):
        gradients = cuda.backward(grad_y, grad_final_state, arguments, checkpoints)
    else:
        if grad_final_state is not None:
            grad_final_state = grad_final_state.contiguous()
        gradients = _backend(x).backward(
            grad_y.contiguous(), grad_final_state, arguments.contiguous(), checkpoints.contiguous()
        )
    return [getattr(gradients, name).to(value.dtype) for name, value in inputs.items()]


def _backward_fake(grad_y: Tensor | None, grad_final_state: Tensor | None, *values: Any) -> list[Tensor]:
    inputs = _float_arguments(ScanArguments(*values[:-1])).values()
    return [torch.empty_like(value, memory_format=torch.contiguous_format) for value in inputs]


def _float_arguments(arguments: ScanArguments) -> dict[str, Tensor]:
    """Return the present arguments that have a gradient, by name, in the order of `ScanGradients`."""
    named = {name: getattr(arguments, name) for name in ScanGradients._fields}
    return {name: value for name, value in named.items() if value is not None}


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    arguments = ScanArguments(*inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(getattr(arguments, name) for name in TENSORS), output[2])
    ctx.flags = {name: getattr(arguments, name) for name in FLAGS}


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_final_state: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    *tensors, checkpoints = ctx.saved_tensors
    arguments = ScanArguments(**dict(zip(TENSORS, tensors, strict=True)), **ctx.flags)
    if grad_y is None and grad_final_state is None:
        return (None,) * len(arguments)
    gradients = _run_backward(grad_y, grad_final_state, *arguments, checkpoints)
    by_name = dict(zip(_float_arguments(arguments), gradients, strict=True))
    return tuple(by_name.get(name) for name in ScanArguments._fields)


def _step(state: Tensor, x: Tensor, *values: Any) -> Tensor:
    if x.numel() == 0:
        return _step_fake(state, x)
    if not state.is_inference():
        torch.autograd.graph.increment_version(state)
    updated = state if state.is_contiguous() else state.contiguous()
    arguments = ScanArguments(*(x, *values, updated))
    y = _backend(x).step(arguments.contiguous())
    if not state.is_contiguous():
        state.copy_(updated)
    return y


def _step_fake(state: Tensor, x: Tensor, *values: Any) -> Tensor:
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
    "helixwave::selective_scan_backward", reject_second_derivative("selective_scan"), lib=_library
)
_library.impl("selective_scan_step", torch.library.fallthrough_kernel, "Autograd")

_operators = torch.ops.helixwave
selective_scan = dispatch.shortcut_with_autograd(
    _operators.selective_scan.default, _forward, _save, _differentiate
)
_run_backward = dispatch.shortcut_without_grad(_operators.selective_scan_backward.default, _backward)
selective_scan_step = dispatch.shortcut(_operators.selective_scan_step.default, _step)
