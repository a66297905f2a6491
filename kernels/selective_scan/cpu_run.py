"""What the compiled forward and backward share: the walk of a task through time, and work on whole channels.

One task is one row of the batch and one block of channels. It walks the time grid in runs, which end where a
chunk or a sequence does. Within a run it takes one vector of channels and one state after another over the
whole run: the state stays in a register, the run in the level 1 cache. No task writes where another does, so
the result does not depend on the number of threads; sums over blocks and rows are left to the caller.

Time counts in the direction of the scan. States are (..., N, parts, channels), parts 1 (real) or 2 (complex).
"""

# mypy: allow-untyped-defs
# What is compiled has types that only numba knows.

from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.simd import LANES, load, softplus, splat, store

CHUNK = 32
BLOCK = 64

# Scratch: quantities of a run, each (vectors, CHUNK, LANES) ...
_RUN = BLOCK * CHUNK
DT, DT_X, Y, GRAD_Y, ALONG_A, ALONG_B = (quantity * _RUN for quantity in range(6))
# ... quantities of one vector of states over a run, each (parts, CHUNK, LANES) ...
PLANE = CHUNK * LANES
DECAY, PAST, GRAD_B, GRAD_C = (6 * _RUN + quantity * 2 * PLANE for quantity in range(4))
# ... and the states of a task, (N, parts, BLOCK).
STATES = 6 * _RUN + 8 * PLANE


class Sizes(NamedTuple):
    """Extents, and the form of the arguments. Each group is a whole number of vectors of channels."""

    rows: int
    length: int
    channels: int
    states: int
    parts: int
    groups: int
    reverse: bool
    dt_softplus: bool
    constant_B: bool  # noqa: N815
    constant_C: bool  # noqa: N815


class Inputs(NamedTuple):
    """Addresses of contiguous fp32, 0 for what is absent. A and constant B and C are (N, parts, channels)."""

    x: int
    dt: int
    A: int
    B: int
    C: int
    D: int
    z: int
    dt_bias: int
    initial_state: int
    checkpoints: int


class Task(NamedTuple):
    """A row of the batch, and a block of the channels of a group from `channel` on."""

    scratch: int
    row: int
    group: int
    block: int
    channel: int
    vectors: int


class Run(NamedTuple):
    """Positions of a task: `first` counts over rows and times, `step` leads to the next."""

    first: int
    step: int
    length: int


def blocks_of(channels: int) -> int:
    """Return the number of tasks that the channels of a group make."""
    return -(-channels // BLOCK)


@njit(error_model="numpy")
def new_scratch(sizes):
    """Return memory, to be held as long as it is used, and its address at a cache line."""
    memory = np.empty(STATES + sizes.states * sizes.parts * BLOCK + LANES, np.float32)
    address = memory.ctypes.data
    return memory, address + (-address) % (4 * LANES)


@njit(error_model="numpy")
def make_task(number, scratch, sizes):
    width = sizes.channels // sizes.groups
    blocks = (width + BLOCK - 1) // BLOCK
    row = number // (sizes.groups * blocks)
    group = number // blocks % sizes.groups
    block = number % blocks
    start = block * BLOCK
    return Task(scratch, row, group, block, group * width + start, min(BLOCK, width - start) // LANES)


@njit(error_model="numpy")
def make_run(start, end, task, sizes):
    if sizes.reverse:
        return Run((task.row + 1) * sizes.length - 1 - start, -1, end - start)
    return Run(task.row * sizes.length + start, 1, end - start)


@njit(error_model="numpy")
def states_index(row, task, sizes):
    """Return where the states of a task begin in row `row` of (rows, N, parts, channels)."""
    return row * sizes.states * sizes.parts * sizes.channels + task.channel


@njit(error_model="numpy")
def checkpoint_index(start, task, sizes):
    """Return where the states on entry to a chunk begin in (rows, chunks, N, parts, channels)."""
    chunks = (sizes.length + CHUNK - 1) // CHUNK
    return states_index(task.row * chunks + start // CHUNK, task, sizes)


@njit(error_model="numpy")
def varying_index(n, run, task, sizes):
    """Return where state n of a varying B or C begins in (rows, length, groups, N, parts), and its step."""
    width = sizes.states * sizes.parts
    first = (run.first * sizes.groups + task.group) * width + n * sizes.parts
    return first, run.step * sizes.groups * width


@njit(error_model="numpy")
def load_or_zero(address, index):
    if address == 0:
        return splat(0.0)
    return load(address, index)


@njit(error_model="numpy")
def copy_states(source, source_index, source_plane, target, target_index, target_plane, task, sizes):
    """Copy the states of a task; an absent source stands for zeros, an absent target for nothing to do."""
    if target == 0:
        return
    for plane in range(sizes.states * sizes.parts):
        for vector in range(task.vectors):
            value = load_or_zero(source, source_index + plane * source_plane + vector * LANES)
            store(target, target_index + plane * target_plane + vector * LANES, value)


@njit(error_model="numpy")
def clear(quantity, vectors, run, task):
    """Set a quantity of the run to zero."""
    for vector in range(vectors):
        for k in range(run.length):
            store(task.scratch, quantity + (vector * CHUNK + k) * LANES, splat(0.0))


@njit(error_model="numpy")
def discretise(run, task, sizes, inputs):
    """Fill DT, after the bias and softplus, and DT_X."""
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
