"""The selective scan in Triton: every variant, on any GPU, deterministic (no atomics).

A program walks a tile [channels, states] through a span of time. Where rows alone fill the GPU a span is all of
time; else spans are walked at once, from states found by `gpu_span`.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005
# What is compiled has types that only Triton knows; Triton does not unpack tuples, and types both branches.

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import multiprocessors
from kernels.selective_scan.gpu_backward import backward
from kernels.selective_scan.gpu_form import as_real, common_groups, make_form
from kernels.selective_scan.gpu_span import CHUNK, entering_states, pack, split_time
from kernels.selective_scan.gpu_tile import (
    add,
    channels_of,
    contract,
    decay,
    enter,
    load_a,
    load_parameter,
    load_row,
    load_states,
    load_weights,
    row_of,
    scaled,
    sequence_at,
    sigmoid,
    softplus,
    spread,
    store_row,
    store_states,
    times,
    zero_states,
)

__all__ = ["CHUNK", "backward", "forward", "step"]

_NUMBERS = 512  # real numbers of a tile: 16 registers for A and 16 for the states
_PROGRAMS = 12  # warps that keep a multiprocessor busy
_SPAN_COST = 1.6  # phases 1 and 3 beside phase 3 alone


@triton.jit
def _load_step(x, dt, B, C, z, position, batch, length, group, channel, exists, form: tl.constexpr):
    """Load one position as it is stored: (x, dt, z if any), and B and C unless constant."""
    inside = position < length
    row = row_of(position, batch, length, form)
    mask = exists & inside
    rows = (load_row(x, row, channel, mask, form), load_row(dt, row, channel, mask, form))
    if z is not None:
        rows = rows + (load_row(z, row, channel, mask, form),)
    b = ()
    c = ()
    if not form.constant_b:
        b = load_weights(B, row, group, inside, form)
    if not form.constant_c:
        c = load_weights(C, row, group, inside, form)
    return rows, b, c


@triton.jit
def _advance(states, rows, a, b, c, skip, bias, gated: tl.constexpr, form: tl.constexpr):
    """Return the states after a position, and y."""
    value = rows[0].to(tl.float32)
    step = rows[1].to(tl.float32) + bias
    if form.softplus:
        step = softplus(step)
    states = add(times(decay(step, a), states), scaled(step * value, b))
    y = form.parts * contract(c, states) + skip * value
    if gated:
        gate = rows[2].to(tl.float32)
        y *= gate * sigmoid(gate)
    return states, y


@triton.jit(do_not_specialize=["length", "span", "spans"])
def _scan(
    x, dt, A, B, C, D, z, dt_bias, entering, initial, sequences, y, final_state, checkpoints, length, span, spans,
    chunk_size: tl.constexpr, form: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    item = program // form.tiles
    batch = item // spans
    first = item % spans * span
    last = tl.minimum(first + span, length)
    group, channel, exists = channels_of(program % form.tiles, form)
    a = load_a(A, channel, exists, form)
    skip = load_parameter(D, channel, exists)
    bias = load_parameter(dt_bias, channel, exists)
    if form.constant_b:
        b = load_states(B, 0, channel, exists, form)
    if form.constant_c:
        c = load_states(C, 0, channel, exists, form)
    if entering is None:
        states = zero_states(form)
    else:
        states = load_states(entering, item, channel, exists, form)

    ahead = _load_step(x, dt, B, C, z, first, batch, length, group, channel, exists, form)
    for chunk in range(first // chunk_size, tl.cdiv(last, chunk_size)):
        checkpoint = batch * tl.cdiv(length, chunk_size) + chunk
        store_states(checkpoints, checkpoint, channel, states, exists, form)
        for position in range(chunk * chunk_size, tl.minimum(chunk * chunk_size + chunk_size, last)):
            rows, row_b, row_c = ahead
            ahead = _load_step(x, dt, B, C, z, position + 1, batch, length, group, channel, exists, form)
            if not form.constant_b:
                b = spread(row_b)
            if not form.constant_c:
                c = spread(row_c)
            states = enter(states, initial, sequences, position, 1, length, channel, exists, form)
            states, out = _advance(states, rows, a, b, c, skip, bias, z is not None, form)
            store_row(y, row_of(position, batch, length, form), channel, out, exists, form)
            if sequences is not None:
                sequence = sequence_at(sequences, position, length, form)
                if sequence != sequence_at(sequences, position + 1, length, form):
                    store_states(final_state, sequence.to(tl.int64), channel, states, exists, form)
    if (sequences is None) & (last == length):
        store_states(final_state, batch, channel, states, exists, form)


def forward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final state, and the states that enter each CHUNK of positions in the order of the scan.

    Arguments are contiguous and as `kernels.selective_scan` takes them, B and C constant (channels, N) or
    varying (batch, length, groups, N).
    """
    batch, length, _ = x.shape
    B, C, groups = common_groups(A, B, C)
    form = make_form(A, B, C, groups, dt_softplus, reverse, _NUMBERS)
    span = split_time(length, batch * form.tiles, _PROGRAMS * multiprocessors(x.device), _SPAN_COST)
    spans = triton.cdiv(length, span)
    initial = as_real(initial_state)
    sequences = pack(cu_seqlens, length)

    y = torch.empty_like(x)
    checkpoints = A.new_empty(batch, triton.cdiv(length, CHUNK), *A.shape)
    count = batch if cu_seqlens is None else len(cu_seqlens) - 1
    final_state = A.new_zeros(count, *A.shape) if initial_state is None else initial_state.clone()
    with torch.cuda.device_of(x):
        entering = entering_states(x, dt, A, B, None, dt_bias, initial, sequences, span, False, form)
        _scan[(batch * spans * form.tiles,)](
            x, dt, as_real(A), B, C, D, z, dt_bias, entering, initial, sequences,
            y, as_real(final_state), as_real(checkpoints), length, span, spans,
            chunk_size=CHUNK, form=form, num_warps=1,
        )  # fmt: skip
    return y, final_state, checkpoints


@triton.jit
def _scan_one(state, x, dt, A, B, C, D, z, dt_bias, y, form: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    batch = program // form.tiles
    group, channel, exists = channels_of(program % form.tiles, form)
    a = load_a(A, channel, exists, form)
    states = load_states(state, batch, channel, exists, form)
    rows, row_b, row_c = _load_step(x, dt, B, C, z, 0, batch, 1, group, channel, exists, form)
    b = load_states(B, 0, channel, exists, form) if form.constant_b else spread(row_b)
    c = load_states(C, 0, channel, exists, form) if form.constant_c else spread(row_c)
    skip = load_parameter(D, channel, exists)
    bias = load_parameter(dt_bias, channel, exists)
    states, out = _advance(states, rows, a, b, c, skip, bias, z is not None, form)
    store_row(y, batch, channel, out, exists, form)
    store_states(state, batch, channel, states, exists, form)


def step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """Return y (batch, channels) for one position, updating `state` in place; a CUDA graph can capture it."""
    B, C, groups = common_groups(A, B, C)
    form = make_form(A, B, C, groups, dt_softplus, False, _NUMBERS)
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _scan_one[(len(x) * form.tiles,)](
            as_real(state), x, dt, as_real(A), B, C, D, z, dt_bias, y, form=form, num_warps=1
        )
    return y
