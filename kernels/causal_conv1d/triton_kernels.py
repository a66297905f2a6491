"""Triton kernels of the causal convolution.

A program is one warp. It owns a block of channels and walks down consecutive rows of (batch x length). The
K - 1 rows before the current row (the window, oldest first) stay in registers, so a program reads each row
once. In the backward pass the gradients of the last K - 1 rows also stay in registers until they are
complete. At the start of a sequence its initial state replaces the window, so batches, packed sequences and
sequences shorter than the filter are one case. A program loads the next group of rows before it computes the
current group. A group inside one sequence takes a path without tests of the sequence boundary.

Common arguments:
    row: index into (batch x length).
    position: index of the row within its sequence.
    channel, in_range: the channels of the program, and the mask of those below the number of channels.
    stride: distance between rows of x.
    positions, sequences: position and sequence of every row if sequences are packed, else None.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005
# Only Triton knows the types in compiled code, and Triton does not unpack tuples.

import triton
import triton.language as tl


@triton.jit
def load_filter(weight, bias, channel, in_range, WIDTH: tl.constexpr):
    """Return the K taps, oldest row first, and the bias of each channel."""
    SIZE: tl.constexpr = triton.next_power_of_2(WIDTH)
    tap = tl.arange(0, SIZE)
    mask = in_range[:, None] & (tap < WIDTH)[None, :]
    tile = tl.load(weight + channel[:, None] * WIDTH + tap[None, :], mask=mask, other=0.0).to(tl.float32)
    taps = ()
    for k in tl.static_range(WIDTH):
        taps = taps + (tl.sum(tl.where((tap == k)[None, :], tile, 0.0), axis=1),)
    if bias is None:
        offset = tl.zeros_like(taps[0])
    else:
        offset = tl.load(bias + channel, mask=in_range, other=0.0).to(tl.float32)
    return taps, offset


@triton.jit
def position_of(positions, row, rows, length):
    """Return the position of a row in its sequence; any number past the last row."""
    return row % length if positions is None else tl.load(positions + row, mask=row < rows, other=0)


@triton.jit
def sequence_of(sequences, row, length):
    """Return the sequence of a row."""
    return row // length if sequences is None else tl.load(sequences + row)


@triton.jit
def is_interior(positions, group, position, rows, length, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """Return whether all rows of a group and all their windows lie in one sequence."""
    if positions is None:
        interior = (position >= WIDTH - 1) & (position + GROUP <= length)
    else:
        last = position_of(positions, group + GROUP - 1, rows, length)
        interior = (position >= WIDTH - 1) & (last == position + GROUP - 1)
    return interior


@triton.jit
def load_window(
    x, state, row, position, sequence, stride, channels, channel, in_range,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Load the K - 1 positions before a row, from x or from the initial state of the sequence."""
    window = ()
    for k in tl.static_range(WIDTH - 1):
        lag = WIDTH - 1 - k
        source = x + (row - lag) * stride + channel
        value = tl.load(source, mask=in_range & (position >= lag), other=0.0).to(tl.float32)
        if state is not None:
            past = state + (sequence * (WIDTH - 1) + k + position) * channels + channel
            value += tl.load(past, mask=in_range & (position < lag), other=0.0).to(tl.float32)
        window = window + (value,)
    return window


@triton.jit
def load_rows(x, row, end, stride, channel, in_range, ROWS: tl.constexpr):
    """Load the next rows of x; rows from `end` on are zero."""
    values = ()
    for i in tl.static_range(ROWS):
        values = values + (
            tl.load(x + (row + i) * stride + channel, mask=in_range & (row + i < end), other=0.0),
        )
    return values


@triton.jit
def drop_first(values):
    """Return a tuple without its first element."""
    others = ()
    for i in tl.static_range(1, len(values)):
        others = others + (values[i],)
    return others


@triton.jit
def zeros_like(like, COUNT: tl.constexpr):
    """Return a tuple of COUNT zero tensors shaped as `like`."""
    zeros = ()
    for _ in tl.static_range(COUNT):
        zeros = zeros + (tl.zeros_like(like),)
    return zeros


@triton.jit
def sigmoid(value):
    """Return 1 / (1 + exp(-value)); a squared reciprocal root is cheaper than a division."""
    root = tl.rsqrt(1 + tl.exp(-value))
    return root * root


@triton.jit
def convolve(inputs, taps, offset):
    """Return the output of a row before its activation."""
    value = offset
    for k in tl.static_range(len(taps)):
        value += taps[k] * inputs[k]
    return value


@triton.jit
def gradient_before(grad, inputs, taps, offset, SILU: tl.constexpr):
    """Return the gradient before the activation, from the gradient after it."""
    if SILU:
        value = convolve(inputs, taps, offset)
        gate = sigmoid(value)
        grad = grad * gate * (1 + value * (1 - gate))
    return grad


@triton.jit
def add_to_rows(pending, grad, taps, position, INTERIOR: tl.constexpr):
    """Add the terms of one row to the gradients of itself and of the K - 1 rows before it in its sequence."""
    gradients = pending + (tl.zeros_like(grad),)
    updates = ()
    for k in tl.static_range(len(taps)):
        term = taps[k] * grad
        if not INTERIOR:
            term = tl.where(position >= len(taps) - 1 - k, term, 0.0)
        updates = updates + (gradients[k] + term,)
    return updates


@triton.jit
def add_to_sums(sums, grad, inputs):
    """Add the terms of one row to the gradients of the K taps and of the bias, which is last."""
    new_sums = ()
    for k in tl.static_range(len(inputs)):
        new_sums = new_sums + (sums[k] + grad * inputs[k],)
    return new_sums + (sums[len(inputs)] + grad,)


@triton.jit
def sequence_bounds(cu_seqlens, sequence, length):
    """Return the first row of a sequence and the row after its last."""
    if cu_seqlens is None:
        start = sequence * length
        end = start + length
    else:
        start = tl.load(cu_seqlens + sequence).to(tl.int64)
        end = tl.load(cu_seqlens + sequence + 1).to(tl.int64)
    return start, end


@triton.jit
def _forward_group(
    x_rows, window, taps, offset, x, state, sequences, positions, y, group, rows, length, stride, channels,
    channel, in_range, SILU: tl.constexpr, INTERIOR: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute and store a group of rows; return the window of the next row."""
    for i in tl.static_range(len(x_rows)):
        row = group + i
        if not INTERIOR:
            position = position_of(positions, row, rows, length)
            if (position == 0) & (row < rows):
                sequence = sequence_of(sequences, row, length)
                window = load_window(
                    x, state, row, position, sequence, stride, channels, channel, in_range, WIDTH
                )
        inputs = window + (x_rows[i].to(tl.float32),)
        value = convolve(inputs, taps, offset)
        if SILU:
            value *= sigmoid(value)
        tl.store(y + row * channels + channel, value.to(y.dtype.element_ty), mask=in_range & (row < rows))
        window = drop_first(inputs)
    return window


@triton.jit(do_not_specialize=["rows", "length", "rows_per_program"])
def forward_kernel(
    x, weight, bias, state, sequences, positions, y, rows, length, channels, rows_per_program, stride,
    SILU: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Convolve the rows of one program."""
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    in_range = channel < channels
    first = (tl.program_id(0) // blocks).to(tl.int64) * rows_per_program
    end = tl.minimum(first + rows_per_program, rows)
    taps, offset = load_filter(weight, bias, channel, in_range, WIDTH)
    position = position_of(positions, first, rows, length)
    sequence = sequence_of(sequences, first, length)
    window = load_window(x, state, first, position, sequence, stride, channels, channel, in_range, WIDTH)
    x_rows = load_rows(x, first, end, stride, channel, in_range, GROUP)
    for group in range(first, end, GROUP):
        next_x_rows = load_rows(x, group + GROUP, end, stride, channel, in_range, GROUP)
        if is_interior(positions, group, position, rows, length, GROUP, WIDTH):
            window = _forward_group(
                x_rows, window, taps, offset, x, state, sequences, positions, y, group, rows, length, stride,
                channels, channel, in_range, SILU, True, WIDTH,
            )  # fmt: skip
            position += GROUP
        else:
            window = _forward_group(
                x_rows, window, taps, offset, x, state, sequences, positions, y, group, rows, length, stride,
                channels, channel, in_range, SILU, False, WIDTH,
            )  # fmt: skip
            position = position_of(positions, group + GROUP, rows, length)
        x_rows = next_x_rows


@triton.jit
def _backward_group(
    x_rows, grad_rows, window, pending, sums, taps, offset, x, state, sequences, positions, dx, group, first,
    rows, length, stride, channels, channel, in_range,
    SILU: tl.constexpr, INTERIOR: tl.constexpr, SUM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Add a group of rows to the gradients; return the next window, pending gradients and sums."""
    for i in tl.static_range(len(x_rows)):
        row = group + i
        position = row
        if not INTERIOR:
            position = position_of(positions, row, rows, length)
            if (position == 0) & (row < rows):
                sequence = sequence_of(sequences, row, length)
                window = load_window(
                    x, state, row, position, sequence, stride, channels, channel, in_range, WIDTH
                )
        inputs = window + (x_rows[i].to(tl.float32),)
        grad = gradient_before(grad_rows[i].to(tl.float32), inputs, taps, offset, SILU)
        if SUM:
            sums = add_to_sums(sums, grad, inputs)
        gradients = add_to_rows(pending, grad, taps, position, INTERIOR)
        oldest = row - (WIDTH - 1)
        mask = in_range & (oldest >= first) & (oldest < rows)
        tl.store(dx + oldest * channels + channel, gradients[0].to(dx.dtype.element_ty), mask=mask)
        window = drop_first(inputs)
        pending = drop_first(gradients)
    return window, pending, sums


@triton.jit(do_not_specialize=["rows", "length", "rows_per_program"])
def backward_kernel(
    grad_y, x, weight, bias, state, sequences, positions, dx, partials,
    rows, length, channels, rows_per_program, grad_stride, stride,
    SILU: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute dx of the rows of one program, and its sums for the gradients of weight and bias."""
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    in_range = channel < channels
    block = (tl.program_id(0) // blocks).to(tl.int64)
    first = block * rows_per_program
    end = first + rows_per_program
    taps, offset = load_filter(weight, bias, channel, in_range, WIDTH)
    position = position_of(positions, first, rows, length)
    sequence = sequence_of(sequences, first, length)
    window = load_window(x, state, first, position, sequence, stride, channels, channel, in_range, WIDTH)
    pending = zeros_like(offset, WIDTH - 1)
    sums = zeros_like(offset, WIDTH + 1)
    x_rows = load_rows(x, first, rows, stride, channel, in_range, GROUP)
    grad_rows = load_rows(grad_y, first, rows, grad_stride, channel, in_range, GROUP)
    for group in range(first, end, GROUP):
        next_x_rows = load_rows(x, group + GROUP, rows, stride, channel, in_range, GROUP)
        next_grad_rows = load_rows(grad_y, group + GROUP, rows, grad_stride, channel, in_range, GROUP)
        if is_interior(positions, group, position, rows, length, GROUP, WIDTH):
            window, pending, sums = _backward_group(
                x_rows, grad_rows, window, pending, sums, taps, offset, x, state, sequences, positions, dx,
                group, first, rows, length, stride, channels, channel, in_range, SILU, True, True, WIDTH,
            )  # fmt: skip
            position += GROUP
        else:
            window, pending, sums = _backward_group(
                x_rows, grad_rows, window, pending, sums, taps, offset, x, state, sequences, positions, dx,
                group, first, rows, length, stride, channels, channel, in_range, SILU, False, True, WIDTH,
            )  # fmt: skip
            position = position_of(positions, group + GROUP, rows, length)
        x_rows, grad_rows = next_x_rows, next_grad_rows
    for k in tl.static_range(WIDTH + 1):
        tl.store(partials + (block * (WIDTH + 1) + k) * channels + channel, sums[k], mask=in_range)
    # The next rows belong to the next program; here they complete the gradients of the last K - 1 rows.
    x_rows = load_rows(x, end, rows, stride, channel, in_range, WIDTH - 1)
    grad_rows = load_rows(grad_y, end, rows, grad_stride, channel, in_range, WIDTH - 1)
    _backward_group(
        x_rows, grad_rows, window, pending, sums, taps, offset, x, state, sequences, positions, dx, end,
        first, rows, length, stride, channels, channel, in_range, SILU, False, False, WIDTH,
    )  # fmt: skip


@triton.jit(do_not_specialize=["length"])
def final_state_kernel(
    x, state, cu_seqlens, final_state, length, channels, stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the last K - 1 positions of one sequence."""
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    in_range = channel < channels
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    start, end = sequence_bounds(cu_seqlens, sequence, length)
    window = load_window(x, state, end, end - start, sequence, stride, channels, channel, in_range, WIDTH)
    for k in tl.static_range(WIDTH - 1):
        target = final_state + (sequence * (WIDTH - 1) + k) * channels + channel
        tl.store(target, window[k].to(final_state.dtype.element_ty), mask=in_range)


@triton.jit(do_not_specialize=["length"])
def state_backward_kernel(
    grad_y, grad_final, x, weight, bias, state, cu_seqlens, dx, dstate, length, channels, grad_stride, stride,
    SILU: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of the initial state of a sequence, and add that of its final state to dx."""
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    in_range = channel < channels
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    start, end = sequence_bounds(cu_seqlens, sequence, length)
    if dstate is not None:
        taps, offset = load_filter(weight, bias, channel, in_range, WIDTH)
        window = load_window(x, state, start, 0, sequence, stride, channels, channel, in_range, WIDTH)
        pending = zeros_like(offset, WIDTH - 1)
        x_rows = load_rows(x, start, end, stride, channel, in_range, WIDTH - 1)
        grad_rows = load_rows(grad_y, start, end, grad_stride, channel, in_range, WIDTH - 1)
        for i in tl.static_range(WIDTH - 1):
            inputs = window + (x_rows[i].to(tl.float32),)
            grad = gradient_before(grad_rows[i].to(tl.float32), inputs, taps, offset, SILU)
            gradients = add_to_rows(pending, grad, taps, 0, True)
            gradient = gradients[0]
            if grad_final is not None:
                place = i - (end - start)  # the place of this position in the final state
                source = grad_final + (sequence * (WIDTH - 1) + place) * channels + channel
                gradient += tl.load(source, mask=in_range & (place >= 0), other=0.0).to(tl.float32)
            target = dstate + (sequence * (WIDTH - 1) + i) * channels + channel
            tl.store(target, gradient.to(dstate.dtype.element_ty), mask=in_range)
            window = drop_first(inputs)
            pending = drop_first(gradients)
    if grad_final is not None:
        for k in tl.static_range(WIDTH - 1):
            row = end - (WIDTH - 1) + k
            mask = in_range & (row >= start)
            target = dx + row * channels + channel
            source = grad_final + (sequence * (WIDTH - 1) + k) * channels + channel
            gradient = tl.load(target, mask=mask, other=0.0).to(tl.float32) + tl.load(
                source, mask=mask, other=0.0
            )
            tl.store(target, gradient.to(dx.dtype.element_ty), mask=mask)


@triton.jit
def step_kernel(
    state, x, weight, bias, y, channels, stride,
    SILU: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Convolve one position of one row of the batch, and advance its state in place."""
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    in_range = channel < channels
    row = (tl.program_id(0) // blocks).to(tl.int64)
    taps, offset = load_filter(weight, bias, channel, in_range, WIDTH)
    current = tl.load(x + row * stride + channel, mask=in_range, other=0.0).to(tl.float32)
    past = state + row * (WIDTH - 1) * channels + channel
    window = ()
    for k in tl.static_range(WIDTH - 1):
        window = window + (tl.load(past + k * channels, mask=in_range, other=0.0).to(tl.float32),)
    inputs = window + (current,)
    value = convolve(inputs, taps, offset)
    if SILU:
        value *= sigmoid(value)
    tl.store(y + row * channels + channel, value.to(y.dtype.element_ty), mask=in_range)
    window = drop_first(inputs)
    for k in tl.static_range(WIDTH - 1):
        tl.store(past + k * channels, window[k].to(state.dtype.element_ty), mask=in_range)
