"""RMS norm with residual add, ours and mamba_ssm's if it is installed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.benchmarks.measure import compare, measure, memory_floors, relative_error
from kernels.rms_norm import reference, rms_norm

GPU_SHAPES = ((8, 768, 2048), (1, 256, 2**20), (1024, 256, 1024), (8, 2560, 2048))  # batch, channels, length
CPU_SHAPES = ((2, 256, 1024),)
ALLOWED = {
    "y": 2**-8,
    "residual_out": 1e-6,
    "dx": 2**-8,
    "dweight": 1e-4,
    "dresidual": 1e-5,
}  # y, dx are bf16


def rows(device: str) -> list[dict[str, Any]]:
    """Return one row per shape: errors against fp64, time and memory of ours and of the official kernel."""
    return [_row(*shape, device) for shape in (GPU_SHAPES if device == "cuda" else CPU_SHAPES)]


def _row(batch: int, channels: int, length: int, device: str) -> dict[str, Any]:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator, dtype=dtype)

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    x = normal(batch, length, channels, dtype=dtype)
    weight, residual = normal(channels), normal(batch, length, channels)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, residual)]
    grads = [normal(batch, length, channels, dtype=dtype), normal(batch, length, channels)]
    truth = _truth(leaves, grads)

    def errors(*outputs: Tensor) -> dict[str, float]:
        pairs = zip(outputs, truth, strict=True)
        return {name: relative_error(*pair) for name, pair in zip(ALLOWED, pairs, strict=True)}

    ours = measure(lambda: rms_norm(x, weight, residual), leaves, grads, errors)
    official_norm = _official() if device == "cuda" else None
    official = None
    if official_norm is not None:
        official = measure(
            lambda: official_norm(
                x, weight, None, residual=residual, eps=1e-5, prenorm=True, residual_in_fp32=True
            ),
            leaves,
            grads,
            errors,
        )
    case = {"operator": "rms_norm", "batch": batch, "channels": channels, "length": length}
    floors = memory_floors(x.numel(), 12, 16)  # x, y, stream in and out; dy, dx, three times the stream
    return compare(case, ours, official, ALLOWED) | floors


def _official() -> Callable[..., Sequence[Tensor]] | None:
    try:
        from mamba_ssm.ops.triton.layer_norm import rms_norm_fn
    except ImportError:
        return None
    return rms_norm_fn


def _truth(leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
    """Return both outputs and the gradients of x, weight and residual in fp64."""
    doubled = [leaf.detach().double().requires_grad_() for leaf in leaves]
    outputs = reference.rms_norm(doubled[0], doubled[1], doubled[2])
    gradients = torch.autograd.grad(outputs, doubled, [grad.double() for grad in grads])
    return [*(output.detach() for output in outputs), *gradients]
