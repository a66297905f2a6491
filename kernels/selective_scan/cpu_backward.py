"""Compiled backward of the selective scan on the CPU.

A task walks its runs in reverse. It recomputes the decays and states of a run from the checkpoint of the
chunk, or from the initial state of a sequence that begins inside the chunk.
"""

# mypy: allow-untyped-defs
# Only numba knows the types of compiled functions.

import numpy as np
from numba import njit

from kernels.selective_scan.cpu_layout import BLOCK, CHUNK
from kernels.selective_scan.cpu_tasks import (
    DECAY,
    DECAYED,
    DT,
    DT_X,
    GRAD_B,
    GRAD_C,
    GRAD_DT,
    GRAD_DT_X,
    GRAD_Y,
    PLANE,
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
    conjugate,
    exponential,
    fill_states,
    load,
    load_states,
    multiply_add,
    real,
    sigmoid,
    silu,
    splat,
    spread_state,
    store,
    store_states,
    write_total,
)


@njit(nogil=True, cache=True, error_model="numpy")
def backward(first_task, last_task, sizes, inputs, sequences, gradients, kind):
    """Write the gradients of tasks; add to those of A, D, dt_bias and constant B and C."""
    memory, scratch = new_scratch(sizes)
    for task in range(first_task, last_task):
        _walk(make_task(task, scratch, sizes), sizes, inputs, sequences, gradients, kind)
    return memory.size


@njit(error_model="numpy")
def _walk(task, sizes, inputs, sequences, gradients, kind):
    """Walk a task backwards through time, run by run."""
    current = len(sequences) - 1
    end = sizes.length
    while end > 0:
        start = max(end - 1 - (end - 1) % CHUNK, sequences[current, 0])
        states_at = states_index(task.row + sequences[current, 2], task, sizes)
        if end == sequences[current, 1]:
            final = gradients.grad_final_state
            copy_states(final, states_at, sizes.channels, task.scratch, STATES, BLOCK, task, sizes)
        entry, entry_index = inputs.initial_state, states_at
        if start % CHUNK == 0:
            entry, entry_index = inputs.checkpoints, checkpoint_index(start, task, sizes)
        run = make_run(start, end, task, sizes)
        discretise(run, task, sizes, inputs)
        _ungate(run, task, sizes, inputs, gradients)
        for quantity in (Y, GRAD_DT, GRAD_DT_X):
            clear(quantity, task.vectors, run, task)
        for n in range(sizes.states):
            clear(GRAD_B, sizes.parts, run, task)
            clear(GRAD_C, sizes.parts, run, task)
            for vector in range(task.vectors):
                _recompute(n, vector, entry, entry_index, run, task, sizes, inputs, kind)
                _scan_back(n, vector, run, task, sizes, inputs, gradients, kind)
            _sum_channels(n, run, task, sizes, gradients, kind)
        _finish(run, task, sizes, inputs, gradients)
        if start == sequences[current, 0]:
            initial = gradients.initial_state
            copy_states(task.scratch, STATES, BLOCK, initial, states_at, sizes.channels, task, sizes)
            current -= 1
        end = start


@njit(error_model="numpy")
def _ungate(run, task, sizes, inputs, gradients):
    """Fill GRAD_Y, the gradient of Re(sum C h), from the gradient of y."""
    for vector in range(task.vectors):
        channel = task.channel + vector * LANES
        for k in range(run.length):
            index = (run.first + run.step * k) * sizes.channels + channel
            grad_y = load(gradients.grad_y, index) * np.float32(sizes.parts)
            if inputs.z != 0:
                grad_y = grad_y * silu(load(inputs.z, index))
            store(task.scratch, GRAD_Y + (vector * CHUNK + k) * LANES, grad_y)


@njit(error_model="numpy")
def _recompute(n, vector, entry, entry_index, run, task, sizes, inputs, kind):
    """Fill DECAY and DECAYED of one vector of states; add to Y, which only the gradient of z needs."""
    scratch = task.scratch
    plane = n * sizes.parts * sizes.channels + vector * LANES
    constant = plane + task.channel
    varying, stride = varying_index(n, run, task, sizes)
    A = load_states(inputs.A, constant, sizes.channels, kind)
    B = C = h = fill_states(0.0, kind)
    if sizes.constant_B:
        B = load_states(inputs.B, constant, sizes.channels, kind)
    if sizes.constant_C:
        C = load_states(inputs.C, constant, sizes.channels, kind)
    if entry != 0:
        h = load_states(entry, entry_index + plane, sizes.channels, kind)
    for k in range(run.length):
        at = (vector * CHUNK + k) * LANES
        if not sizes.constant_B:
            B = spread_state(inputs.B, varying + k * stride, kind)
        decay = exponential(A, load(scratch, DT + at))
        store_states(scratch, DECAY + k * LANES, PLANE, decay)
        store_states(scratch, DECAYED + k * LANES, PLANE, decay * h)
        h = next_state(decay, h, load(scratch, DT_X + at), B)
        if inputs.z != 0:
            if not sizes.constant_C:
                C = spread_state(inputs.C, varying + k * stride, kind)
            store(scratch, Y + at, load(scratch, Y + at) + real(C * h))


@njit(error_model="numpy")
def _scan_back(n, vector, run, task, sizes, inputs, gradients, kind):
    """Walk back over a run with the gradient of one vector of states and add to all gradients it reaches."""
    scratch = task.scratch
    constant = n * sizes.parts * sizes.channels + task.channel + vector * LANES
    varying, stride = varying_index(n, run, task, sizes)
    slot = STATES + n * sizes.parts * BLOCK + vector * LANES
    A = load_states(inputs.A, constant, sizes.channels, kind)
    B = C = grad_A = grad_B = grad_C = fill_states(0.0, kind)
    if sizes.constant_B:
        B = load_states(inputs.B, constant, sizes.channels, kind)
    if sizes.constant_C:
        C = load_states(inputs.C, constant, sizes.channels, kind)
    grad_h = load_states(scratch, slot, BLOCK, kind)
    decay = fill_states(1.0, kind)
    for k in range(run.length - 1, -1, -1):
        at = (vector * CHUNK + k) * LANES
        if not sizes.constant_B:
            B = spread_state(inputs.B, varying + k * stride, kind)
            grad_B = load_states(scratch, GRAD_B + k * LANES, PLANE, kind)
        if not sizes.constant_C:
            C = spread_state(inputs.C, varying + k * stride, kind)
            grad_C = load_states(scratch, GRAD_C + k * LANES, PLANE, kind)
        grad_y, dt = load(scratch, GRAD_Y + at), load(scratch, DT + at)
        dt_x = load(scratch, DT_X + at)
        decayed = load_states(scratch, DECAYED + k * LANES, PLANE, kind)

        grad_h = multiply_add(conjugate(decay), grad_h, conjugate(C) * grad_y)
        grad_C = conjugate(B * dt_x + decayed) * grad_y + grad_C
        grad_B = grad_h * dt_x + grad_B
        grad_exponent = grad_h * conjugate(decayed)
        grad_A = grad_exponent * dt + grad_A
        store(scratch, GRAD_DT + at, load(scratch, GRAD_DT + at) + real(grad_exponent * conjugate(A)))
        store(scratch, GRAD_DT_X + at, load(scratch, GRAD_DT_X + at) + real(grad_h * conjugate(B)))
        decay = load_states(scratch, DECAY + k * LANES, PLANE, kind)
        if not sizes.constant_B:
            store_states(scratch, GRAD_B + k * LANES, PLANE, grad_B)
        if not sizes.constant_C:
            store_states(scratch, GRAD_C + k * LANES, PLANE, grad_C)
    store_states(scratch, slot, BLOCK, conjugate(decay) * grad_h)

    row_index = constant + task.row * sizes.states * sizes.parts * sizes.channels
    _add_states(gradients.A, row_index, sizes.channels, grad_A, kind)
    if sizes.constant_B:
        _add_states(gradients.B, row_index, sizes.channels, grad_B, kind)
    if sizes.constant_C:
        _add_states(gradients.C, row_index, sizes.channels, grad_C, kind)


@njit(error_model="numpy")
def _add_states(target, index, plane, value, kind):
    store_states(target, index, plane, load_states(target, index, plane, kind) + value)


@njit(error_model="numpy")
def _sum_channels(n, run, task, sizes, gradients, kind):
    """Write the gradients of varying B and C of one state, summed over the channels of the task."""
    varying, stride = varying_index(n, run, task, sizes)
    varying += task.block * sizes.rows * sizes.length * sizes.groups * sizes.states * sizes.parts
    for k in range(run.length):
        if not sizes.constant_B:
            grad_B = load_states(task.scratch, GRAD_B + k * LANES, PLANE, kind)
            write_total(gradients.B, varying + k * stride, grad_B)
        if not sizes.constant_C:
            grad_C = load_states(task.scratch, GRAD_C + k * LANES, PLANE, kind)
            write_total(gradients.C, varying + k * stride, grad_C)


@njit(error_model="numpy")
def _finish(run, task, sizes, inputs, gradients):
    """Write the gradients of x, dt and z over a run; add to those of D and dt_bias."""
    scratch = task.scratch
    for vector in range(task.vectors):
        channel = task.channel + vector * LANES
        bias, D = load_or_zero(inputs.dt_bias, channel), load_or_zero(inputs.D, channel)
        grad_D = grad_bias = splat(0.0)
        for k in range(run.length):
            index = (run.first + run.step * k) * sizes.channels + channel
            at = (vector * CHUNK + k) * LANES
            x = load(inputs.x, index)
            grad_y = load(scratch, GRAD_Y + at) * np.float32(1.0 / sizes.parts)
            grad_dt_x = load(scratch, GRAD_DT_X + at)
            grad_dt = load(scratch, GRAD_DT + at) + grad_dt_x * x
            if sizes.dt_softplus:
                grad_dt = grad_dt * sigmoid(load(inputs.dt, index) + bias)
            store(gradients.x, index, grad_dt_x * load(scratch, DT + at) + D * grad_y)
            store(gradients.dt, index, grad_dt)
            grad_bias = grad_bias + grad_dt
            grad_D = grad_D + grad_y * x
            if inputs.z != 0:
                z = load(inputs.z, index)
                gate = sigmoid(z)
                slope = gate * (1.0 + z * (1.0 - gate))
                value = load(scratch, Y + at) * np.float32(sizes.parts) + D * x
                store(gradients.z, index, load(gradients.grad_y, index) * value * slope)
        row_index = task.row * sizes.channels + channel
        store(gradients.D, row_index, load(gradients.D, row_index) + grad_D)
        store(gradients.dt_bias, row_index, load(gradients.dt_bias, row_index) + grad_bias)
