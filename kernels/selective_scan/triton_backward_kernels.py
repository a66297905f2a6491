"""The walk that makes the gradients of the selective scan, in Triton.

A program walks its span backwards, a chunk at a time. From the chunk's checkpoint it first walks forwards and
keeps the states that enter each block of a few positions; then, block by block from the last, it walks
forwards again with the block's states in registers, and backwards with the adjoints.

The gradients of B and C are sums over channels. A program takes several tiles of channels in turn and adds to
its own partial sums, so that these are few and need no atomics: the outcome is always the same to the bit.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005, SIM102
# What is compiled has types that only Triton knows; Triton does not unpack tuples, and types both branches.

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
def _load_rows(pointer, start, last, place, form: tl.constexpr):
    """Load the rows of a block of positions as they are stored, zero past the last."""
    block: tl.constexpr = form.block
    rows = ()
    for i in tl.static_range(block):
        rows = rows + (load_row(pointer, row_of(start + i, place, form), place, start + i < last, form),)
    return rows


@triton.jit
def _load_weight_rows(pointer, constant, start, last, place, form: tl.constexpr):
    """Load B or C of a block of positions as stored, zero past the last; or repeat the constant, if any."""
    block: tl.constexpr = form.block
    rows = ()
    for i in tl.static_range(block):
        if len(constant) > 0:
            rows = rows + (constant,)
        else:
            rows = rows + (
                load_weights(pointer, row_of(start + i, place, form), place, start + i < last, form),
            )
    return rows


@triton.jit
def _step(row, bias, mask, form: tl.constexpr):
    """Return dt with its bias, and the step that this makes: none, past the end."""
    biased = row.to(tl.float32) + bias
    step = softplus(biased) if form.softplus else biased
    return biased, tl.where(mask, step, 0.0)


@triton.jit
def _add_to_row(sums, row, values, begins, place, mask, form: tl.constexpr):
    """Add the conjugate of a tile's sum over channels to a row of (rows, groups, states), or begin it."""
    _, _, group, _, _ = place
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


@triton.jit
def _keep_states(
    states, scratch, x, dt, B, constant_b, a, bias, initial, sequences, begin, last, place, form: tl.constexpr
):
    """Walk a chunk forwards and keep the states that enter each of its blocks."""
    block: tl.constexpr = form.block
    for start in range(begin, tl.minimum(begin + form.chunk, last), form.block):
        values = _load_rows(x, start, last, place, form)
        steps = _load_rows(dt, start, last, place, form)
        bs = _load_weight_rows(B, constant_b, start, last, place, form)
        store_numbers(scratch, _kept_at((start - begin) // form.block, form), states, True, form)
        for i in tl.static_range(block):
            _, step = _step(steps[i], bias, start + i < last, form)
            states = enter(states, initial, sequences, start + i, 1, place, form)
            driven = scaled(step * values[i].to(tl.float32), spread(bs[i]))
            states = add(times(decay(step, a), states), driven)


@triton.jit(do_not_specialize=["length", "span", "spans", "splits", "items"])
def walk_back(
    grad_y, x, dt, A, B, C, D, z, dt_bias, initial, grad_final, sequences, checkpoints, entering,
    grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_dt_bias, grad_initial, scratch,
    length, span, spans, splits, items, form: tl.constexpr,
):  # fmt: skip
    """Take items in turn: a span of a batch, and of the tiles of a group every one in `splits`."""
    block_size: tl.constexpr = form.block
    program = tl.program_id(0).to(tl.int64)
    scratch += program * (form.chunk // form.block * form.parts * form.width * form.size)
    for item in range(program, items, tl.num_programs(0)):
        split = item % splits
        piece = item // (splits * form.groups)
        batch = piece // spans
        first = piece % spans * span
        last = tl.minimum(first + span, length)
        first_chunk = first // form.chunk
        chunks = tl.cdiv(last, form.chunk) - first_chunk
        partial = split * (items // (splits * form.groups * spans)) * length
        for tile in range(split, form.group_tiles, splits):
            begins = (tile == split).to(tl.int32)
            place = place_of(batch, length, item // splits % form.groups * form.group_tiles + tile, form)
            a = load_a(A, place, form)
            skip = load_parameter(D, place)
            bias = load_parameter(dt_bias, place)
            constant_b = load_states(B, 0, place, True, form) if form.constant_b else ()
            constant_c = load_states(C, 0, place, True, form) if form.constant_c else ()
            adjoint = zero_states(form)
            if entering is not None:
                adjoint = load_states(entering, piece, place, True, form)
            sum_a = zero_states(form)
            sum_b = zero_states(form)
            sum_c = zero_states(form)
            sum_skip = tl.zeros_like(skip)
            sum_bias = tl.zeros_like(bias)

            for chunk_from_end in range(0, chunks):
                chunk = first_chunk + chunks - 1 - chunk_from_end
                begin = chunk * form.chunk
                blocks = tl.cdiv(tl.minimum(form.chunk, last - begin), form.block)
                checkpoint = batch * tl.cdiv(length, form.chunk) + chunk
                states = load_states(checkpoints, checkpoint, place, True, form)
                _keep_states(
                    states, scratch, x, dt, B, constant_b, a, bias, initial, sequences, begin, last,
                    place, form,
                )  # fmt: skip
                tl.debug_barrier()  # A warp's lanes read what others of them wrote: states, and partial sums.

                for block_from_end in range(0, blocks):
                    block = blocks - 1 - block_from_end
                    start = begin + block * form.block
                    states = load_numbers(scratch, _kept_at(block, form), True, form)
                    values = _load_rows(x, start, last, place, form)
                    steps = _load_rows(dt, start, last, place, form)
                    grads_y = _load_rows(grad_y, start, last, place, form)
                    gates = () if z is None else _load_rows(z, start, last, place, form)
                    bs = _load_weight_rows(B, constant_b, start, last, place, form)
                    cs = _load_weight_rows(C, constant_c, start, last, place, form)
                    before = ()
                    grads = ()
                    for i in tl.static_range(block_size):
                        inside = start + i < last
                        row = row_of(start + i, place, form)
                        value = values[i].to(tl.float32)
                        grad = grads_y[i].to(tl.float32)
                        _, step = _step(steps[i], bias, inside, form)
                        states = enter(states, initial, sequences, start + i, 1, place, form)
                        before = before + (states,)
                        states = add(times(decay(step, a), states), scaled(step * value, spread(bs[i])))
                        if z is not None:
                            gate = gates[i].to(tl.float32)
                            open_gate = sigmoid(gate)
                            y = form.parts * contract(spread(cs[i]), states) + skip * value
                            grad_gate = grad * y * open_gate * (1 + gate * (1 - open_gate))
                            store_row(grad_z, row, grad_gate, place, inside, form)
                            grad *= gate * open_gate
                        grad_c = scaled(form.parts * grad, states)
                        if form.constant_c:
                            sum_c = add(sum_c, grad_c)
                        else:
                            _add_to_row(grad_C, partial + row, grad_c, begins, place, inside, form)
                        grads = grads + (grad,)

                    # Loaded again, for otherwise the compiler keeps every decay of the block in registers.
                    steps = _load_rows(dt, start, last, place, form)
                    for i in tl.static_range(block_size - 1, -1, -1):
                        inside = start + i < last
                        row = row_of(start + i, place, form)
                        value = values[i].to(tl.float32)
                        biased, step = _step(steps[i], bias, inside, form)
                        adjoint = enter(adjoint, grad_final, sequences, start + i, -1, place, form)
                        adjoint = add(adjoint, scaled(form.parts * grads[i], spread(cs[i])))
                        grad_product = contract(adjoint, spread(bs[i]))
                        grad_b = scaled(step * value, adjoint)
                        if form.constant_b:
                            sum_b = add(sum_b, grad_b)
                        else:
                            _add_to_row(grad_B, partial + row, grad_b, begins, place, inside, form)
                        adjoint = times(decay(step, a), adjoint)
                        grad_exponent = times(adjoint, before[i])
                        sum_a = add(sum_a, scaled(step, grad_exponent))
                        grad_step = grad_product * value + tl.sum(grad_exponent[0] * a[0], axis=1) * LN_2
                        if form.is_complex:
                            grad_step -= tl.sum(grad_exponent[1] * a[1], axis=1) * TURN
                        if form.softplus:
                            grad_step *= sigmoid(biased)
                        store_row(grad_x, row, grad_product * step + skip * grads[i], place, inside, form)
                        store_row(grad_dt, row, grad_step, place, inside, form)
                        sum_skip += grads[i] * value
                        sum_bias += tl.where(inside, grad_step, 0.0)
                        if sequences is not None and grad_initial is not None:
                            sequence, is_first = is_new(sequences, start + i, 1, place, form)
                            if is_first:
                                store_states(grad_initial, sequence, conjugate(adjoint), place, True, form)

            store_states(grad_A, piece, conjugate(sum_a), place, True, form)
            if form.constant_b:
                store_states(grad_B, piece, conjugate(sum_b), place, True, form)
            if form.constant_c:
                store_states(grad_C, piece, conjugate(sum_c), place, True, form)
            if D is not None:
                store_row(grad_D, piece, sum_skip, place, True, form)
            if dt_bias is not None:
                store_row(grad_dt_bias, piece, sum_bias, place, True, form)
            if sequences is None and grad_initial is not None:
                if first == 0:
                    store_states(grad_initial, batch, conjugate(adjoint), place, True, form)
