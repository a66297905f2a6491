"""Launches of the Triton kernels of the causal convolution."""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kernels.causal_conv1d.triton_kernels import (
    backward_kernel,
    final_state_kernel,
    forward_kernel,
    state_backward_kernel,
    step_kernel,
)
from kernels.layout import as_rows, multiprocessors


class Tile(NamedTuple):
    """Work of one program, which is one warp."""

    row_bytes: int  # channels of a program, in bytes of x; half of it for filters of more than 4 taps
    min_rows: int  # with fewer rows, loading the filter and the window costs too much
    max_rows: int
    registers: int  # limit per thread; a multiprocessor has 65,536


class _Plan(NamedTuple):
    """Partition of the rows and channels over programs."""

    block: int  # channels per program
    blocks: int  # number of blocks that cover all channels
    rows_per_program: int
    programs: int  # number of programs that cover all rows


# Tuned by hand on one H200; results/conv.json has the times with these numbers (kernels/benchmarks/conv.py).
# They hold for other GPUs too: the number of programs scales with the multiprocessors, and all GPUs since
# Volta have the same number of registers per multiprocessor.
FORWARD = Tile(row_bytes=512, min_rows=32, max_rows=256, registers=128)
BACKWARD = Tile(row_bytes=256, min_rows=64, max_rows=512, registers=168)
GROUP = 4  # rows loaded ahead
PROGRAMS_PER_MULTIPROCESSOR = 64  # several times the resident number, which evens out the end of the launch


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
    return_final_state: bool,
) -> tuple[Tensor, Tensor]:
    """Return y and the final state, which is empty unless `return_final_state`."""
    rows, channels, width = as_rows(x), x.shape[2], weight.shape[1]
    initial_state = _contiguous(initial_state)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    plan = _plan(rows, width, FORWARD)
    with torch.cuda.device_of(x):
        if y.numel() > 0:
            forward_kernel[(plan.programs * plan.blocks,)](
                rows, weight.contiguous(), _contiguous(bias), initial_state,
                *_locate_rows(cu_seqlens, len(rows)), y, len(rows), x.shape[1], channels,
                plan.rows_per_program, rows.stride(0),
                silu, width, GROUP, plan.block, num_warps=1, maxnreg=FORWARD.registers,
            )  # fmt: skip
        if not return_final_state:
            return y, x.new_empty(0)
        sequences = _count_sequences(x, cu_seqlens)
        final_state = torch.empty((sequences, width - 1, channels), dtype=x.dtype, device=x.device)
        if final_state.numel() > 0:
            final_state_kernel[(sequences * plan.blocks,)](
                rows, initial_state, cu_seqlens, final_state, x.shape[1], channels, rows.stride(0),
                width, plan.block, num_warps=1,
            )  # fmt: skip
    return y, final_state


def backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight, bias and initial_state."""
    rows, grads, channels, width = as_rows(x), as_rows(grad_y), x.shape[2], weight.shape[1]
    weight, bias, initial_state = weight.contiguous(), _contiguous(bias), _contiguous(initial_state)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dstate = None if initial_state is None else torch.empty_like(initial_state)
    plan = _plan(rows, width, BACKWARD)
    partials = torch.empty((plan.programs, width + 1, channels), dtype=torch.float32, device=x.device)
    sequences = _count_sequences(x, cu_seqlens)
    has_state = initial_state is not None or grad_final_state is not None
    with torch.cuda.device_of(x):
        if dx.numel() > 0:
            backward_kernel[(plan.programs * plan.blocks,)](
                grads, rows, weight, bias, initial_state, *_locate_rows(cu_seqlens, len(rows)), dx, partials,
                len(rows), x.shape[1], channels, plan.rows_per_program, grads.stride(0), rows.stride(0),
                silu, width, GROUP, plan.block, num_warps=1, maxnreg=BACKWARD.registers,
            )  # fmt: skip
        if has_state and sequences * (width - 1) * channels > 0:
            state_backward_kernel[(sequences * plan.blocks,)](
                grads, _contiguous(grad_final_state), rows, weight, bias, initial_state, cu_seqlens, dx,
                dstate, x.shape[1], channels, grads.stride(0), rows.stride(0),
                silu, width, plan.block, num_warps=1,
            )  # fmt: skip
    sums = partials.sum(0)
    return dx, sums[:width].t(), None if bias is None else sums[width], dstate


def step(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Return y for one position and update the contiguous state in place."""
    rows, channels, width = as_rows(x), x.shape[1], weight.shape[1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    plan = _plan(rows, width, BACKWARD)
    if y.numel() > 0:
        with torch.cuda.device_of(x):
            step_kernel[(len(rows) * plan.blocks,)](
                state, rows, weight.contiguous(), _contiguous(bias), y, channels, rows.stride(0),
                silu, width, plan.block, num_warps=1,
            )  # fmt: skip
    return y


def _count_sequences(x: Tensor, cu_seqlens: Tensor | None) -> int:
    return len(x) if cu_seqlens is None else len(cu_seqlens) - 1


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _locate_rows(cu_seqlens: Tensor | None, rows: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the sequence of each row and its position there; (None, None) without packing."""
    if cu_seqlens is None:
        return None, None
    bounds, row = cu_seqlens.long(), torch.arange(rows, device=cu_seqlens.device)
    sequences = torch.searchsorted(bounds[1:], row, right=True)
    return sequences, row - bounds[sequences]


def _plan(rows: Tensor, width: int, tile: Tile) -> _Plan:
    return _plan_for(len(rows), rows.shape[1], rows.element_size(), width, rows.device, tile)


@lru_cache
def _plan_for(
    rows: int, channels: int, element_size: int, width: int, device: torch.device, tile: Tile
) -> _Plan:
    """Return the partition of the rows; cached, because planning would delay short kernels."""
    block = tile.row_bytes // element_size // (2 if width > 4 else 1)
    block = min(block, triton.next_power_of_2(max(1, channels)))
    blocks = -(-channels // block)
    even_rows = rows * blocks // (multiprocessors(device) * PROGRAMS_PER_MULTIPROCESSOR)
    rows_per_program = -(-min(max(even_rows, tile.min_rows), tile.max_rows) // GROUP) * GROUP
    return _Plan(block, blocks, rows_per_program, -(-rows // rows_per_program))
