"""The Triton kernels of the causal convolution; `gpu.py` says how they go about it."""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005
# What is compiled has types that only Triton knows, and Triton does not unpack tuples.

import triton
import triton.language as tl

from kernels.causal_conv1d.triton_rows import (
    add_to_sums,
    convolve,
    gradient_before,
    is_interior,
    load_filter,
    load_rows,
    load_window,
    position_of,
    rest,
    sequence_of,
    sigmoid,
    spread,
    zeros_like,
)


@triton.jit
def _forward_group(
    loaded, window, taps, offset, x, state, sequences, positions, y, group, rows, length, stride, channels,
    channel, exists, SILU: tl.constexpr, INTERIOR: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute and store a group of rows, and return the window of the row after them."""
    for i in tl.static_range(len(loaded)):
        row = group + i
        if not INTERIOR:
            position = position_of(positions, row, rows, length)
            if (position == 0) & (row < rows):
                sequence = sequence_of(sequences, row, length)
                window = load_window(
                    x, state, row, position, sequence, stride, channels, channel, exists, WIDTH
                )
        inputs = window + (loaded[i].to(tl.float32),)
        value = convolve(inputs, taps, offset)
        if SILU:
            value *= sigmoid(value)
        tl.store(y + row * channels + channel, value.to(y.dtype.element_ty), mask=exists & (row < rows))
        window = rest(inputs)
    return window


@triton.jit(do_not_specialize=["rows", "length", "rows_per_program"])
def forward_kernel(
    x, weight, bias, state, sequences, positions, y, rows, length, channels, rows_per_program, stride,
    SILU: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = channel < channels
    first = (tl.program_id(0) // blocks).to(tl.int64) * rows_per_program
    after = tl.minimum(first + rows_per_program, rows)
    taps, offset = load_filter(weight, bias, channel, exists, WIDTH)
    position = position_of(positions, first, rows, length)
    sequence = sequence_of(sequences, first, length)
    window = load_window(x, state, first, position, sequence, stride, channels, channel, exists, WIDTH)
    loaded = load_rows(x, first, after, stride, channel, exists, GROUP)
    for group in range(first, after, GROUP):
        following = load_rows(x, group + GROUP, after, stride, channel, exists, GROUP)
        if is_interior(positions, group, position, rows, length, GROUP, WIDTH):
            window = _forward_group(
                loaded, window, taps, offset, x, state, sequences, positions, y, group, rows, length, stride,
                channels, channel, exists, SILU, True, WIDTH,
            )  # fmt: skip
            position += GROUP
        else:
            window = _forward_group(
                loaded, window, taps, offset, x, state, sequences, positions, y, group, rows, length, stride,
                channels, channel, exists, SILU, False, WIDTH,
            )  # fmt: skip
            position = position_of(positions, group + GROUP, rows, length)
        loaded = following


@triton.jit
def _backward_group(
    loaded, grads, window, pending, sums, taps, offset, x, state, sequences, positions, dx, group, first,
    rows, length, stride, channels, channel, exists,
    SILU: tl.constexpr, INTERIOR: tl.constexpr, SUM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Take a group of rows into the gradients; return window, pending gradients and sums after it."""
    for i in tl.static_range(len(loaded)):
        row = group + i
        position = row
        if not INTERIOR:
            position = position_of(positions, row, rows, length)
            if (position == 0) & (row < rows):
                sequence = sequence_of(sequences, row, length)
                window = load_window(
                    x, state, row, position, sequence, stride, channels, channel, exists, WIDTH
                )
        inputs = window + (loaded[i].to(tl.float32),)
        grad = gradient_before(grads[i].to(tl.float32), inputs, taps, offset, SILU)
        if SUM:
            sums = add_to_sums(sums, grad, inputs)
        gradients = spread(pending, grad, taps, position, INTERIOR)
        done = row - (WIDTH - 1)
        mask = exists & (done >= first) & (done < rows)
        tl.store(dx + done * channels + channel, gradients[0].to(dx.dtype.element_ty), mask=mask)
        window = rest(inputs)
        pending = rest(gradients)
    return window, pending, sums


@triton.jit(do_not_specialize=["rows", "length", "rows_per_program"])
def backward_kernel(
    grad_y, x, weight, bias, state, sequences, positions, dx, partials,
    rows, length, channels, rows_per_program, grad_stride, stride,
    SILU: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = channel < channels
    block = (tl.program_id(0) // blocks).to(tl.int64)
    first = block * rows_per_program
    after = first + rows_per_program
    taps, offset = load_filter(weight, bias, channel, exists, WIDTH)
    position = position_of(positions, first, rows, length)
    sequence = sequence_of(sequences, first, length)
    window = load_window(x, state, first, position, sequence, stride, channels, channel, exists, WIDTH)
    pending = zeros_like(offset, WIDTH - 1)
    sums = zeros_like(offset, WIDTH + 1)
    loaded = load_rows(x, first, rows, stride, channel, exists, GROUP)
    grads = load_rows(grad_y, first, rows, grad_stride, channel, exists, GROUP)
    for group in range(first, after, GROUP):
        loaded_next = load_rows(x, group + GROUP, rows, stride, channel, exists, GROUP)
        grads_next = load_rows(grad_y, group + GROUP, rows, grad_stride, channel, exists, GROUP)
        if is_interior(positions, group, position, rows, length, GROUP, WIDTH):
            window, pending, sums = _backward_group(
                loaded, grads, window, pending, sums, taps, offset, x, state, sequences, positions, dx, group,
                first, rows, length, stride, channels, channel, exists, SILU, True, True, WIDTH,
            )  # fmt: skip
            position += GROUP
        else:
            window, pending, sums = _backward_group(
                loaded, grads, window, pending, sums, taps, offset, x, state, sequences, positions, dx, group,
                first, rows, length, stride, channels, channel, exists, SILU, False, True, WIDTH,
            )  # fmt: skip
            position = position_of(positions, group + GROUP, rows, length)
        loaded, grads = loaded_next, grads_next
    for k in tl.static_range(WIDTH + 1):
        tl.store(partials + (block * (WIDTH + 1) + k) * channels + channel, sums[k], mask=exists)
    # The rows that follow belong to the next program; here they complete the gradients of the last K - 1.
    loaded = load_rows(x, after, rows, stride, channel, exists, WIDTH - 1)
    grads = load_rows(grad_y, after, rows, grad_stride, channel, exists, WIDTH - 1)
    _backward_group(
        loaded, grads, window, pending, sums, taps, offset, x, state, sequences, positions, dx, after, first,
        rows, length, stride, channels, channel, exists, SILU, False, False, WIDTH,
    )  # fmt: skip


@triton.jit
def _bounds(cu_seqlens, sequence, length):
    """Return the first row of a sequence and the one after its last."""
    if cu_seqlens is None:
        start = sequence * length
        end = start + length
    else:
        start = tl.load(cu_seqlens + sequence).to(tl.int64)
        end = tl.load(cu_seqlens + sequence + 1).to(tl.int64)
    return start, end


@triton.jit(do_not_specialize=["length"])
def final_state_kernel(
    x, state, cu_seqlens, final_state, length, channels, stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = channel < channels
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    start, end = _bounds(cu_seqlens, sequence, length)
    window = load_window(x, state, end, end - start, sequence, stride, channels, channel, exists, WIDTH)
    for k in tl.static_range(WIDTH - 1):
        target = final_state + (sequence * (WIDTH - 1) + k) * channels + channel
        tl.store(target, window[k].to(final_state.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["length"])
def state_backward_kernel(
    grad_y, grad_final, x, weight, bias, state, cu_seqlens, dx, dstate, length, channels, grad_stride, stride,
    SILU: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of a sequence's initial state, and add that of its final state to dx."""
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = channel < channels
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    start, end = _bounds(cu_seqlens, sequence, length)
    if dstate is not None:
        taps, offset = load_filter(weight, bias, channel, exists, WIDTH)
        window = load_window(x, state, start, 0, sequence, stride, channels, channel, exists, WIDTH)
        pending = zeros_like(offset, WIDTH - 1)
        loaded = load_rows(x, start, end, stride, channel, exists, WIDTH - 1)
        grads = load_rows(grad_y, start, end, grad_stride, channel, exists, WIDTH - 1)
        for i in tl.static_range(WIDTH - 1):
            inputs = window + (loaded[i].to(tl.float32),)
            grad = gradient_before(grads[i].to(tl.float32), inputs, taps, offset, SILU)
            gradients = spread(pending, grad, taps, 0, True)
            gradient = gradients[0]
            if grad_final is not None:
                survivor = i - (end - start)  # where a sequence shorter than the filter leaves this position
                source = grad_final + (sequence * (WIDTH - 1) + survivor) * channels + channel
                gradient += tl.load(source, mask=exists & (survivor >= 0), other=0.0).to(tl.float32)
            target = dstate + (sequence * (WIDTH - 1) + i) * channels + channel
            tl.store(target, gradient.to(dstate.dtype.element_ty), mask=exists)
            window = rest(inputs)
            pending = rest(gradients)
    if grad_final is not None:
        for k in tl.static_range(WIDTH - 1):
            row = end - (WIDTH - 1) + k
            mask = exists & (row >= start)
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
    blocks = tl.cdiv(channels, BLOCK)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = channel < channels
    row = (tl.program_id(0) // blocks).to(tl.int64)
    taps, offset = load_filter(weight, bias, channel, exists, WIDTH)
    present = tl.load(x + row * stride + channel, mask=exists, other=0.0).to(tl.float32)
    past = state + row * (WIDTH - 1) * channels + channel
    window = ()
    for k in tl.static_range(WIDTH - 1):
        window = window + (tl.load(past + k * channels, mask=exists, other=0.0).to(tl.float32),)
    inputs = window + (present,)
    value = convolve(inputs, taps, offset)
    if SILU:
        value *= sigmoid(value)
    tl.store(y + row * channels + channel, value.to(y.dtype.element_ty), mask=exists)
    window = rest(inputs)
    for k in tl.static_range(WIDTH - 1):
        tl.store(past + k * channels, window[k].to(state.dtype.element_ty), mask=exists)
