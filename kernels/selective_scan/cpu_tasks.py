"""Work shared by the compiled forward and backward: tasks, their walk through time, and scratch memory.

A task is one row of the batch and one block of channels. It walks time in runs: a run is the part of one
chunk that lies in one sequence. Within a run the loops take one vector of channels and one state at a time,
so the state stays in a register and the run in the level 1 cache. No task writes where another task does, so
the result does not depend on the number of threads. The caller sums over blocks and rows.

Time counts in the direction of the scan. States are (..., N, parts, channels), parts 1 (real) or 2 (complex).
"""

# mypy: allow-untyped-defs
# Only numba knows the types of compiled functions.

from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.selective_scan.cpu_layout import BLOCK, CHUNK
from kernels.simd import LANES, load, multiply_add, softplus, splat, store

# Offsets in a task's scratch. Quantities of a run, each (vectors, CHUNK, LANES): dt after bias and softplus;
# dt x; y; and the gradients of y before D and gate, of dt through the decay, and of dt x.
_RUN = BLOCK * CHUNK
DT, DT_X, Y, GRAD_Y, GRAD_DT, GRAD_DT_X = (quantity * _RUN for quantity in range(6))
# Quantities of one vector of states over a run, each (parts, CHUNK, LANES): the decays; decay times the state
# before; and the gradients of B and C for each channel.
PLANE = CHUNK * LANES
DECAY, DECAYED, GRAD_B, GRAD_C = (6 * _RUN + quantity * 2 * PLANE for quantity in range(4))
# The states of a task, (N, parts, BLOCK).
STATES = 6 * _RUN + 8 * PLANE


class Task(NamedTuple):
    """One row of the batch and one block of a group's channels, starting at `channel`."""

    scratch: int
    row: int
    group: int
    block: int
    channel: int
    vectors: int


class Run(NamedTuple):
    """Positions of a task. `first` counts over rows and times; adding `step` gives the next position."""

    first: int
    step: int
    length: int


def blocks_of(channels: int) -> int:
    """Return the number of blocks of a group of `channels` channels."""
    return -(-channels // BLOCK)


@njit(error_model="numpy")
def new_scratch(sizes):
    """Return an array and the address of its first cache line; keep the array while using the address."""
    memory = np.empty(STATES + sizes.states * sizes.parts * BLOCK + LANES, np.float32)
    address = memory.ctypes.data
    return memory, address + (-address) % (4 * LANES)


@njit(error_model="numpy")
def make_task(number, scratch, sizes):
    """Return a task by its number: rows first, then groups, then blocks."""
    width = sizes.channels // sizes.groups
    blocks = (width + BLOCK - 1) // BLOCK
    row = number // (sizes.groups * blocks)
    group = number // blocks % sizes.groups
    block = number % blocks
    start = block * BLOCK
    return Task(scratch, row, group, block, group * width + start, min(BLOCK, width - start) // LANES)


@njit(error_model="numpy")
def make_run(start, end, task, sizes):
    """Return the run of positions start to end, counted in the direction of the scan."""
    if sizes.reverse:
        return Run((task.row + 1) * sizes.length - 1 - start, -1, end - start)
    return Run(task.row * sizes.length + start, 1, end - start)


@njit(error_model="numpy")
def states_index(row, task, sizes):
    """Return the index of a task's first state in row `row` of (rows, N, parts, channels)."""
    return row * sizes.states * sizes.parts * sizes.channels + task.channel


@njit(error_model="numpy")
def checkpoint_index(start, task, sizes):
    """Return the index of a task's checkpoint at `start` in (rows, chunks, N, parts, channels)."""
    chunks = (sizes.length + CHUNK - 1) // CHUNK
    return states_index(task.row * chunks + start // CHUNK, task, sizes)


@njit(error_model="numpy")
def varying_index(n, run, task, sizes):
    """Return the index of state n in a varying B or C, and its stride over time.

    B and C are (rows, length, groups, N, parts).
    """
    width = sizes.states * sizes.parts
    first = (run.first * sizes.groups + task.group) * width + n * sizes.parts
    return first, run.step * sizes.groups * width


@njit(error_model="numpy")
def load_or_zero(address, index):
    """Return a vector of channels, zeros if the address is 0."""
    if address == 0:
        return splat(0.0)
    return load(address, index)


@njit(error_model="numpy")
def copy_states(source, source_index, source_plane, target, target_index, target_plane, task, sizes):
    """Copy the states of a task. A source of 0 reads as zeros; a target of 0 skips the copy."""
    if target == 0:
        return
    for plane in range(sizes.states * sizes.parts):
        for vector in range(task.vectors):
            value = load_or_zero(source, source_index + plane * source_plane + vector * LANES)
            store(target, target_index + plane * target_plane + vector * LANES, value)


@njit(error_model="numpy")
def clear(quantity, vectors, run, task):
    """Set a quantity of the run in the scratch to zero."""
    for vector in range(vectors):
        for k in range(run.length):
            store(task.scratch, quantity + (vector * CHUNK + k) * LANES, splat(0.0))


@njit(error_model="numpy")
def discretise(run, task, sizes, inputs):
    """Fill DT and DT_X of a run."""
    for vector in range(task.vectors):
        channel = task.channel + vector * LANES
        bias = load_or_zero(inputs.dt_bias, channel)
        for k in range(run.length):
            index = (run.first + run.step * k) * sizes.channels + channel
            dt = load(inputs.dt, index) + bias
            if sizes.dt_softplus:
                dt = softplus(dt)
            at = (vector * CHUNK + k) * LANES
            store(task.scratch, DT + at, dt)
            store(task.scratch, DT_X + at, dt * load(inputs.x, index))


@njit(error_model="numpy")
def next_state(decay, h, dt_x, B):
    """Return the recurrence decay h + B dt x, decay being exp(dt A)."""
    return multiply_add(decay, h, B * dt_x)
