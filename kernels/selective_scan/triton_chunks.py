"""Cutting time into spans that are walked at once, and the states that enter each span.

Phase 1 walks each span from zero and sums its dt: the product of a span's decays is exp(A sum dt). Phase 2
passes states from span to span. Phase 3, in `gpu` and `gpu_walk_back`, walks each span from its true start.
The adjoints of the backward pass are passed likewise, from the end of time:

    state    h = a h + B (dt x)
    adjoint  q = a (q + C (grad_y silu(z)))        q: of the state that enters the position
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005, RET505
# What is compiled has types that only Triton knows; Triton does not unpack tuples, and types both branches.

from dataclasses import replace
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.selective_scan.triton_tile import (
    add,
    decay,
    enter,
    load_a,
    load_parameter,
    load_row,
    load_states,
    load_weights,
    place_of,
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
from kernels.selective_scan.triton_variant import Form, as_real

_PASS_REALS = 128  # of a tile where states are passed: few, for there are few programs
_PASS_AHEAD = tl.constexpr(16)  # spans it loads at once, to wait for memory seldom


@triton.jit
def _load_step(drive, dt, weights, z, position, place, constant: tl.constexpr, form: tl.constexpr):
    """Load what drives one position, as it is stored: (drive, dt, z if any), and B or C unless constant."""
    _, length, _, _, _ = place
    inside = (position >= 0) & (position < length)
    row = row_of(position, place, form)
    rows = (load_row(drive, row, place, inside, form), load_row(dt, row, place, inside, form))
    if z is not None:
        rows = rows + (load_row(z, row, place, inside, form),)
    if constant:
        return rows, ()
    else:
        return rows, load_weights(weights, row, place, inside, form)


@triton.jit(do_not_specialize=["length", "span", "spans"])
def _walk_from_zero(
    drive, dt, A, weights, z, dt_bias, boundary, sequences, ends, sums, length, span, spans,
    adjoint: tl.constexpr, constant: tl.constexpr, form: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    item = program // form.tiles
    first = item % spans * span
    last = tl.minimum(first + span, length)
    place = place_of(item // spans, length, program % form.tiles, form)
    a = load_a(A, place, form)
    bias = load_parameter(dt_bias, place)
    if constant:
        weight = load_states(weights, 0, place, True, form)
    factor: tl.constexpr = form.parts if adjoint else 1
    direction: tl.constexpr = -1 if adjoint else 1

    position = last - 1 if adjoint else first
    ahead = _load_step(drive, dt, weights, z, position, place, constant, form)
    states = zero_states(form)
    sum_dt = tl.zeros_like(bias)
    for _ in range(first, last):
        rows, row_weight = ahead
        ahead = _load_step(drive, dt, weights, z, position + direction, place, constant, form)
        states = enter(states, boundary, sequences, position, direction, place, form)
        step = rows[1].to(tl.float32) + bias
        if form.softplus:
            step = softplus(step)
        sum_dt += step
        if not constant:
            weight = spread(row_weight)
        value = rows[0].to(tl.float32) * factor
        if adjoint:
            if z is not None:
                gate = rows[2].to(tl.float32)
                value *= gate * sigmoid(gate)
            states = times(decay(step, a), add(states, scaled(value, weight)))
        else:
            states = add(times(decay(step, a), states), scaled(step * value, weight))
        position += direction
    store_states(ends, item, states, place, True, form)
    store_row(sums, item, sum_dt, place, True, form)


@triton.jit(do_not_specialize=["length", "span", "spans"])
def _pass_states(
    A, boundary, sequences, states, sums, length, span, spans, adjoint: tl.constexpr, form: tl.constexpr
):
    """Turn, in place, the states that leave spans walked from zero into the states that enter the spans."""
    program = tl.program_id(0).to(tl.int64)
    batch = program // form.tiles
    place = place_of(batch, length, program % form.tiles, form)
    a = load_a(A, place, form)
    if boundary is not None and sequences is None:
        carry = load_states(boundary, batch, place, True, form)
    else:
        carry = zero_states(form)
    for begin in range(0, spans, _PASS_AHEAD):
        ends = ()
        decays = ()
        for i in tl.static_range(_PASS_AHEAD):
            item = batch * spans + (spans - 1 - begin - i if adjoint else begin + i)
            ends = ends + (load_states(states, item, place, begin + i < spans, form),)
            decays = decays + (decay(load_row(sums, item, place, begin + i < spans, form), a),)
        for i in tl.static_range(_PASS_AHEAD):
            index = spans - 1 - begin - i if adjoint else begin + i
            store_states(states, batch * spans + index, carry, place, begin + i < spans, form)
            carry = times(decays[i], carry)
            if sequences is not None:
                first = tl.where(begin + i < spans, index, 0).to(tl.int64) * span
                kept = _is_one_sequence(
                    sequences, first, tl.minimum(first + span, length), adjoint, place, form
                )
                carry = scaled(tl.where(place[4], kept, 0.0), carry)
            carry = add(carry, ends[i])


@triton.jit
def _is_one_sequence(sequences, first, last, adjoint: tl.constexpr, place, form: tl.constexpr):
    """Return 1.0 if walking a span enters no new sequence, else 0.0."""
    if adjoint:
        before = sequence_at(sequences, last, place, form)
        return (before == sequence_at(sequences, first, place, form)).to(tl.float32)
    else:
        before = sequence_at(sequences, first - 1, place, form)
        return (before == sequence_at(sequences, last - 1, place, form)).to(tl.float32)


def walk_time(span: int, chunks: int, rows: int, programs: int, cost: float) -> float:
    """Return the chunks that a program walks in turn, where `rows` walk through `chunks` cut in spans.

    `programs` walk at full speed together; walking spans costs `cost` times as much as walking time whole.
    """
    spans = -(-chunks // span)
    return -(-rows * spans // programs) * span * (cost if spans > 1 else 1.0)


@lru_cache
def split_chunks(chunks: int, rows: int, programs: int, cost: float) -> int:
    """Return how many chunks make a span, for the least time of a walk."""
    spans = [waves * programs // rows for waves in range(1, 5)]
    lengths = [chunks] + [-(-chunks // count) for count in spans if count > 1]
    return min(lengths, key=lambda span: walk_time(span, chunks, rows, programs, cost))


def pack(cu_seqlens: Tensor | None, length: int) -> Tensor | None:
    """Return the sequence that holds each position, (length + 2,) int32, between two of -1."""
    if cu_seqlens is None:
        return None
    positions = torch.arange(-1, length + 1, device=cu_seqlens.device)
    sequences = torch.bucketize(positions, cu_seqlens.to(torch.int64), right=True, out_int32=True) - 1
    return sequences.masked_fill_(positions == length, -1)


def entering_states(
    drive: Tensor,
    dt: Tensor,
    A: Tensor,
    weights: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    boundary: Tensor | None,
    sequences: Tensor | None,
    span: int,
    adjoint: bool,
    form: Form,
) -> Tensor | None:
    """Return the states, or for the backward pass the adjoints, that enter each span.

    `drive` is x and `weights` are B, or they are grad_y and C. `boundary` holds the initial states, or the
    conjugates of the final states' gradients, as real numbers.

    Returns:
        (batch * spans, channels, states), with a last axis of 2 where A is complex; None for zeros.
    """
    batch, length, channels = drive.shape
    spans = triton.cdiv(length, span)
    if spans == 1:
        return boundary if sequences is None else None
    states = torch.empty(batch * spans, *as_real(A).shape, device=drive.device)
    sums = torch.empty(batch * spans, channels, device=drive.device)
    constant = form.constant_c if adjoint else form.constant_b
    _walk_from_zero[(batch * spans * form.tiles,)](
        drive, dt, as_real(A), weights, z, dt_bias, boundary, sequences, states, sums, length, span, spans,
        adjoint=adjoint, constant=constant, form=form, num_warps=1,
    )  # fmt: skip
    narrow = replace(form, groups=1, width=max(1, _PASS_REALS // (form.size * form.parts)))
    _pass_states[(batch * narrow.tiles,)](
        as_real(A), boundary, sequences, states, sums, length, span, spans,
        adjoint=adjoint, form=narrow, num_warps=1,
    )  # fmt: skip
    return states
