"""Triton kernels of the forward scan, of the single step, and of the states that enter segments.

A program walks a tile [channels, states] through one segment of time. With one segment, `scan_kernel` does
the whole forward. With several, there are three phases:

1. `segment_end_kernel` walks each segment from zero and sums its dt.
2. `pass_states_kernel` passes states from segment to segment; the decay of a segment is exp(A sum dt).
3. `scan_kernel` walks each segment from its true start.

The backward passes its adjoints with the kernels of phases 1 and 2, from the end of time (`adjoint`):

    state    h = a h + B (dt x)
    adjoint  q = a (q + C (grad_y silu(z)))        q: adjoint of the state that enters the position
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005, RET505
# Only Triton knows the types of compiled functions; it does not unpack tuples and it types both branches.

import triton
import triton.language as tl

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
    next_states,
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

PASS_AHEAD = tl.constexpr(16)  # segments whose states `pass_states_kernel` loads together, to hide latency


@triton.jit
def _load_position(x, dt, B, C, z, position, place, spec: tl.constexpr):
    """Return (x, dt, z if any) of one position as stored, then B and C, empty if constant."""
    _, length, _, _, _ = place
    inside = position < length
    row = row_of(position, place, spec)
    rows = (load_row(x, row, place, inside, spec), load_row(dt, row, place, inside, spec))
    if z is not None:
        rows = rows + (load_row(z, row, place, inside, spec),)
    b = ()
    c = ()
    if not spec.constant_b:
        b = load_weights(B, row, place, inside, spec)
    if not spec.constant_c:
        c = load_weights(C, row, place, inside, spec)
    return rows, b, c


@triton.jit
def _advance(states, rows, a, b, c, skip, bias, gated: tl.constexpr, spec: tl.constexpr):
    """Return the states after a position, and its y."""
    value = rows[0].to(tl.float32)
    step = rows[1].to(tl.float32) + bias
    if spec.softplus:
        step = softplus(step)
    states = next_states(states, step, value, a, b)
    y = spec.parts * contract(c, states) + skip * value
    if gated:
        gate = rows[2].to(tl.float32)
        y *= gate * sigmoid(gate)
    return states, y


@triton.jit(do_not_specialize=["length", "segment_length", "segments"])
def scan_kernel(
    x, dt, A, B, C, D, z, dt_bias, entry_states, initial, sequences, y, final_state, checkpoints,
    length, segment_length, segments, spec: tl.constexpr,
):  # fmt: skip
    """Walk one segment of one row of the batch with one tile; write y, checkpoints and the final state."""
    program = tl.program_id(0).to(tl.int64)
    item = program // spec.tiles
    batch = item // segments
    first = item % segments * segment_length
    last = tl.minimum(first + segment_length, length)
    place = place_of(batch, length, program % spec.tiles, spec)
    a = load_a(A, place, spec)
    skip = load_parameter(D, place)
    bias = load_parameter(dt_bias, place)
    if spec.constant_b:
        b = load_states(B, 0, place, True, spec)
    if spec.constant_c:
        c = load_states(C, 0, place, True, spec)
    states = zero_states(spec) if entry_states is None else load_states(entry_states, item, place, True, spec)

    upcoming = _load_position(x, dt, B, C, z, first, place, spec)
    for chunk in range(first // spec.chunk, tl.cdiv(last, spec.chunk)):
        store_states(checkpoints, batch * tl.cdiv(length, spec.chunk) + chunk, states, place, True, spec)
        for position in range(chunk * spec.chunk, tl.minimum((chunk + 1) * spec.chunk, last)):
            rows, row_b, row_c = upcoming
            upcoming = _load_position(x, dt, B, C, z, position + 1, place, spec)
            if not spec.constant_b:
                b = spread(row_b)
            if not spec.constant_c:
                c = spread(row_c)
            states = enter(states, initial, sequences, position, 1, place, spec)
            states, out = _advance(states, rows, a, b, c, skip, bias, z is not None, spec)
            store_row(y, row_of(position, place, spec), out, place, True, spec)
            if sequences is not None:
                sequence, ends = is_new(sequences, position, -1, place, spec)
                if ends:
                    store_states(final_state, sequence, states, place, True, spec)
    if (sequences is None) & (last == length):
        store_states(final_state, batch, states, place, True, spec)


@triton.jit
def step_kernel(state, x, dt, A, B, C, D, z, dt_bias, y, spec: tl.constexpr):
    """Advance one tile by one position."""
    program = tl.program_id(0).to(tl.int64)
    batch = program // spec.tiles
    place = place_of(batch, 1, program % spec.tiles, spec)
    a = load_a(A, place, spec)
    states = load_states(state, batch, place, True, spec)
    rows, row_b, row_c = _load_position(x, dt, B, C, z, 0, place, spec)
    b = load_states(B, 0, place, True, spec) if spec.constant_b else spread(row_b)
    c = load_states(C, 0, place, True, spec) if spec.constant_c else spread(row_c)
    skip = load_parameter(D, place)
    bias = load_parameter(dt_bias, place)
    states, out = _advance(states, rows, a, b, c, skip, bias, z is not None, spec)
    store_row(y, batch, out, place, True, spec)
    store_states(state, batch, states, place, True, spec)


@triton.jit
def _load_input(signal, dt, weights, z, position, place, constant: tl.constexpr, spec: tl.constexpr):
    """Return (signal, dt, z if any) of one position as stored, then B or C, empty if constant."""
    _, length, _, _, _ = place
    inside = (position >= 0) & (position < length)
    row = row_of(position, place, spec)
    rows = (load_row(signal, row, place, inside, spec), load_row(dt, row, place, inside, spec))
    if z is not None:
        rows = rows + (load_row(z, row, place, inside, spec),)
    if constant:
        return rows, ()
    else:
        return rows, load_weights(weights, row, place, inside, spec)


@triton.jit(do_not_specialize=["length", "segment_length", "segments"])
def segment_end_kernel(
    signal, dt, A, weights, z, dt_bias, boundary, sequences, ends, sums, length, segment_length, segments,
    adjoint: tl.constexpr, constant: tl.constexpr, spec: tl.constexpr,
):  # fmt: skip
    """Walk one segment from zero; write the states that leave it, and its sum of dt.

    `signal` and `weights` are x and B, or grad_y and C where `adjoint`.
    """
    program = tl.program_id(0).to(tl.int64)
    item = program // spec.tiles
    first = item % segments * segment_length
    last = tl.minimum(first + segment_length, length)
    place = place_of(item // segments, length, program % spec.tiles, spec)
    a = load_a(A, place, spec)
    bias = load_parameter(dt_bias, place)
    if constant:
        weight = load_states(weights, 0, place, True, spec)
    factor: tl.constexpr = spec.parts if adjoint else 1
    direction: tl.constexpr = -1 if adjoint else 1

    position = last - 1 if adjoint else first
    upcoming = _load_input(signal, dt, weights, z, position, place, constant, spec)
    states = zero_states(spec)
    sum_dt = tl.zeros_like(bias)
    for _ in range(first, last):
        rows, row_weight = upcoming
        upcoming = _load_input(signal, dt, weights, z, position + direction, place, constant, spec)
        states = enter(states, boundary, sequences, position, direction, place, spec)
        step = rows[1].to(tl.float32) + bias
        if spec.softplus:
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
            states = next_states(states, step, value, a, weight)
        position += direction
    store_states(ends, item, states, place, True, spec)
    store_row(sums, item, sum_dt, place, True, spec)


@triton.jit(do_not_specialize=["length", "segment_length", "segments"])
def pass_states_kernel(
    A,
    boundary,
    sequences,
    states,
    sums,
    length,
    segment_length,
    segments,
    adjoint: tl.constexpr,
    spec: tl.constexpr,
):
    """Replace the states that leave segments walked from zero by the states that enter the segments."""
    program = tl.program_id(0).to(tl.int64)
    batch = program // spec.tiles
    place = place_of(batch, length, program % spec.tiles, spec)
    a = load_a(A, place, spec)
    if boundary is not None and sequences is None:
        carry = load_states(boundary, batch, place, True, spec)
    else:
        carry = zero_states(spec)
    for begin in range(0, segments, PASS_AHEAD):
        ends = ()
        decays = ()
        for i in tl.static_range(PASS_AHEAD):
            item = batch * segments + (segments - 1 - begin - i if adjoint else begin + i)
            ends = ends + (load_states(states, item, place, begin + i < segments, spec),)
            decays = decays + (decay(load_row(sums, item, place, begin + i < segments, spec), a),)
        for i in tl.static_range(PASS_AHEAD):
            index = segments - 1 - begin - i if adjoint else begin + i
            store_states(states, batch * segments + index, carry, place, begin + i < segments, spec)
            carry = times(decays[i], carry)
            if sequences is not None:
                first = tl.where(begin + i < segments, index, 0).to(tl.int64) * segment_length
                is_same = _is_one_sequence(
                    sequences, first, tl.minimum(first + segment_length, length), adjoint, place, spec
                )
                carry = scaled(tl.where(place[4], is_same, 0.0), carry)
            carry = add(carry, ends[i])


@triton.jit
def _is_one_sequence(sequences, first, last, adjoint: tl.constexpr, place, spec: tl.constexpr):
    """Return 1.0 if a segment begins no new sequence, else 0.0."""
    if adjoint:
        before = sequence_at(sequences, last, place, spec)
        return (before == sequence_at(sequences, first, place, spec)).to(tl.float32)
    else:
        before = sequence_at(sequences, first - 1, place, spec)
        return (before == sequence_at(sequences, last - 1, place, spec)).to(tl.float32)
