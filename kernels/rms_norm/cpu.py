"""RMS norm on the CPU, compiled by numba: LANES channels per vector, rows split over threads.

The kernels take addresses of contiguous fp32 rows, padded with zeros to whole vectors.
"""
# mypy: allow-untyped-defs
# Only numba knows the types in compiled code. Nothing reads the argument `kind`: its type makes numba's cache
# notice changes in the functions of kernels.simd.

import math

import torch
from numba import njit
from torch import Tensor

from kernels.layout import address, as_rows, in_vectors
from kernels.simd import LANES, REAL, load, splat, store, total
from kernels.threads import run_in_ranges

ROWS_PER_SUM = 64  # rows per partial sum of dweight; sums do not depend on the number of threads
MIN_ELEMENTS = 1 << 14  # elements per thread; fewer do not pay for the thread


@njit(nogil=True, cache=True, error_model="numpy")
def _forward(x, weight, residual, y, residual_out, extent, channels, eps, first, last, kind):
    """Compute rows first to last; `extent` is the padded number of channels."""
    for row in range(first, last):
        squares = splat(0.0)
        for channel in range(0, extent, LANES):
            at = row * extent + channel
            value = load(x, at)
            if residual != 0:
                value = value + load(residual, at)
            store(residual_out, at, value)
            squares = squares + value * value
        scale = 1.0 / math.sqrt(total(squares) / channels + eps)
        for channel in range(0, extent, LANES):
            at = row * extent + channel
            store(y, at, load(residual_out, at) * splat(scale) * load(weight, channel))


@njit(nogil=True, cache=True, error_model="numpy")
def _backward(
    grad_y, grad_residual_out, residual_out, weight, dx, sums, rows, extent, channels, eps, first, last, kind
):
    """Compute the blocks of ROWS_PER_SUM rows from first to last, and the sums of each block."""
    for block in range(first, last):
        for row in range(block * ROWS_PER_SUM, min(rows, (block + 1) * ROWS_PER_SUM)):
            squares, product = splat(0.0), splat(0.0)
            for channel in range(0, extent, LANES):
                at = row * extent + channel
                value = load(residual_out, at)
                squares = squares + value * value
                product = product + value * load(grad_y, at) * load(weight, channel)
            scale = 1.0 / math.sqrt(total(squares) / channels + eps)
            projection = total(product) * scale * scale / channels
            for channel in range(0, extent, LANES):
                at = row * extent + channel
                value = load(residual_out, at)
                grad = load(grad_y, at)
                total_at = block * extent + channel
                store(sums, total_at, load(sums, total_at) + grad * value * splat(scale))
                grad = (grad * load(weight, channel) - value * splat(projection)) * splat(scale)
                if grad_residual_out != 0:
                    grad = grad + load(grad_residual_out, at)
                store(dx, at, grad)


def forward(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return y and the residual stream after adding x."""
    rows, gain = in_vectors(as_rows(x), LANES), in_vectors(weight, LANES)
    stream = None if residual is None else in_vectors(as_rows(residual), LANES)
    y, residual_out = torch.empty_like(rows), torch.empty_like(rows)

    def run(first: int, last: int) -> None:
        _forward(
            rows.data_ptr(), gain.data_ptr(), address(stream), y.data_ptr(), residual_out.data_ptr(),
            rows.shape[1], x.shape[-1], eps, first, last, REAL,
        )  # fmt: skip

    run_in_ranges(run, len(rows), MIN_ELEMENTS // max(1, rows.shape[1]) + 1)
    return _unpad(y, x.shape).to(x.dtype), _unpad(residual_out, x.shape)


def backward(
    grad_y: Tensor,
    grad_residual_out: Tensor | None,
    residual_out: Tensor,
    weight: Tensor,
    eps: float,
    has_residual: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of x (dtype of y), weight, and residual (fp32; None without residual)."""
    rows, grads, gain = (
        in_vectors(as_rows(residual_out), LANES),
        in_vectors(as_rows(grad_y), LANES),
        in_vectors(weight, LANES),
    )
    grad_stream = None if grad_residual_out is None else in_vectors(as_rows(grad_residual_out), LANES)
    dx = torch.empty_like(rows)
    blocks = -(-len(rows) // ROWS_PER_SUM)
    sums = torch.zeros(blocks, rows.shape[1])

    def run(first: int, last: int) -> None:
        _backward(
            grads.data_ptr(), address(grad_stream), rows.data_ptr(), gain.data_ptr(), dx.data_ptr(),
            sums.data_ptr(), len(rows), rows.shape[1], len(weight), eps, first, last, REAL,
        )  # fmt: skip

    run_in_ranges(run, blocks, MIN_ELEMENTS // max(1, ROWS_PER_SUM * rows.shape[1]) + 1)
    dresidual = _unpad(dx, residual_out.shape)
    dweight = sums.sum(0)[: len(weight)]
    if not has_residual:
        return dresidual.to(grad_y.dtype), dweight, None
    return dresidual.to(grad_y.dtype, copy=True), dweight, dresidual


def _unpad(rows: Tensor, shape: torch.Size) -> Tensor:
    return rows[:, : shape[-1]].reshape(shape)
