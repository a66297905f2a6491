"""One decoding step of a whole model on the CPU, in one call compiled by numba.

A matrix is stored transposed, (columns, rows), with rows padded by zeros to whole vectors: the lanes of a
vector are rows, and every number of the operand multiplies its column. Rows of the batch are computed one by
one, so no result depends on the other rows or on the threads. All numbers are float32.
"""

# mypy: allow-untyped-defs
# Only numba knows the types in compiled code.

import math

import numpy as np
from numba import njit

from kernels.selective_scan.cpu_forward import step as scan_step
from kernels.selective_scan.cpu_layout import Inputs, Sizes
from kernels.simd import LANES, load, load_some, read, sigmoid, splat, store, store_some, total

BLOCK, HEAD, COMPRESS, EXPAND = range(4)
FIELDS = (
    *("kind", "period", "depth", "width", "inner", "pool", "states", "taps"),
    *("dt_rank", "projected", "is_complex", "has_dt", "has_B", "has_C", "save", "add"),
    *("first", "second", "third", "bias", "conv_weight", "conv_bias", "dt_weight", "dt_bias"),
    *("A", "B", "C", "D", "conv", "ssm", "frames_in", "frames_out"),
)
(
    KIND, PERIOD, DEPTH, WIDTH, INNER, POOL, STATES, TAPS,
    DT_RANK, PROJECTED, IS_COMPLEX, HAS_DT, HAS_B, HAS_C, SAVE, ADD,
    FIRST, SECOND, THIRD, BIAS, CONV_WEIGHT, CONV_BIAS, DT_WEIGHT, DT_BIAS,
    A, B, C, D, CONV, SSM, FRAMES_IN, FRAMES_OUT,
) = range(len(FIELDS))  # fmt: skip
FLOAT = 4  # bytes


@njit(error_model="numpy")
def vectors(count):
    """Return `count` rounded up to whole vectors."""
    return (count + LANES - 1) // LANES * LANES


@njit(error_model="numpy")
def _multiply(matrix, rows, columns, x, y, bias):
    """Write y (rows) = matrix x + bias; `rows` is a multiple of LANES, and `bias` 0 means none."""
    row = 0
    while row + 4 * LANES <= rows:
        a = load(bias, row) if bias else splat(0.0)
        b = load(bias, row + LANES) if bias else splat(0.0)
        c = load(bias, row + 2 * LANES) if bias else splat(0.0)
        d = load(bias, row + 3 * LANES) if bias else splat(0.0)
        at = row
        for column in range(columns):
            value = splat(read(x, column))
            a = a + load(matrix, at) * value
            b = b + load(matrix, at + LANES) * value
            c = c + load(matrix, at + 2 * LANES) * value
            d = d + load(matrix, at + 3 * LANES) * value
            at += rows
        store(y, row, a)
        store(y, row + LANES, b)
        store(y, row + 2 * LANES, c)
        store(y, row + 3 * LANES, d)
        row += 4 * LANES
    while row < rows:
        a = load(bias, row) if bias else splat(0.0)
        for column in range(columns):
            a = a + load(matrix, column * rows + row) * splat(read(x, column))
        store(y, row, a)
        row += LANES


@njit(error_model="numpy")
def _normalise(stream, width, epsilon, y):
    """Write stream (width) divided by its root mean square to y."""
    squares = splat(0.0)
    for channel in range(0, width, LANES):
        value = load(stream, channel)
        squares = squares + value * value
    scale = splat(1.0 / math.sqrt(total(squares) / width + epsilon))
    for channel in range(0, width, LANES):
        store(y, channel, load(stream, channel) * scale)


@njit(error_model="numpy")
def _convolve(u, past, op):
    """Shift u (inner) into the past (taps - 1, inner), and replace it by SiLU of the convolution."""
    inner, before = op[INNER], op[TAPS] - 1
    for channel in range(0, inner, LANES):
        count = min(LANES, inner - channel)
        current = load(u, channel)
        value = (
            load(op[CONV_BIAS], channel) + load(op[CONV_WEIGHT], before * vectors(inner) + channel) * current
        )
        for tap in range(before):
            old = load_some(past, tap * inner + channel, count)
            value = value + load(op[CONV_WEIGHT], tap * vectors(inner) + channel) * old
            if tap:
                store_some(past, (tap - 1) * inner + channel, old, count)
        if before:
            store_some(past, (before - 1) * inner + channel, current, count)
        store(u, channel, value * sigmoid(value))


@njit(error_model="numpy")
def _mix(op, row, normed, u, projected, dt, y, real, paired):
    """Write the output y (inner) of the mixer for the input `normed`, and advance the states of a row."""
    inner = op[INNER]
    parts = 2 if op[IS_COMPLEX] else 1
    _multiply(op[FIRST], 2 * vectors(inner), op[WIDTH], normed, u, 0)
    _convolve(u, op[CONV] + FLOAT * row * (op[TAPS] - 1) * inner, op)
    if op[PROJECTED]:
        _multiply(op[SECOND], vectors(op[PROJECTED]), inner, u, projected, 0)
    if op[HAS_DT]:
        _multiply(op[DT_WEIGHT], vectors(inner), op[DT_RANK], projected, dt, op[DT_BIAS])
    else:
        for channel in range(0, inner, LANES):
            store(dt, channel, load(op[DT_BIAS], channel))
    floats = op[STATES] * parts
    at_B = projected + FLOAT * op[DT_RANK] if op[HAS_B] else op[B]
    at_C = projected + FLOAT * (op[DT_RANK] + (floats if op[HAS_B] else 0)) if op[HAS_C] else op[C]
    sizes = Sizes(1, 1, inner, op[STATES], parts, 1, False, True, op[HAS_B] == 0, op[HAS_C] == 0)
    states = op[SSM] + FLOAT * row * inner * floats
    inputs = Inputs(u, dt, op[A], at_B, at_C, op[D], u + FLOAT * vectors(inner), 0, states, 0)
    if op[IS_COMPLEX]:
        scan_step(0, 1, sizes, inputs, y, paired)
    else:
        scan_step(0, 1, sizes, inputs, y, real)


@njit(error_model="numpy")
def _add(x, y, width, z):
    """Write z = x + y."""
    for channel in range(0, width, LANES):
        store(z, channel, load(x, channel) + load(y, channel))


@njit(error_model="numpy")
def _copy(x, width, y):
    """Write y = x."""
    for channel in range(0, width, LANES):
        count = min(LANES, width - channel)
        store_some(y, channel, load_some(x, channel, count), count)


@njit(error_model="numpy")
def _exchange_frames(op, row, tick, stream):
    """Store the stream in the input frame, and add the output frame of this position to the stream."""
    width = op[WIDTH]
    at = FLOAT * width * (row * op[POOL] + tick // op[PERIOD] % op[POOL])
    _copy(stream, width, op[FRAMES_IN] + at)
    for channel in range(0, width, LANES):
        output = load_some(op[FRAMES_OUT] + at, channel, min(LANES, width - channel))
        store(stream, channel, load(stream, channel) + output)


@njit(nogil=True, cache=True, error_model="numpy")
def step(first_row, last_row, operations, tick, tokens, embedding, logits, epsilon, widest, real, paired):
    """Read one token of each row, and write the logits of the next token.

    operations: (operations, fields) int64, in the order of FIELDS.
    tick: the number of tokens before this one.
    tokens: (rows,) int64.
    embedding: address of (vocabulary, width padded to whole vectors) float32.
    logits: address of (rows, vocabulary) float32.
    widest: the size of the buffers (numbers).
    """
    stages = operations[:, DEPTH].max() + 1
    slots = max(operations[:, SAVE].max(), operations[:, ADD].max()) + 1
    memory = np.zeros((6 + stages + slots) * widest + LANES, np.float32)
    start = memory.ctypes.data
    start += (-start) % (FLOAT * LANES)
    normed, u, projected, dt, y, scratch = (
        start,
        start + FLOAT * widest,
        start + 2 * FLOAT * widest,
        start + 3 * FLOAT * widest,
        start + 4 * FLOAT * widest,
        start + 5 * FLOAT * widest,
    )
    streams, skips = start + 6 * FLOAT * widest, start + (6 + stages) * FLOAT * widest
    for row in range(first_row, last_row):
        width = operations[0, WIDTH]
        for channel in range(0, width, LANES):
            store(streams, channel, load(embedding, tokens[row] * vectors(width) + channel))
        for index in range(len(operations)):
            op = operations[index]
            if (tick + 1) % op[PERIOD]:
                break  # later operations have slower clocks
            width = op[WIDTH]
            stream = streams + FLOAT * widest * op[DEPTH]
            if op[KIND] == BLOCK:
                if op[SAVE] >= 0:
                    _copy(stream, vectors(width), skips + FLOAT * widest * op[SAVE])
                _normalise(stream, width, epsilon, normed)
                _mix(op, row, normed, u, projected, dt, y, real, paired)
                _multiply(op[THIRD], vectors(width), op[INNER], y, scratch, 0)
                _add(stream, scratch, width, stream)
                if op[ADD] >= 0:
                    _add(stream, skips + FLOAT * widest * op[ADD], width, stream)
                if op[FRAMES_IN]:
                    _exchange_frames(op, row, tick, stream)
            elif op[KIND] == HEAD:
                _normalise(stream, width, epsilon, normed)
                symbols = op[PROJECTED]
                _multiply(op[FIRST], vectors(symbols), width, normed, scratch, op[BIAS])
                _copy(scratch, symbols, logits + FLOAT * row * symbols)
            elif op[KIND] == COMPRESS:
                frame = op[FRAMES_IN] + FLOAT * row * op[POOL] * width
                _multiply(op[FIRST], vectors(2 * width), op[POOL] * width, frame, stream, op[BIAS])
            else:
                inner_stream = streams + FLOAT * widest * (op[DEPTH] + 1)
                _multiply(op[FIRST], vectors(op[POOL] * width), 2 * width, inner_stream, scratch, op[BIAS])
                _copy(scratch, op[POOL] * width, op[FRAMES_OUT] + FLOAT * row * op[POOL] * width)
    return memory.size
