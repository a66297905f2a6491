"""The compiled single position of the selective scan on the CPU: a vector holds the states of one channel."""

# mypy: allow-untyped-defs
# What is compiled has types that only numba knows.

import numpy as np
from numba import njit

from kernels.simd import (
    LANES,
    exponential,
    load_adjacent_states,
    load_some,
    multiply_add,
    read,
    real,
    sigmoid,
    softplus,
    splat,
    store,
    store_adjacent_states,
    store_some,
    total,
    write,
)


@njit(nogil=True, cache=True, error_model="numpy")
def step(first_row, last_row, sizes, inputs, y, kind):
    """Advance the states of rows of the batch by one position.

    `sizes` and `inputs` are as in a scan, but for `initial_state`, which is (batch, channels, N, parts) and
    written too, and for A and constant B and C, which are (channels, N, parts).
    """
    scratch = np.empty(3 * LANES, np.float32)
    for row in range(first_row, last_row):
        for channel in range(0, sizes.channels, LANES):
            _advance(row, channel, scratch.ctypes.data, sizes, inputs, y, kind)
    return scratch.size


@njit(error_model="numpy")
def _advance(row, channel, scratch, sizes, inputs, y, kind):
    """Advance up to LANES channels."""
    count = min(LANES, sizes.channels - channel)
    first = row * sizes.channels + channel
    x = load_some(inputs.x, first, count)
    dt = load_some(inputs.dt, first, count)
    if inputs.dt_bias != 0:
        dt = dt + load_some(inputs.dt_bias, channel, count)
    if sizes.dt_softplus:
        dt = softplus(dt)
    store(scratch, 0, dt)
    store(scratch, LANES, dt * x)
    for lane in range(count):
        value = _advance_channel(
            row,
            channel + lane,
            splat(read(scratch, lane)),
            splat(read(scratch, LANES + lane)),
            sizes,
            inputs,
            kind,
        )
        write(scratch, 2 * LANES + lane, value)
    value = load_some(scratch, 2 * LANES, count) * np.float32(sizes.parts)
    if inputs.D != 0:
        value = value + load_some(inputs.D, channel, count) * x
    if inputs.z != 0:
        z = load_some(inputs.z, first, count)
        value = value * (z * sigmoid(z))
    store_some(y, first, value, count)


@njit(error_model="numpy")
def _advance_channel(row, channel, dt, dt_x, sizes, inputs, kind):
    """Advance the states of one channel, and return Re(C h)."""
    group = row * sizes.groups + channel // (sizes.channels // sizes.groups)
    at_B = channel if sizes.constant_B else group
    at_C = channel if sizes.constant_C else group
    sums = splat(0.0)
    for n in range(0, sizes.states, LANES):
        count = min(LANES, sizes.states - n)
        at = ((row * sizes.channels + channel) * sizes.states + n) * sizes.parts
        A = load_adjacent_states(inputs.A, (channel * sizes.states + n) * sizes.parts, count, kind)
        B = load_adjacent_states(inputs.B, (at_B * sizes.states + n) * sizes.parts, count, kind)
        C = load_adjacent_states(inputs.C, (at_C * sizes.states + n) * sizes.parts, count, kind)
        h = load_adjacent_states(inputs.initial_state, at, count, kind)
        h = multiply_add(exponential(A, dt), h, B * dt_x)
        store_adjacent_states(inputs.initial_state, at, h, count)
        sums = sums + real(C * h)
    return total(sums)
