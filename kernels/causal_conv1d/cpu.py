"""Causal convolution on the CPU, compiled by numba: LANES channels per vector, channels over threads.

The kernels take addresses of contiguous fp32 tensors. Rows are those of (batch x length); `bounds` has the
first row of each sequence and the number of rows. Each tap of a row reads one source, given by its address:
an earlier row of x, a row of the initial state, or zeros. The backward pass adds to the gradient of that
source.
"""
# mypy: allow-untyped-defs
# Only numba knows the types in compiled code. Nothing reads the argument `kind`: its type makes numba's cache
# notice changes in the functions of kernels.simd.

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.causal_conv1d.reference import push_position
from kernels.layout import address, in_vectors
from kernels.simd import LANES, REAL, load, sigmoid, splat, store
from kernels.threads import run_in_ranges

ROWS_PER_SUM = 1024  # longer fp32 sums for the gradient of the weight would lose digits
MIN_ELEMENTS = 1 << 14  # elements of x per thread; fewer do not pay for the thread


@njit(nogil=True, cache=True, error_model="numpy")
def _find_sources(sources, row, start, sequence, x, state, nothing, channels, width):
    """Write the address of the row that each tap reads."""
    for k in range(width):
        source = row - (width - 1) + k
        if source >= start:
            sources[k] = x + 4 * source * channels
        elif state != 0:
            sources[k] = state + 4 * (sequence * (width - 1) + source - start + width - 1) * channels
        else:
            sources[k] = nothing


@njit(nogil=True, cache=True, error_model="numpy")
def _convolve(sources, taps, bias, channel, channels):
    value = load(bias, channel)
    for k in range(len(sources)):
        value = value + load(taps, k * channels + channel) * load(sources[k], channel)
    return value


@njit(nogil=True, cache=True, error_model="numpy")
def _forward(x, taps, bias, state, nothing, bounds, y, channels, width, silu, first, last, kind):
    """Write the vectors of channels from first to last of y."""
    sources = np.empty(width, np.int64)
    for sequence in range(len(bounds) - 1):
        start = bounds[sequence]
        for row in range(start, bounds[sequence + 1]):
            _find_sources(sources, row, start, sequence, x, state, nothing, channels, width)
            for vector in range(first, last):
                channel = vector * LANES
                value = _convolve(sources, taps, bias, channel, channels)
                if silu:
                    value = value * sigmoid(value)
                store(y, row * channels + channel, value)


@njit(nogil=True, cache=True, error_model="numpy")
def _backward(
    grad_y,
    x,
    taps,
    bias,
    state,
    nothing,
    bounds,
    dx,
    dstate,
    dnothing,
    sums,
    channels,
    width,
    silu,
    first,
    last,
    kind,
):
    """Write the vectors of channels from first to last of dx, and add to dstate and sums.

    `sums` is (blocks of ROWS_PER_SUM rows, K + 1, channels).
    """
    sources = np.empty(width, np.int64)
    targets = np.empty(width, np.int64)
    for sequence in range(len(bounds) - 1):
        start = bounds[sequence]
        for row in range(start, bounds[sequence + 1]):
            _find_sources(sources, row, start, sequence, x, state, nothing, channels, width)
            _find_sources(targets, row, start, sequence, dx, dstate, dnothing, channels, width)
            total = sums + 4 * (row // ROWS_PER_SUM) * (width + 1) * channels
            for vector in range(first, last):
                channel = vector * LANES
                gradient = load(grad_y, row * channels + channel)
                if silu:
                    value = _convolve(sources, taps, bias, channel, channels)
                    gate = sigmoid(value)
                    gradient = gradient * gate * (splat(1.0) + value * (splat(1.0) - gate))
                for k in range(width):
                    at = k * channels + channel
                    store(total, at, load(total, at) + gradient * load(sources[k], channel))
                    term = gradient * load(taps, at)
                    if k < width - 1:
                        term = term + load(targets[k], channel)
                    store(targets[k], channel, term)
                at = width * channels + channel
                store(total, at, load(total, at) + gradient)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
    return_final_state: bool,
) -> tuple[Tensor, Tensor]:
    """Return y and the final state, which is empty unless `return_final_state`."""
    rows, taps, offset, state = _prepare(x, weight, bias, initial_state)
    channels, width, bounds = rows.shape[1], weight.shape[1], _bounds(x, cu_seqlens)
    y = torch.empty_like(rows)
    nothing = torch.zeros(channels)

    def run(first: int, last: int) -> None:
        _forward(
            rows.data_ptr(), taps.data_ptr(), offset.data_ptr(), address(state), nothing.data_ptr(), bounds,
            y.data_ptr(), channels, width, silu, first, last, REAL,
        )  # fmt: skip

    run_in_ranges(run, channels // LANES, _min_vectors(rows))
    y = y[:, : x.shape[2]].to(x.dtype).reshape(x.shape)
    if not return_final_state:
        return y, x.new_empty(0)
    row, index, is_in_x = _final_state_sources(bounds, width)
    final_state = x.new_zeros(is_in_x.shape[0], width - 1, x.shape[2])
    final_state[is_in_x] = rows[row[is_in_x], : x.shape[2]].to(x.dtype)
    if initial_state is not None:
        sequence = torch.arange(len(initial_state)).unsqueeze(1).expand_as(index)
        final_state[~is_in_x] = initial_state[sequence[~is_in_x], index[~is_in_x]].to(x.dtype)
    return y, final_state


def backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight, bias and initial_state."""
    rows, taps, offset, state = _prepare(x, weight, bias, initial_state)
    channels, width, bounds = rows.shape[1], weight.shape[1], _bounds(x, cu_seqlens)
    grads = in_vectors(grad_y.reshape(len(rows), x.shape[2]), LANES)
    dx = torch.empty_like(rows)
    dstate = None if state is None else torch.zeros_like(state)
    nothing, dnothing = torch.zeros(channels), torch.zeros(channels)
    sums = torch.zeros(-(-len(rows) // ROWS_PER_SUM), width + 1, channels)

    def run(first: int, last: int) -> None:
        _backward(
            grads.data_ptr(), rows.data_ptr(), taps.data_ptr(), offset.data_ptr(), address(state),
            nothing.data_ptr(), bounds, dx.data_ptr(), address(dstate), dnothing.data_ptr(), sums.data_ptr(),
            channels, width, silu, first, last, REAL,
        )  # fmt: skip

    run_in_ranges(run, channels // LANES, _min_vectors(rows))
    dx, sums = dx[:, : x.shape[2]], sums.sum(0)[:, : x.shape[2]]
    dstate = None if dstate is None else dstate[..., : x.shape[2]]
    if grad_final_state is not None:
        row, index, is_in_x = _final_state_sources(bounds, width)
        dx[row[is_in_x]] += grad_final_state[is_in_x]
        if dstate is not None:
            sequence = torch.arange(len(dstate)).unsqueeze(1).expand_as(index)
            dstate[sequence[~is_in_x], index[~is_in_x]] += grad_final_state[~is_in_x]
    return dx.reshape(x.shape), sums[:width].t(), None if bias is None else sums[width], dstate


def step(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Return y for one position and update the state in place."""
    y, _ = forward(x.unsqueeze(1), weight, bias, state, None, silu, False)
    push_position(state, x)
    return y.squeeze(1)


def _prepare(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return rows of x, taps (K, channels), bias and state in fp32, padded to whole vectors."""
    rows = in_vectors(x.reshape(x.shape[0] * x.shape[1], x.shape[2]), LANES)
    offset = torch.zeros(rows.shape[1]) if bias is None else in_vectors(bias, LANES)
    return (
        rows,
        in_vectors(weight.t(), LANES),
        offset,
        None if initial_state is None else in_vectors(initial_state, LANES),
    )


def _bounds(x: Tensor, cu_seqlens: Tensor | None) -> np.ndarray:
    """Return the first row of each sequence, and the number of rows."""
    if cu_seqlens is None:
        return np.arange(len(x) + 1) * x.shape[1]
    return cu_seqlens.numpy().astype(np.int64)


def _min_vectors(rows: Tensor) -> int:
    """Return the smallest number of vectors of channels per thread."""
    return max(1, MIN_ELEMENTS // (LANES * max(1, len(rows))))


def _final_state_sources(bounds: np.ndarray, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the source of each position of each final state: a row of x, or an index in the initial state.

    The third tensor is true where the source is in x.
    """
    starts, ends = torch.from_numpy(bounds[:-1, None]), torch.from_numpy(bounds[1:, None])
    row = ends - (width - 1) + torch.arange(width - 1)
    return row, row - starts + width - 1, row >= starts
