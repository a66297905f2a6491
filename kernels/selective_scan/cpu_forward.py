"""The compiled forward of the selective scan on the CPU."""

# mypy: allow-untyped-defs
# What is compiled has types that only numba knows.

import numpy as np
from numba import njit

from kernels.selective_scan.cpu_run import (
    BLOCK,
    CHUNK,
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
    states_index,
    varying_index,
)
from kernels.simd import (
    LANES,
    exponential,
    fill_states,
    load,
    load_states,
    multiply_add,
    real,
    sigmoid,
    spread_state,
    store,
    store_states,
)


@njit(nogil=True, cache=True, error_model="numpy")
def forward(first_task, last_task, sizes, inputs, segments, y, final_state, kind):
    """Write y, the checkpoints and the final states of tasks. `segments` has rows (start, end, sequence)."""
    memory, scratch = new_scratch(sizes)
    for number in range(first_task, last_task):
        _walk(make_task(number, scratch, sizes), sizes, inputs, segments, y, final_state, kind)
    return memory.size


@njit(error_model="numpy")
def _walk(task, sizes, inputs, segments, y, final_state, kind):
    segment = 0
    start = 0
    while start < sizes.length:
        sequence = states_index(task.row + segments[segment, 2], task, sizes)
        if start == segments[segment, 0]:
            copy_states(
                inputs.initial_state, sequence, sizes.channels, task.scratch, STATES, BLOCK, task, sizes
            )
        if start % CHUNK == 0:
            checkpoint = checkpoint_index(start, task, sizes)
            copy_states(
                task.scratch, STATES, BLOCK, inputs.checkpoints, checkpoint, sizes.channels, task, sizes
            )
        end = min(start - start % CHUNK + CHUNK, segments[segment, 1])
        run = make_run(start, end, task, sizes)
        discretise(run, task, sizes, inputs)
        clear(Y, task.vectors, run, task)
        for n in range(sizes.states):
            for vector in range(task.vectors):
                _scan(n, vector, run, task, sizes, inputs, kind)
        _gate(y, run, task, sizes, inputs)
        if end == segments[segment, 1]:
            copy_states(task.scratch, STATES, BLOCK, final_state, sequence, sizes.channels, task, sizes)
            segment += 1
        start = end


@njit(error_model="numpy")
def _scan(n, vector, run, task, sizes, inputs, kind):
    """Carry one vector of states over a run, adding Re(C h) to Y."""
    scratch = task.scratch
    constant = n * sizes.parts * sizes.channels + task.channel + vector * LANES
    varying, advance = varying_index(n, run, task, sizes)
    held = STATES + n * sizes.parts * BLOCK + vector * LANES
    A = load_states(inputs.A, constant, sizes.channels, kind)
    B = C = fill_states(0.0, kind)
    if sizes.constant_B:
        B = load_states(inputs.B, constant, sizes.channels, kind)
    if sizes.constant_C:
        C = load_states(inputs.C, constant, sizes.channels, kind)
    h = load_states(scratch, held, BLOCK, kind)
    for k in range(run.length):
        at = (vector * CHUNK + k) * LANES
        if not sizes.constant_B:
            B = spread_state(inputs.B, varying + k * advance, kind)
        if not sizes.constant_C:
            C = spread_state(inputs.C, varying + k * advance, kind)
        h = multiply_add(exponential(A, load(scratch, DT + at)), h, B * load(scratch, DT_X + at))
        store(scratch, Y + at, load(scratch, Y + at) + real(C * h))
    store_states(scratch, held, BLOCK, h)


@njit(error_model="numpy")
def _gate(y, run, task, sizes, inputs):
    """Write y = (sum C h + D x) silu(z); complex states count twice, for their conjugates."""
    for vector in range(task.vectors):
        channel = task.channel + vector * LANES
        D = load_or_zero(inputs.D, channel)
        for k in range(run.length):
            index = (run.first + run.step * k) * sizes.channels + channel
            states = load(task.scratch, Y + (vector * CHUNK + k) * LANES)
            value = states * np.float32(sizes.parts) + D * load(inputs.x, index)
            if inputs.z != 0:
                z = load(inputs.z, index)
                value = value * (z * sigmoid(z))
            store(y, index, value)
