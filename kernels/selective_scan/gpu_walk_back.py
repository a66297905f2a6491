"""The gradients of the selective scan in Triton.

A program walks its span backwards, a chunk at a time. From the chunk's checkpoint it first walks forwards and keeps
the states that enter each block of a few positions; then, block by block from the last, it walks forwards again
with the block's states in registers, and backwards with the adjoints.

The gradients of B and C are sums over channels. A program takes several tiles of channels in turn and adds to its own
partial sums, so that these are few and need no atomics: the outcome is always the same to the bit.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005, SIM102
# What is compiled has types that only Triton knows; Triton does not unpack tuples, and types both branches.

import triton
import triton.language as tl

from kernels.selective_scan.gpu_tile import (
    LN_2,
    TURN,
    add,
    channels_of,
    conjugate,
    contract,
    decay,
    enter,
    load_a,
    load_numbers,
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
    store_numbers,
    store_row,
    store_states,
    times,
    zero_states,
)


@triton.jit
def _load_rows(
    pointer, begin, last, batch, length, channel, exists, form: tl.constexpr, block_size: tl.constexpr
):
    """Load the rows of a block of positions as they are stored, zero past the last."""
    rows = ()
    for i in tl.static_range(block_size):
        row = row_of(begin + i, batch, length, form)
        rows = rows + (load_row(pointer, row, channel, exists & (begin + i < last), form),)
    return rows


@triton.jit
def _load_weight_rows(
    pointer, begin, last, batch, length, group, constant, form: tl.constexpr, block_size: tl.constexpr
):  # fmt: skip
    """Load B or C of a block of positions as they are stored, zero past the last; the constant if there is one."""
    rows = ()
    for i in tl.static_range(block_size):
        if len(constant) == 0:
            row = row_of(begin + i, batch, length, form)
            rows = rows + (load_weights(pointer, row, group, begin + i < last, form),)
        else:
            rows = rows + (constant,)
    return rows


@triton.jit
def _step(row, bias, mask, form: tl.constexpr):
    """Return dt with its bias, and the step that this makes: none, past the end."""
    biased = row.to(tl.float32) + bias
    step = softplus(biased) if form.softplus else biased
    return biased, tl.where(mask, step, 0.0)


@triton.jit
def _add_to_row(sums, row, group, values, begins, mask, form: tl.constexpr):
    """Add the conjugate of a tile's sum over channels to a row of (rows, groups, states), or begin it."""
    state = tl.arange(0, form.size)
    index = (row * form.groups + group) * form.states + state
    mask = mask & (state < form.states)
    before = load_numbers(sums, index, mask & (begins == 0), form)
    if form.is_complex:
        total = tl.sum(values[0], axis=0), -tl.sum(values[1], axis=0)
    else:
        total = (tl.sum(values[0], axis=0),)
    store_numbers(sums, index, add(before, total), mask, form)


@triton.jit
def _kept_at(block, form: tl.constexpr):
    channel = tl.arange(0, form.width)[:, None]
    return (block * form.width + channel) * form.size + tl.arange(0, form.size)


@triton.jit(do_not_specialize=["length", "span", "spans", "splits", "items"])
def walk_back(
    grad_y, x, dt, A, B, C, D, z, dt_bias, initial, grad_final, sequences, checkpoints, entering,
    grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_dt_bias, grad_initial, scratch,
    length, span, spans, splits, items,
    chunk_size: tl.constexpr, block_size: tl.constexpr, form: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    scratch += program * (chunk_size // block_size * form.parts * form.width * form.size)
    for item in range(program, items, tl.num_programs(0)):
        split = item % splits
        piece = item // (splits * form.groups)
        batch = piece // spans
        first = piece % spans * span
        last = tl.minimum(first + span, length)
        first_chunk = first // chunk_size
        chunks = tl.cdiv(last, chunk_size) - first_chunk
        partial = split * (items // (splits * form.groups * spans)) * length
        for tile in range(split, form.group_tiles, splits):
            begins = (tile == split).to(tl.int32)
            group, channel, exists = channels_of(item // splits % form.groups * form.group_tiles + tile, form)
            a = load_a(A, channel, exists, form)
            skip = load_parameter(D, channel, exists)
            bias = load_parameter(dt_bias, channel, exists)
            constant_b = ()
            constant_c = ()
            if form.constant_b:
                constant_b = load_states(B, 0, channel, exists, form)
            if form.constant_c:
                constant_c = load_states(C, 0, channel, exists, form)
            if entering is None:
                adjoint = zero_states(form)
            else:
                adjoint = load_states(entering, piece, channel, exists, form)
            sum_a = zero_states(form)
            sum_b = zero_states(form)
            sum_c = zero_states(form)
            sum_skip = tl.zeros_like(skip)
            sum_bias = tl.zeros_like(bias)

            for chunk_from_end in range(0, chunks):
                chunk = first_chunk + chunks - 1 - chunk_from_end
                begin = chunk * chunk_size
                blocks = tl.cdiv(tl.minimum(chunk_size, last - begin), block_size)
                checkpoint = batch * tl.cdiv(length, chunk_size) + chunk
                states = load_states(checkpoints, checkpoint, channel, exists, form)
                for block in range(0, blocks):
                    start = begin + block * block_size
                    values = _load_rows(x, start, last, batch, length, channel, exists, form, block_size)
                    steps = _load_rows(dt, start, last, batch, length, channel, exists, form, block_size)
                    bs = _load_weight_rows(B, start, last, batch, length, group, constant_b, form, block_size)
                    store_numbers(scratch, _kept_at(block, form), states, True, form)
                    for i in tl.static_range(block_size):
                        _, step = _step(steps[i], bias, start + i < last, form)
                        states = enter(
                            states, initial, sequences, start + i, 1, length, channel, exists, form
                        )
                        driven = scaled(step * values[i].to(tl.float32), spread(bs[i]))
                        states = add(times(decay(step, a), states), driven)
                tl.debug_barrier()

                for block_from_end in range(0, blocks):
                    block = blocks - 1 - block_from_end
                    start = begin + block * block_size
                    states = load_numbers(scratch, _kept_at(block, form), True, form)
                    values = _load_rows(x, start, last, batch, length, channel, exists, form, block_size)
                    steps = _load_rows(dt, start, last, batch, length, channel, exists, form, block_size)
                    ys = _load_rows(grad_y, start, last, batch, length, channel, exists, form, block_size)
                    if z is not None:
                        gates = _load_rows(z, start, last, batch, length, channel, exists, form, block_size)
                    bs = _load_weight_rows(B, start, last, batch, length, group, constant_b, form, block_size)
                    cs = _load_weight_rows(C, start, last, batch, length, group, constant_c, form, block_size)
                    before = ()
                    grads = ()
                    for i in tl.static_range(block_size):
                        inside = start + i < last
                        row = row_of(start + i, batch, length, form)
                        value = values[i].to(tl.float32)
                        grad = ys[i].to(tl.float32)
                        _, step = _step(steps[i], bias, inside, form)
                        states = enter(
                            states, initial, sequences, start + i, 1, length, channel, exists, form
                        )
                        before = before + (states,)
                        states = add(times(decay(step, a), states), scaled(step * value, spread(bs[i])))
                        if z is not None:
                            gate = gates[i].to(tl.float32)
                            open_gate = sigmoid(gate)
                            y = form.parts * contract(spread(cs[i]), states) + skip * value
                            grad_gate = grad * y * open_gate * (1 + gate * (1 - open_gate))
                            store_row(grad_z, row, channel, grad_gate, exists & inside, form)
                            grad *= gate * open_gate
                        grad_c = scaled(form.parts * grad, states)
                        if form.constant_c:
                            sum_c = add(sum_c, grad_c)
                        else:
                            _add_to_row(grad_C, partial + row, group, grad_c, begins, inside, form)
                        grads = grads + (grad,)

                    # Loaded again, for otherwise the compiler keeps every decay of the block in registers.
                    steps = _load_rows(dt, start, last, batch, length, channel, exists, form, block_size)
                    for i in tl.static_range(block_size - 1, -1, -1):
                        inside = start + i < last
                        mask = exists & inside
                        row = row_of(start + i, batch, length, form)
                        value = values[i].to(tl.float32)
                        biased, step = _step(steps[i], bias, inside, form)
                        adjoint = enter(
                            adjoint, grad_final, sequences, start + i, -1, length, channel, exists, form
                        )
                        adjoint = add(adjoint, scaled(form.parts * grads[i], spread(cs[i])))
                        grad_product = contract(adjoint, spread(bs[i]))
                        grad_b = scaled(step * value, adjoint)
                        if form.constant_b:
                            sum_b = add(sum_b, grad_b)
                        else:
                            _add_to_row(grad_B, partial + row, group, grad_b, begins, inside, form)
                        adjoint = times(decay(step, a), adjoint)
                        grad_exponent = times(adjoint, before[i])
                        sum_a = add(sum_a, scaled(step, grad_exponent))
                        grad_step = grad_product * value + tl.sum(grad_exponent[0] * a[0], axis=1) * LN_2
                        if form.is_complex:
                            grad_step -= tl.sum(grad_exponent[1] * a[1], axis=1) * TURN
                        if form.softplus:
                            grad_step *= sigmoid(biased)
                        store_row(grad_x, row, channel, grad_product * step + skip * grads[i], mask, form)
                        store_row(grad_dt, row, channel, grad_step, mask, form)
                        sum_skip += grads[i] * value
                        sum_bias += tl.where(mask, grad_step, 0.0)
                        if sequences is not None and grad_initial is not None:
                            sequence = sequence_at(sequences, start + i, length, form)
                            begun = sequence != sequence_at(sequences, start + i - 1, length, form)
                            if (sequence >= 0) & begun:
                                index = sequence.to(tl.int64)
                                store_states(grad_initial, index, channel, conjugate(adjoint), exists, form)

            store_states(grad_A, piece, channel, conjugate(sum_a), exists, form)
            if form.constant_b:
                store_states(grad_B, piece, channel, conjugate(sum_b), exists, form)
            if form.constant_c:
                store_states(grad_C, piece, channel, conjugate(sum_c), exists, form)
            if D is not None:
                store_row(grad_D, piece, channel, sum_skip, exists, form)
            if dt_bias is not None:
                store_row(grad_dt_bias, piece, channel, sum_bias, exists, form)
            if sequences is None and grad_initial is not None:
                if first == 0:
                    store_states(grad_initial, batch, channel, conjugate(adjoint), exists, form)
