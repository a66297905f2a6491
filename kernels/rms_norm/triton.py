"""RMS norm with residual add in Triton: a program holds whole rows and reads them once.

A program of short rows is one warp with several rows, so no sum crosses warps. A lane takes 4 adjacent
channels, 16 bytes of the fp32 residual stream. Triton's choice for bf16, 8 channels, would pass every access
to the stream through shared memory.
"""
# mypy: allow-untyped-defs

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_rows, multiprocessors

# Tuned by hand on one H200; results/norm.json has the times with these numbers (kernels/benchmarks/norm.py).
# They hold for other GPUs too: the number of backward programs scales with the multiprocessors.
FORWARD_ELEMENTS = 1024  # per warp
BACKWARD_ELEMENTS = 512  # per warp
BACKWARD_WARPS = 16  # per multiprocessor; each program leaves one row of partial sums for dweight
MAX_WARPS = 32  # per program


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x, weight, residual, y, residual_out, rows, channels, eps, stride, residual_stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.max_contiguous(tl.arange(0, BLOCK), 4)[None, :]
    mask = (row < rows) & (channel < channels)
    value = tl.load(x + row * stride + channel, mask=mask, other=0.0).to(tl.float32)
    if residual is not None:
        value += tl.load(residual + row * residual_stride + channel, mask=mask, other=0.0).to(tl.float32)
    tl.store(residual_out + row * channels + channel, value, mask=mask)
    scale = tl.rsqrt(tl.sum(value * value, axis=1, keep_dims=True) / channels + eps)
    gain = tl.load(weight + channel, mask=channel < channels, other=0.0).to(tl.float32)
    tl.store(y + row * channels + channel, (value * scale * gain).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(
    grad_y, grad_residual_out, residual_out, weight, dx, dresidual, partials, rows, channels, eps, stride,
    residual_stride, grad_residual_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    channel = tl.max_contiguous(tl.arange(0, BLOCK), 4)[None, :]
    gain = tl.load(weight + channel, mask=channel < channels, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(tl.program_id(0).to(tl.int64) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        mask = (row < rows) & (channel < channels)
        value = tl.load(residual_out + row * residual_stride + channel, mask=mask, other=0.0)
        grad = tl.load(grad_y + row * stride + channel, mask=mask, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(value * value, axis=1, keep_dims=True) / channels + eps)
        normalized = value * scale
        total += grad * normalized
        grad *= gain
        projection = tl.sum(grad * normalized, axis=1, keep_dims=True) / channels
        grad = (grad - normalized * projection) * scale
        if grad_residual_out is not None:
            source = grad_residual_out + row * grad_residual_stride + channel
            grad += tl.load(source, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + row * channels + channel, grad.to(dx.dtype.element_ty), mask=mask)
        if dresidual is not None:
            tl.store(dresidual + row * channels + channel, grad, mask=mask)
    target = partials + tl.program_id(0).to(tl.int64) * channels + tl.arange(0, BLOCK)
    tl.store(target, tl.sum(total, axis=0), mask=tl.arange(0, BLOCK) < channels)


def forward(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return y and the residual stream after adding x."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    residual_out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    if x.numel() > 0:
        x, residual = as_rows(x), None if residual is None else as_rows(residual)
        rows, block, warps = _tile(x.shape[1], FORWARD_ELEMENTS)
        with torch.cuda.device_of(x):
            _forward_kernel[(-(-len(x) // rows),)](
                x, weight.contiguous(), residual, y, residual_out, len(x), x.shape[1], eps,
                x.stride(0), 0 if residual is None else residual.stride(0), rows, block, num_warps=warps,
            )  # fmt: skip
    return y, residual_out


def backward(
    grad_y: Tensor,
    grad_residual_out: Tensor | None,
    residual_out: Tensor,
    weight: Tensor,
    eps: float,
    has_residual: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of x (dtype of y), weight, and residual (fp32; None without residual)."""
    dx = torch.empty(grad_y.shape, dtype=grad_y.dtype, device=grad_y.device)
    dresidual = torch.empty(grad_y.shape, dtype=torch.float32, device=grad_y.device) if has_residual else None
    if dx.numel() == 0:
        return dx, torch.zeros_like(weight), dresidual
    grad_y, residual_out = as_rows(grad_y), as_rows(residual_out)
    grad_residual_out = None if grad_residual_out is None else as_rows(grad_residual_out)
    rows, block, warps = _tile(len(weight), BACKWARD_ELEMENTS)
    max_programs = multiprocessors(dx.device) * max(1, BACKWARD_WARPS // warps)
    programs = min(-(-len(residual_out) // rows), max_programs)
    partials = torch.empty((programs, len(weight)), dtype=torch.float32, device=dx.device)
    with torch.cuda.device_of(dx):
        _backward_kernel[(programs,)](
            grad_y, grad_residual_out, residual_out, weight.contiguous(), dx, dresidual, partials,
            len(residual_out), len(weight), eps, grad_y.stride(0), residual_out.stride(0),
            0 if grad_residual_out is None else grad_residual_out.stride(0),
            rows, block, num_warps=warps,
        )  # fmt: skip
    return dx, partials.sum(0), dresidual


@lru_cache
def _tile(channels: int, elements: int) -> tuple[int, int, int]:
    """Return rows per program, channels padded to a power of two, and warps per program."""
    block = triton.next_power_of_2(channels)
    return max(1, elements // block), block, min(max(1, block // elements), MAX_WARPS)
