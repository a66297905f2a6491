"""The compiled backward of the selective scan on the CPU.

It meets the runs of a task in reverse, and recomputes the decays and states of each from the checkpoint of
its chunk, or from the initial state of a sequence that begins inside the chunk.
"""

# mypy: allow-untyped-defs
# What is compiled has types that only numba knows.

from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.selective_scan.cpu_run import (
    ALONG_A,
    ALONG_B,
    BLOCK,
    CHUNK,
    DECAY,
    DT,
    DT_X,
    GRAD_B,
    GRAD_C,
    GRAD_Y,
    PAST,
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
    splat,
    spread_state,
    store,
    store_states,
    write_total,
)


class Gradients(NamedTuple):
    """Addresses of what the backward reads (grad_*) and writes, 0 for what is absent.

    B and C are (blocks of a group, batch, length, groups, N, parts), or, where constant, as A: (batch, N,
    parts, channels). D and dt_bias are (batch, channels).
    """

    grad_y: int
    grad_final_state: int
    x: int
    dt: int
    A: int
    B: int
    C: int
    D: int
    z: int
    dt_bias: int
    initial_state: int


@njit(nogil=True, cache=True, error_model="numpy")
def backward(first_task, last_task, sizes, inputs, segments, gradients, kind):
    """Write the gradients of tasks, adding to those of A, D, dt_bias and constant B and C."""
    memory, scratch = new_scratch(sizes)
    for number in range(first_task, last_task):
        _walk(make_task(number, scratch, sizes), sizes, inputs, segments, gradients, kind)
    return memory.size


@njit(error_model="numpy")
def _walk(task, sizes, inputs, segments, gradients, kind):
    segment = len(segments) - 1
    end = sizes.length
    while end > 0:
        start = max(end - 1 - (end - 1) % CHUNK, segments[segment, 0])
        sequence = states_index(task.row + segments[segment, 2], task, sizes)
        if end == segments[segment, 1]:
            final = gradients.grad_final_state
            copy_states(final, sequence, sizes.channels, task.scratch, STATES, BLOCK, task, sizes)
        entry, entry_index = inputs.initial_state, sequence
        if start % CHUNK == 0:
            entry, entry_index = inputs.checkpoints, checkpoint_index(start, task, sizes)
        run = make_run(start, end, task, sizes)
        discretise(run, task, sizes, inputs)
        _ungate(run, task, sizes, inputs, gradients)
        for quantity in (Y, ALONG_A, ALONG_B):
            clear(quantity, task.vectors, run, task)
        for n in range(sizes.states):
            clear(GRAD_B, sizes.parts, run, task)
            clear(GRAD_C, sizes.parts, run, task)
            for vector in range(task.vectors):
                _recompute(n, vector, entry, entry_index, run, task, sizes, inputs, kind)
                _scan_back(n, vector, run, task, sizes, inputs, gradients, kind)
            _sum_channels(n, run, task, sizes, gradients, kind)
        _finish(run, task, sizes, inputs, gradients)
        if start == segments[segment, 0]:
            initial = gradients.initial_state
            copy_states(task.scratch, STATES, BLOCK, initial, sequence, sizes.channels, task, sizes)
            segment -= 1
        end = start


@njit(error_model="numpy")
def _ungate(run, task, sizes, inputs, gradients):
    """Fill GRAD_Y, the gradient of Re(sum C h)."""
    for vector in range(task.vectors):
        channel = task.channel + vector * LANES
        for k in range(run.length):
            index = (run.first + run.step * k) * sizes.channels + channel
            grad_y = load(gradients.grad_y, index) * np.float32(sizes.parts)
            if inputs.z != 0:
                z = load(inputs.z, index)
                grad_y = grad_y * (z * sigmoid(z))
            store(task.scratch, GRAD_Y + (vector * CHUNK + k) * LANES, grad_y)


@njit(error_model="numpy")
def _recompute(n, vector, entry, entry_index, run, task, sizes, inputs, kind):
    """Fill DECAY and PAST, the decayed state before each position, and add to Y where the gate needs it."""
    scratch = task.scratch
    plane = n * sizes.parts * sizes.channels + vector * LANES
    constant = plane + task.channel
    varying, advance = varying_index(n, run, task, sizes)
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
            B = spread_state(inputs.B, varying + k * advance, kind)
        decay = exponential(A, load(scratch, DT + at))
        store_states(scratch, DECAY + k * LANES, PLANE, decay)
        store_states(scratch, PAST + k * LANES, PLANE, decay * h)
        h = multiply_add(decay, h, B * load(scratch, DT_X + at))
        if inputs.z != 0:
            if not sizes.constant_C:
                C = spread_state(inputs.C, varying + k * advance, kind)
            store(scratch, Y + at, load(scratch, Y + at) + real(C * h))


@njit(error_model="numpy")
def _scan_back(n, vector, run, task, sizes, inputs, gradients, kind):
    """Carry the gradient of one vector of states back over a run, adding to all that it reaches."""
    scratch = task.scratch
    constant = n * sizes.parts * sizes.channels + task.channel + vector * LANES
    varying, advance = varying_index(n, run, task, sizes)
    held = STATES + n * sizes.parts * BLOCK + vector * LANES
    A = load_states(inputs.A, constant, sizes.channels, kind)
    B = C = grad_A = grad_B = grad_C = fill_states(0.0, kind)
    if sizes.constant_B:
        B = load_states(inputs.B, constant, sizes.channels, kind)
    if sizes.constant_C:
        C = load_states(inputs.C, constant, sizes.channels, kind)
    grad_h = load_states(scratch, held, BLOCK, kind)
    decay = fill_states(1.0, kind)
    for k in range(run.length - 1, -1, -1):
        at = (vector * CHUNK + k) * LANES
        if not sizes.constant_B:
            B = spread_state(inputs.B, varying + k * advance, kind)
            grad_B = load_states(scratch, GRAD_B + k * LANES, PLANE, kind)
        if not sizes.constant_C:
            C = spread_state(inputs.C, varying + k * advance, kind)
            grad_C = load_states(scratch, GRAD_C + k * LANES, PLANE, kind)
        grad_y, dt = load(scratch, GRAD_Y + at), load(scratch, DT + at)
        dt_x = load(scratch, DT_X + at)
        past = load_states(scratch, PAST + k * LANES, PLANE, kind)

        grad_h = multiply_add(conjugate(decay), grad_h, conjugate(C) * grad_y)
        grad_C = conjugate(B * dt_x + past) * grad_y + grad_C
        grad_B = grad_h * dt_x + grad_B
        grad_exponent = grad_h * conjugate(past)
        grad_A = grad_exponent * dt + grad_A
        store(scratch, ALONG_A + at, load(scratch, ALONG_A + at) + real(grad_exponent * conjugate(A)))
        store(scratch, ALONG_B + at, load(scratch, ALONG_B + at) + real(grad_h * conjugate(B)))
        decay = load_states(scratch, DECAY + k * LANES, PLANE, kind)
        if not sizes.constant_B:
            store_states(scratch, GRAD_B + k * LANES, PLANE, grad_B)
        if not sizes.constant_C:
            store_states(scratch, GRAD_C + k * LANES, PLANE, grad_C)
    store_states(scratch, held, BLOCK, conjugate(decay) * grad_h)

    of_row = constant + task.row * sizes.states * sizes.parts * sizes.channels
    _add_states(gradients.A, of_row, sizes.channels, grad_A, kind)
    if sizes.constant_B:
        _add_states(gradients.B, of_row, sizes.channels, grad_B, kind)
    if sizes.constant_C:
        _add_states(gradients.C, of_row, sizes.channels, grad_C, kind)


@njit(error_model="numpy")
def _add_states(target, index, plane, value, kind):
    store_states(target, index, plane, load_states(target, index, plane, kind) + value)


@njit(error_model="numpy")
def _sum_channels(n, run, task, sizes, gradients, kind):
    """Write the gradients of varying B and C of one state, summed over the channels of the task."""
    varying, advance = varying_index(n, run, task, sizes)
    varying += task.block * sizes.rows * sizes.length * sizes.groups * sizes.states * sizes.parts
    for k in range(run.length):
        if not sizes.constant_B:
            grad_B = load_states(task.scratch, GRAD_B + k * LANES, PLANE, kind)
            write_total(gradients.B, varying + k * advance, grad_B)
        if not sizes.constant_C:
            grad_C = load_states(task.scratch, GRAD_C + k * LANES, PLANE, kind)
            write_total(gradients.C, varying + k * advance, grad_C)


@njit(error_model="numpy")
def _finish(run, task, sizes, inputs, gradients):
    """Write the gradients of x, dt and z over a run, and add to those of D and dt_bias."""
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
            along_B = load(scratch, ALONG_B + at)
            grad_dt = load(scratch, ALONG_A + at) + along_B * x
            if sizes.dt_softplus:
                grad_dt = grad_dt * sigmoid(load(inputs.dt, index) + bias)
            store(gradients.x, index, along_B * load(scratch, DT + at) + D * grad_y)
            store(gradients.dt, index, grad_dt)
            grad_bias = grad_bias + grad_dt
            grad_D = grad_D + grad_y * x
            if inputs.z != 0:
                z = load(inputs.z, index)
                gate = sigmoid(z)
                slope = gate * (1.0 + z * (1.0 - gate))
                value = load(scratch, Y + at) * np.float32(sizes.parts) + D * x
                store(gradients.z, index, load(gradients.grad_y, index) * value * slope)
        of_row = task.row * sizes.channels + channel
        store(gradients.D, of_row, load(gradients.D, of_row) + grad_D)
        store(gradients.dt_bias, of_row, load(gradients.dt_bias, of_row) + grad_bias)
