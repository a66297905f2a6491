"""The gradients of the selective scan in Triton: how the walk of `gpu_walk_back` is spread over the GPU."""

from functools import lru_cache

import torch
import triton
from torch import Tensor

from kernels.layout import multiprocessors
from kernels.selective_scan.triton_backward_kernels import walk_back
from kernels.selective_scan.triton_chunks import entering_states, pack, split_chunks, walk_time
from kernels.selective_scan.triton_variant import as_real, common_groups, is_constant, make_form

_REALS = 512  # of a tile: 16 registers each for A, its gradient, the adjoints and the states of a position
_BLOCK = 4  # positions whose states are in registers at once
_PROGRAMS = 12  # warps of a multiprocessor
_REGISTERS = 168  # of a thread, so that a multiprocessor holds them
_SPAN_COST = 1.2  # with the walk that finds what enters spans, beside the main walk alone


@lru_cache
def _split_tiles(tiles: int, chunks: int, rows: int, programs: int, most: int) -> int:
    """Return into how many partial sums, at most `most`, a row's tiles go, for the least time of a walk."""

    def time(splits: int) -> float:
        span = split_chunks(chunks, rows * splits, programs, _SPAN_COST)
        walk = -(-tiles // splits) * walk_time(span, chunks, rows * splits, programs, _SPAN_COST)
        return walk * (1 + splits / 16)  # A sum takes memory, and time to add.

    return min(range(1, min(most, tiles) + 1), key=time)


def backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    checkpoints: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, dt, A, B, C, D, z, dt_bias and initial_state; those of parameters in fp32.

    Arguments as `forward` takes them, with the checkpoints that it returned.
    """
    batch, length, channels = x.shape
    own_groups = [None if is_constant(weights, A) else weights.shape[2] for weights in (B, C)]
    B, C, groups = common_groups(A, B, C)
    form = make_form(A, B, C, groups, dt_softplus, reverse, reals=_REALS, block=_BLOCK)
    chunks = triton.cdiv(length, form.chunk)
    programs = _PROGRAMS * multiprocessors(x.device)
    # In fp32, the partial sums of both B and C take at most half the memory of x.
    most = max(1, channels * x.element_size() // (16 * groups * form.states * form.parts))
    if form.constant_b and form.constant_c:
        most = form.group_tiles
    splits = _split_tiles(form.group_tiles, chunks, batch * groups, programs, most)
    span = form.chunk * split_chunks(chunks, batch * groups * splits, programs, _SPAN_COST)
    spans = triton.cdiv(length, span)
    items = batch * spans * groups * splits
    programs = min(programs, items)

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, device=x.device)

    grad_x, grad_dt, grad_z = (None if rows is None else torch.empty_like(rows) for rows in (x, dt, z))
    grad_A = new(batch * spans, *as_real(A).shape)
    grad_B, grad_C = (
        new(batch * spans if is_constant(weights, A) else splits, *weights.shape) for weights in (B, C)
    )
    grad_D, grad_dt_bias = (
        None if parameter is None else new(batch * spans, channels) for parameter in (D, dt_bias)
    )
    grad_initial = None
    if initial_state is not None:  # what stays where a sequence is empty
        grad_initial = (
            torch.zeros_like(initial_state) if grad_final_state is None else grad_final_state.clone()
        )
    # The kernels hold the conjugates of adjoints.
    grad_final = None if grad_final_state is None else as_real(grad_final_state.conj_physical())
    scratch = new(programs, form.chunk // form.block, form.width * form.size * form.parts)
    sequences = pack(cu_seqlens, length)
    with torch.cuda.device_of(x):
        entering = entering_states(grad_y, dt, A, C, z, dt_bias, grad_final, sequences, span, True, form)
        walk_back[(programs,)](
            grad_y, x, dt, as_real(A), B, C, D, z, dt_bias, as_real(initial_state), grad_final, sequences,
            as_real(checkpoints), entering, grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z,
            grad_dt_bias, as_real(grad_initial), scratch, length, span, spans, splits, items,
            form=form, num_warps=1, maxnreg=_REGISTERS,
        )  # fmt: skip
    total_A = grad_A.sum(0)
    return (
        grad_x,
        grad_dt,
        torch.view_as_complex(total_A) if A.is_complex() else total_A,
        _total(grad_B, own_groups[0]),
        _total(grad_C, own_groups[1]),
        None if grad_D is None else grad_D.sum(0),
        grad_z,
        None if grad_dt_bias is None else grad_dt_bias.sum(0),
        grad_initial,
    )


def _total(partial: Tensor, groups: int | None) -> Tensor:
    """Return the sum of partial sums, over the groups too that stand for one of `groups`."""
    total = partial[0] if len(partial) == 1 else partial.sum(0)
    return total if groups is None or groups == total.shape[2] else total.unflatten(2, (groups, -1)).sum(3)
