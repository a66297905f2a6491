"""The selective scan in Triton: every variant, on any GPU, deterministic (no atomics).

A program walks a tile [channels, states] through a span of time. Where rows alone fill the GPU a span is all
of time; else spans are walked at once, from states found by `gpu_span`.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005
# What is compiled has types that only Triton knows, and Triton does not unpack tuples.

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.layout import multiprocessors
from kernels.selective_scan.triton_backward import backward
from kernels.selective_scan.triton_chunks import entering_states, pack, split_chunks
from kernels.selective_scan.triton_tile import (
    add,
    contract,
    decay,
    enter,
    is_new,
    load_a,
    load_parameter,
    load_row,
    load_states,
    load_weights,
    place_of,
    row_of,
    scaled,
    sigmoid,
    softplus,
    spread,
    store_row,
    store_states,
    times,
    zero_states,
)
from kernels.selective_scan.triton_variant import CHUNK, as_real, common_groups, make_form

__all__ = ["CHUNK", "backward", "forward", "step"]

_REALS = 512  # of a tile: 16 registers for A and 16 for the states
_PROGRAMS = 12  # warps that keep a multiprocessor busy
_SPAN_COST = 1.6  # phases 1 and 3 beside phase 3 alone


@triton.jit
def _load_step(x, dt, B, C, z, position, place, form: tl.constexpr):
    """Load one position as it is stored: (x, dt, z if any), and B and C unless constant."""
    _, length, _, _, _ = place
    inside = position < length
    row = row_of(position, place, form)
    rows = (load_row(x, row, place, inside, form), load_row(dt, row, place, inside, form))
    if z is not None:
        rows = rows + (load_row(z, row, place, inside, form),)
    b = ()
    c = ()
    if not form.constant_b:
        b = load_weights(B, row, place, inside, form)
    if not form.constant_c:
        c = load_weights(C, row, place, inside, form)
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
    x, dt, A, B, C, D, z, dt_bias, entering, initial, sequences, y, final_state, checkpoints,
    length, span, spans, form: tl.constexpr,
):  # fmt: skip
    """Walk a span of a batch with a tile."""
    program = tl.program_id(0).to(tl.int64)
    item = program // form.tiles
    batch = item // spans
    first = item % spans * span
    last = tl.minimum(first + span, length)
    place = place_of(batch, length, program % form.tiles, form)
    a = load_a(A, place, form)
    skip = load_parameter(D, place)
    bias = load_parameter(dt_bias, place)
    if form.constant_b:
        b = load_states(B, 0, place, True, form)
    if form.constant_c:
        c = load_states(C, 0, place, True, form)
    states = zero_states(form) if entering is None else load_states(entering, item, place, True, form)

    ahead = _load_step(x, dt, B, C, z, first, place, form)
    for chunk in range(first // form.chunk, tl.cdiv(last, form.chunk)):
        store_states(checkpoints, batch * tl.cdiv(length, form.chunk) + chunk, states, place, True, form)
        for position in range(chunk * form.chunk, tl.minimum((chunk + 1) * form.chunk, last)):
            rows, row_b, row_c = ahead
            ahead = _load_step(x, dt, B, C, z, position + 1, place, form)
            if not form.constant_b:
                b = spread(row_b)
            if not form.constant_c:
                c = spread(row_c)
            states = enter(states, initial, sequences, position, 1, place, form)
            states, out = _advance(states, rows, a, b, c, skip, bias, z is not None, form)
            store_row(y, row_of(position, place, form), out, place, True, form)
            if sequences is not None:
                sequence, ends = is_new(sequences, position, -1, place, form)
                if ends:
                    store_states(final_state, sequence, states, place, True, form)
    if (sequences is None) & (last == length):
        store_states(final_state, batch, states, place, True, form)


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
    """Return y, the final state, and the states that enter each CHUNK of positions in the scan's order.

    Arguments are contiguous and as `kernels.selective_scan` takes them, B and C constant (channels, N) or
    varying (batch, length, groups, N). The states, in fp32, are N / 16 bytes an element of x, or N / 8 where
    A is complex.
    """
    batch, length, _ = x.shape
    B, C, groups = common_groups(A, B, C)
    form = make_form(A, B, C, groups, dt_softplus, reverse, reals=_REALS)
    chunks = triton.cdiv(length, form.chunk)
    programs = _PROGRAMS * multiprocessors(x.device)
    span = form.chunk * split_chunks(chunks, batch * form.tiles, programs, _SPAN_COST)
    spans = triton.cdiv(length, span)
    initial = as_real(initial_state)
    sequences = pack(cu_seqlens, length)

    y = torch.empty_like(x)
    checkpoints = A.new_empty(batch, chunks, *A.shape)
    count = batch if cu_seqlens is None else len(cu_seqlens) - 1
    final_state = A.new_zeros(count, *A.shape) if initial_state is None else initial_state.clone()
    with torch.cuda.device_of(x):
        entering = entering_states(x, dt, A, B, None, dt_bias, initial, sequences, span, False, form)
        _scan[(batch * spans * form.tiles,)](
            x, dt, as_real(A), B, C, D, z, dt_bias, entering, initial, sequences,
            y, as_real(final_state), as_real(checkpoints), length, span, spans, form=form, num_warps=1,
        )  # fmt: skip
    return y, final_state, checkpoints


@triton.jit
def _scan_one(state, x, dt, A, B, C, D, z, dt_bias, y, form: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    batch = program // form.tiles
    place = place_of(batch, 1, program % form.tiles, form)
    a = load_a(A, place, form)
    states = load_states(state, batch, place, True, form)
    rows, row_b, row_c = _load_step(x, dt, B, C, z, 0, place, form)
    b = load_states(B, 0, place, True, form) if form.constant_b else spread(row_b)
    c = load_states(C, 0, place, True, form) if form.constant_c else spread(row_c)
    skip = load_parameter(D, place)
    bias = load_parameter(dt_bias, place)
    states, out = _advance(states, rows, a, b, c, skip, bias, z is not None, form)
    store_row(y, batch, out, place, True, form)
    store_states(state, batch, states, place, True, form)


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
    form = make_form(A, B, C, groups, dt_softplus, False, reals=_REALS)
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _scan_one[(len(x) * form.tiles,)](
            as_real(state), x, dt, as_real(A), B, C, D, z, dt_bias, y, form=form, num_warps=1
        )
    return y
