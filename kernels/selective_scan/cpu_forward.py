"""Compiled forward of the selective scan on the CPU: the whole scan, and a single step.

In the scan a vector holds one state of 16 channels; in the step it holds 16 states of one channel.
"""

# mypy: allow-untyped-defs
# Only numba knows the types of compiled functions.

import numpy as np
from numba import njit

from kernels.selective_scan.cpu_layout import BLOCK, CHUNK
from kernels.selective_scan.cpu_tasks import (
    DT,
    DT_X,
    STATES,
    Y,
    checkpoint_index,
    clear,
    copy_states,
    discretise,
    load_or_zero,
    make_run,
    make_task,
    new_scratch,
    next_state,
    states_index,
    varying_index,
)
from kernels.simd import (
    LANES,
    exponential,
    fill_states,
    load,
    load_adjacent_states,
    load_some,
    load_states,
    read,
    real,
    silu,
    softplus,
    splat,
    spread_state,
    store,
    store_adjacent_states,
    store_some,
    store_states,
    total,
    write,
)


@njit(nogil=True, cache=True, error_model="numpy")
def forward(first_task, last_task, sizes, inputs, sequences, y, final_state, kind):
    """Write y, the checkpoints and the final states of tasks. `sequences` has rows (start, end, index)."""
    memory, scratch = new_scratch(sizes)
    for task in range(first_task, last_task):
        _walk(make_task(task, scratch, sizes), sizes, inputs, sequences, y, final_state, kind)
    return memory.size


@njit(error_model="numpy")
def _walk(task, sizes, inputs, sequences, y, final_state, kind):
    """Walk a task through time, run by run."""
    current = 0
    start = 0
    while start < sizes.length:
        states_at = states_index(task.row + sequences[current, 2], task, sizes)
        if start == sequences[current, 0]:
            copy_states(
                inputs.initial_state, states_at, sizes.channels, task.scratch, STATES, BLOCK, task, sizes
            )
        if start % CHUNK == 0:
            checkpoint = checkpoint_index(start, task, sizes)
            copy_states(
                task.scratch, STATES, BLOCK, inputs.checkpoints, checkpoint, sizes.channels, task, sizes
            )
        end = min(start - start % CHUNK + CHUNK, sequences[current, 1])
        run = make_run(start, end, task, sizes)
        discretise(run, task, sizes, inputs)
        clear(Y, task.vectors, run, task)
        for n in range(sizes.states):
            for vector in range(task.vectors):
                _scan(n, vector, run, task, sizes, inputs, kind)
        _write_y(y, run, task, sizes, inputs)
        if end == sequences[current, 1]:
            copy_states(task.scratch, STATES, BLOCK, final_state, states_at, sizes.channels, task, sizes)
            current += 1
        start = end


@njit(error_model="numpy")
def _scan(n, vector, run, task, sizes, inputs, kind):
    """Carry one vector of states over a run, adding Re(C h) to Y."""
    scratch = task.scratch
    constant = n * sizes.parts * sizes.channels + task.channel + vector * LANES
    varying, stride = varying_index(n, run, task, sizes)
    slot = STATES + n * sizes.parts * BLOCK + vector * LANES
    A = load_states(inputs.A, constant, sizes.channels, kind)
    B = C = fill_states(0.0, kind)
    if sizes.constant_B:
        B = load_states(inputs.B, constant, sizes.channels, kind)
    if sizes.constant_C:
        C = load_states(inputs.C, constant, sizes.channels, kind)
    h = load_states(scratch, slot, BLOCK, kind)
    for k in range(run.length):
        at = (vector * CHUNK + k) * LANES
        if not sizes.constant_B:
            B = spread_state(inputs.B, varying + k * stride, kind)
        if not sizes.constant_C:
            C = spread_state(inputs.C, varying + k * stride, kind)
        h = next_state(exponential(A, load(scratch, DT + at)), h, load(scratch, DT_X + at), B)
        store(scratch, Y + at, load(scratch, Y + at) + real(C * h))
    store_states(scratch, slot, BLOCK, h)


@njit(error_model="numpy")
def _write_y(y, run, task, sizes, inputs):
    """Write y = (sum C h + D x) silu(z); complex states count twice, once for their conjugates."""
    for vector in range(task.vectors):
        channel = task.channel + vector * LANES
        D = load_or_zero(inputs.D, channel)
        for k in range(run.length):
            index = (run.first + run.step * k) * sizes.channels + channel
            states = load(task.scratch, Y + (vector * CHUNK + k) * LANES)
            value = states * np.float32(sizes.parts) + D * load(inputs.x, index)
            if inputs.z != 0:
                value = value * silu(load(inputs.z, index))
            store(y, index, value)


@njit(nogil=True, cache=True, error_model="numpy")
def step(first_row, last_row, sizes, inputs, y, kind):
    """Advance the states of rows of the batch by one position.

    `sizes` and `inputs` differ from those of a scan: A and constant B and C are (channels, N, parts), and
    `initial_state` (batch, channels, N, parts) is updated in place.
    """
    scratch = np.empty(3 * LANES, np.float32)
    for row in range(first_row, last_row):
        for channel in range(0, sizes.channels, LANES):
            _step_channels(row, channel, scratch.ctypes.data, sizes, inputs, y, kind)
    return scratch.size


@njit(error_model="numpy")
def _step_channels(row, channel, scratch, sizes, inputs, y, kind):
    """Advance up to LANES channels by one position and write their y."""
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
        value = _step_states(
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
        value = value * silu(load_some(inputs.z, first, count))
    store_some(y, first, value, count)


@njit(error_model="numpy")
def _step_states(row, channel, dt, dt_x, sizes, inputs, kind):
    """Advance the states of one channel and return Re(sum C h)."""
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
        h = next_state(exponential(A, dt), h, dt_x, B)
        store_adjacent_states(inputs.initial_state, at, h, count)
        sums = sums + real(C * h)
    return total(sums)
