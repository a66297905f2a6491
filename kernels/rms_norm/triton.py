"""The root-mean-square norm with its residual add in Triton: a program holds whole rows and reads them once.

Where rows are short a program is one warp with a few of them, so that no sum crosses warps. Lanes take
channels by fours, 16 bytes of the fp32 residual stream: by eights, as Triton would choose for bf16, each
access to the stream would go through shared memory.
"""
# mypy: allow-untyped-defs

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import as_rows, multiprocessors

FORWARD_ELEMENTS = 1024  # of a warp
BACKWARD_ELEMENTS = 512
BACKWARD_WARPS = (
    16  # of a multiprocessor; each program of them leaves a row of sums for the weight's gradient
)
MOST_WARPS = 32  # of a program


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
    residual_stride, passed_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr,
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
        normal = value * scale
        total += grad * normal
        grad *= gain
        along = tl.sum(grad * normal, axis=1, keep_dims=True) / channels
        grad = (grad - normal * along) * scale
        if grad_residual_out is not None:
            passed = grad_residual_out + row * passed_stride + channel
            grad += tl.load(passed, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + row * channels + channel, grad.to(dx.dtype.element_ty), mask=mask)
        if dresidual is not None:
            tl.store(dresidual + row * channels + channel, grad, mask=mask)
    target = partials + tl.program_id(0).to(tl.int64) * channels + tl.arange(0, BLOCK)
    tl.store(target, tl.sum(total, axis=0), mask=tl.arange(0, BLOCK) < channels)


def forward(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return y and the residual stream after x."""
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
    """Return the gradients of x, in the dtype of y, of weight, and of residual, in that of the stream."""
    dx = torch.empty(grad_y.shape, dtype=grad_y.dtype, device=grad_y.device)
    dresidual = torch.empty(grad_y.shape, dtype=torch.float32, device=grad_y.device) if has_residual else None
    if dx.numel() == 0:
        return dx, torch.zeros_like(weight), dresidual
    grad_y, residual_out = as_rows(grad_y), as_rows(residual_out)
    grad_residual_out = None if grad_residual_out is None else as_rows(grad_residual_out)
    rows, block, warps = _tile(len(weight), BACKWARD_ELEMENTS)
    busy = multiprocessors(dx.device) * max(1, BACKWARD_WARPS // warps)
    programs = min(-(-len(residual_out) // rows), busy)
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
    """Return the rows of a program, its channels padded to a power of two, and its warps."""
    block = triton.next_power_of_2(channels)
    return max(1, elements // block), block, min(max(1, block // elements), MOST_WARPS)
