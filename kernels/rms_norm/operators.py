"""RMS norm as torch operators: dispatch by device, autograd, fake tensors for torch.compile.

The public function has checked the arguments. No argument is fp64.
"""

import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels import dispatch
from kernels.checks import reject_second_derivative

_library = torch.library.Library("helixwave", "FRAGMENT")
_library.define(
    "rms_norm(Tensor x, Tensor weight, Tensor? residual, float eps) -> (Tensor y, Tensor residual_out)"
)
_library.define(
    "rms_norm_backward(Tensor grad_y, Tensor? grad_residual_out, Tensor residual_out, Tensor weight, "
    "float eps, bool has_residual) -> (Tensor dx, Tensor dweight, Tensor dresidual)"
)


# This function imports inside: Triton must not load on a machine without a GPU.
def _backend(x: Tensor) -> ModuleType:
    """Return the module with `forward` and `backward` for the device of x."""
    if x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        from kernels.rms_norm import triton

        return triton
    from kernels.rms_norm import cpu

    return cpu


def _forward(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return _backend(x).forward(x, weight, residual, eps)


def _forward_fake(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=torch.float32)


def _backward(
    grad_y: Tensor,
    grad_residual_out: Tensor | None,
    residual_out: Tensor,
    weight: Tensor,
    eps: float,
    has_residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and residual; the last is empty without a residual."""
    dx, dweight, dresidual = _backend(grad_y).backward(
        grad_y, grad_residual_out, residual_out, weight, eps, has_residual
    )
    return dx, dweight.to(weight.dtype), residual_out.new_empty(0) if dresidual is None else dresidual


def _backward_fake(
    grad_y: Tensor,
    grad_residual_out: Tensor | None,
    residual_out: Tensor,
    weight: Tensor,
    eps: float,
    has_residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dresidual = residual_out.new_empty(residual_out.shape if has_residual else 0)
    return grad_y.new_empty(grad_y.shape), weight.new_empty(weight.shape), dresidual


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, residual, eps = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], weight)
    ctx.eps, ctx.dtype, ctx.has_residual = eps, x.dtype, residual is not None


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_residual_out: Tensor | None
) -> tuple[Tensor | None, ...]:
    residual_out, weight = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(residual_out, dtype=ctx.dtype)
    dx, dweight, dresidual = _run_backward(
        grad_y, grad_residual_out, residual_out, weight, ctx.eps, ctx.has_residual
    )
    return dx, dweight, dresidual if ctx.has_residual else None, None


for _name, _function, _fake in (
    ("rms_norm", _forward, _forward_fake),
    ("rms_norm_backward", _backward, _backward_fake),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"helixwave::{_name}", _fake, lib=_library)
torch.library.register_autograd("helixwave::rms_norm", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd(
    "helixwave::rms_norm_backward", reject_second_derivative("rms_norm"), lib=_library
)

_operators = torch.ops.helixwave
rms_norm = dispatch.shortcut_with_autograd(_operators.rms_norm.default, _forward, _save, _differentiate)
_run_backward = dispatch.shortcut_without_grad(_operators.rms_norm_backward.default, _backward)
