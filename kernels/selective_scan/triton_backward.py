"""Triton kernel of the backward scan.

A program walks its segment backwards, one chunk at a time. From the chunk's checkpoint it first walks
forwards and stores the states that enter each block of a few positions. Then it takes the blocks from last to
first: forwards with the states of the block in registers, and backwards with the adjoints.

The gradients of B and C are sums over channels. A program takes several tiles of channels in turn and adds to
its own partial sums, so partial sums are few and need no atomics, and every run gives the same bits.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005, SIM102
# Only Triton knows the types of compiled functions; it does not unpack tuples and it types both branches.

import triton
import triton.language as tl

from kernels.selective_scan.triton_tile import (
    LN_2,
    TURN,
    add,
    conjugate,
    contract,
    decay,
    enter,
    is_new,
    load_a,
    load_numbers,
    load_parameter,
    load_row,
    load_states,
    load_weights,
    next_states,
    place_of,
    row_of,
    scaled,
    sigmoid,
    softplus,
    spread,
    store_numbers,
    store_row,
    store_states,
    times,
    zero_states,
)


@triton.jit
def _load_rows(pointer, start, last, place, spec: tl.constexpr):
    """Return the rows of a block of positions as stored, zero past the last."""
    block: tl.constexpr = spec.block
    rows = ()
    for i in tl.static_range(block):
        rows = rows + (load_row(pointer, row_of(start + i, place, spec), place, start + i < last, spec),)
    return rows


@triton.jit
def _load_weight_rows(pointer, constant, start, last, place, spec: tl.constexpr):
    """Return B or C of a block of positions as stored, zero past the last, or the constant repeated."""
    block: tl.constexpr = spec.block
    rows = ()
    for i in tl.static_range(block):
        if len(constant) > 0:
            rows = rows + (constant,)
        else:
            rows = rows + (
                load_weights(pointer, row_of(start + i, place, spec), place, start + i < last, spec),
            )
    return rows


@triton.jit
def _step(row, bias, mask, spec: tl.constexpr):
    """Return dt with its bias, and the step after softplus, zero where masked."""
    biased = row.to(tl.float32) + bias
    step = softplus(biased) if spec.softplus else biased
    return biased, tl.where(mask, step, 0.0)


@triton.jit
def _add_to_row(sums, row, values, is_first, place, mask, spec: tl.constexpr):
    """Add the conjugate of a tile's sum over channels to a row of (rows, groups, states).

    Where `is_first` is 1, overwrite the row instead.
    """
    _, _, group, _, _ = place
    state = tl.arange(0, spec.size)
    index = (row * spec.groups + group) * spec.states + state
    mask = mask & (state < spec.states)
    before = load_numbers(sums, index, mask & (is_first == 0), spec)
    if spec.is_complex:
        total = tl.sum(values[0], axis=0), -tl.sum(values[1], axis=0)
    else:
        total = (tl.sum(values[0], axis=0),)
    store_numbers(sums, index, add(before, total), mask, spec)


@triton.jit
def _block_index(block, spec: tl.constexpr):
    """Return the indices in the scratch of the states that enter a block."""
    channel = tl.arange(0, spec.width)[:, None]
    return (block * spec.width + channel) * spec.size + tl.arange(0, spec.size)


@triton.jit
def _store_block_states(
    states, scratch, x, dt, B, constant_b, a, bias, initial, sequences, begin, last, place, spec: tl.constexpr
):
    """Walk a chunk forwards and store the states that enter each of its blocks in the scratch."""
    block: tl.constexpr = spec.block
    for start in range(begin, tl.minimum(begin + spec.chunk, last), spec.block):
        values = _load_rows(x, start, last, place, spec)
        steps = _load_rows(dt, start, last, place, spec)
        bs = _load_weight_rows(B, constant_b, start, last, place, spec)
        store_numbers(scratch, _block_index((start - begin) // spec.block, spec), states, True, spec)
        for i in tl.static_range(block):
            _, step = _step(steps[i], bias, start + i < last, spec)
            states = enter(states, initial, sequences, start + i, 1, place, spec)
            # `next_states` with the input first: this order compiles to fewer instructions.
            added = scaled(step * values[i].to(tl.float32), spread(bs[i]))
            states = add(times(decay(step, a), states), added)


@triton.jit(do_not_specialize=["length", "segment_length", "segments", "splits", "items"])
def backward_kernel(
    grad_y, x, dt, A, B, C, D, z, dt_bias, initial, grad_final, sequences, checkpoints, entry_adjoints,
    grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_dt_bias, grad_initial, scratch,
    length, segment_length, segments, splits, items, spec: tl.constexpr,
):  # fmt: skip
    """Write all gradients. An item is a segment of a row, and every `splits`-th tile of a group of channels.

    Each program takes items in turn. Gradients that sum over time or rows are partial sums here.
    """
    block_size: tl.constexpr = spec.block
    program = tl.program_id(0).to(tl.int64)
    scratch += program * (spec.chunk // spec.block * spec.parts * spec.width * spec.size)
    for item in range(program, items, tl.num_programs(0)):
        split = item % splits
        row_segment = item // (splits * spec.groups)
        batch = row_segment // segments
        first = row_segment % segments * segment_length
        last = tl.minimum(first + segment_length, length)
        first_chunk = first // spec.chunk
        chunks = tl.cdiv(last, spec.chunk) - first_chunk
        partial = split * (items // (splits * spec.groups * segments)) * length
        for tile in range(split, spec.group_tiles, splits):
            is_first = (tile == split).to(tl.int32)
            place = place_of(batch, length, item // splits % spec.groups * spec.group_tiles + tile, spec)
            a = load_a(A, place, spec)
            skip = load_parameter(D, place)
            bias = load_parameter(dt_bias, place)
            constant_b = load_states(B, 0, place, True, spec) if spec.constant_b else ()
            constant_c = load_states(C, 0, place, True, spec) if spec.constant_c else ()
            adjoint = zero_states(spec)
            if entry_adjoints is not None:
                adjoint = load_states(entry_adjoints, row_segment, place, True, spec)
            sum_a = zero_states(spec)
            sum_b = zero_states(spec)
            sum_c = zero_states(spec)
            sum_skip = tl.zeros_like(skip)
            sum_bias = tl.zeros_like(bias)

            for chunk_from_end in range(0, chunks):
                chunk = first_chunk + chunks - 1 - chunk_from_end
                begin = chunk * spec.chunk
                blocks = tl.cdiv(tl.minimum(spec.chunk, last - begin), spec.block)
                checkpoint = batch * tl.cdiv(length, spec.chunk) + chunk
                states = load_states(checkpoints, checkpoint, place, True, spec)
                _store_block_states(
                    states, scratch, x, dt, B, constant_b, a, bias, initial, sequences, begin, last,
                    place, spec,
                )  # fmt: skip
                tl.debug_barrier()  # Lanes read states and partial sums that other lanes of the warp wrote.

                for block_from_end in range(0, blocks):
                    block = blocks - 1 - block_from_end
                    start = begin + block * spec.block
                    states = load_numbers(scratch, _block_index(block, spec), True, spec)
                    values = _load_rows(x, start, last, place, spec)
                    steps = _load_rows(dt, start, last, place, spec)
                    grads_y = _load_rows(grad_y, start, last, place, spec)
                    gates = () if z is None else _load_rows(z, start, last, place, spec)
                    bs = _load_weight_rows(B, constant_b, start, last, place, spec)
                    cs = _load_weight_rows(C, constant_c, start, last, place, spec)
                    states_before = ()
                    grads = ()
                    for i in tl.static_range(block_size):
                        inside = start + i < last
                        row = row_of(start + i, place, spec)
                        value = values[i].to(tl.float32)
                        grad = grads_y[i].to(tl.float32)
                        _, step = _step(steps[i], bias, inside, spec)
                        states = enter(states, initial, sequences, start + i, 1, place, spec)
                        states_before = states_before + (states,)
                        states = next_states(states, step, value, a, bs[i])
                        if z is not None:
                            gate = gates[i].to(tl.float32)
                            open_gate = sigmoid(gate)
                            y = spec.parts * contract(spread(cs[i]), states) + skip * value
                            grad_gate = grad * y * open_gate * (1 + gate * (1 - open_gate))
                            store_row(grad_z, row, grad_gate, place, inside, spec)
                            grad *= gate * open_gate
                        grad_c = scaled(spec.parts * grad, states)
                        if spec.constant_c:
                            sum_c = add(sum_c, grad_c)
                        else:
                            _add_to_row(grad_C, partial + row, grad_c, is_first, place, inside, spec)
                        grads = grads + (grad,)

                    # A second load: otherwise the compiler keeps every decay of the block in registers.
                    steps = _load_rows(dt, start, last, place, spec)
                    for i in tl.static_range(block_size - 1, -1, -1):
                        inside = start + i < last
                        row = row_of(start + i, place, spec)
                        value = values[i].to(tl.float32)
                        biased, step = _step(steps[i], bias, inside, spec)
                        adjoint = enter(adjoint, grad_final, sequences, start + i, -1, place, spec)
                        adjoint = add(adjoint, scaled(spec.parts * grads[i], spread(cs[i])))
                        grad_product = contract(adjoint, spread(bs[i]))
                        grad_b = scaled(step * value, adjoint)
                        if spec.constant_b:
                            sum_b = add(sum_b, grad_b)
                        else:
                            _add_to_row(grad_B, partial + row, grad_b, is_first, place, inside, spec)
                        adjoint = times(decay(step, a), adjoint)
                        grad_exponent = times(adjoint, states_before[i])
                        sum_a = add(sum_a, scaled(step, grad_exponent))
                        grad_step = grad_product * value + tl.sum(grad_exponent[0] * a[0], axis=1) * LN_2
                        if spec.is_complex:
                            grad_step -= tl.sum(grad_exponent[1] * a[1], axis=1) * TURN
                        if spec.softplus:
                            grad_step *= sigmoid(biased)
                        store_row(grad_x, row, grad_product * step + skip * grads[i], place, inside, spec)
                        store_row(grad_dt, row, grad_step, place, inside, spec)
                        sum_skip += grads[i] * value
                        sum_bias += tl.where(inside, grad_step, 0.0)
                        if sequences is not None and grad_initial is not None:
                            sequence, begins = is_new(sequences, start + i, 1, place, spec)
                            if begins:
                                store_states(grad_initial, sequence, conjugate(adjoint), place, True, spec)

            store_states(grad_A, row_segment, conjugate(sum_a), place, True, spec)
            if spec.constant_b:
                store_states(grad_B, row_segment, conjugate(sum_b), place, True, spec)
            if spec.constant_c:
                store_states(grad_C, row_segment, conjugate(sum_c), place, True, spec)
            if D is not None:
                store_row(grad_D, row_segment, sum_skip, place, True, spec)
            if dt_bias is not None:
                store_row(grad_dt_bias, row_segment, sum_bias, place, True, spec)
            if sequences is None and grad_initial is not None:
                if first == 0:
                    store_states(grad_initial, batch, conjugate(adjoint), place, True, spec)
