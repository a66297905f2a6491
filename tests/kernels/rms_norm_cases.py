"""Random arguments for the RMS norm."""

from typing import Any

import torch
from torch import Tensor

SHAPES = ((2, 7, 20), (5,), (3, 1), (67, 48), (1, 1, 300))


def make_arguments(
    shape: tuple[int, ...], *, residual: bool, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Any]:
    """Return keyword arguments of `rms_norm`, leaves that require gradients; `dtype` is the dtype of x."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape: int, dtype: torch.dtype = wide) -> Tensor:
        numbers = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return numbers.to(device, dtype).requires_grad_()

    arguments = {"x": normal(*shape, dtype=dtype), "weight": normal(shape[-1])}
    return arguments | ({"residual": normal(*shape)} if residual else {})


def outputs_and_gradients(norm: Any, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Return y, residual_out and, by argument name, the gradients of a random sum of both."""
    y, residual_out = norm(**arguments)
    generator = torch.Generator().manual_seed(1)
    # Rounding to bfloat16 first gives y of any dtype exactly the same weights.
    weight = torch.randn(y.shape, generator=generator).bfloat16()
    loss = (y * weight.to(y.device, y.dtype)).double().sum()
    loss = loss + (residual_out * weight.cos().to(residual_out.device, residual_out.dtype)).double().sum()
    gradients = torch.autograd.grad(loss, list(arguments.values()))
    return {"y": y.detach(), "residual_out": residual_out.detach()} | dict(
        zip(arguments, gradients, strict=True)
    )
