"""The causal convolution on the CPU, compiled by numba: sixteen channels a vector, channels over threads.

In the kernels tensors are addresses of contiguous fp32, and rows are those of (batch x length) one after
the other, `bounds` saying where each sequence starts. Every tap of a row meets a source, an address: an
earlier row of x, a row of the sequence's state, or zeros. Going back its share is added to the gradient of
that source.
"""
# mypy: allow-untyped-defs
# What is compiled has types that only numba knows. Its argument `kind` has no use but its type, which makes
# numba's cache heed changes of what is called in other files.

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.causal_conv1d.reference import push
from kernels.layout import address, in_vectors
from kernels.simd import LANES, REAL, load, sigmoid, splat, store
from kernels.threads import run_in_ranges

ROWS_PER_SUM = 1024  # beyond, fp32 sums of the filter's gradient would lose digits
FEWEST_NUMBERS = 1 << 14  # of x for which a thread is worth waking


@njit(nogil=True, cache=True, error_model="numpy")
def _place_sources(sources, row, start, sequence, x, state, nothing, channels, width):
    """Write the address of the row that each tap meets."""
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
    """Write channels first to last, in vectors, of y."""
    sources = np.empty(width, np.int64)
    for sequence in range(len(bounds) - 1):
        start = bounds[sequence]
        for row in range(start, bounds[sequence + 1]):
            _place_sources(sources, row, start, sequence, x, state, nothing, channels, width)
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
    """Write channels first to last, in vectors, of dx, and add to dstate and sums.

    `sums` is (blocks of ROWS_PER_SUM rows, K + 1, channels).
    """
    sources = np.empty(width, np.int64)
    targets = np.empty(width, np.int64)
    for sequence in range(len(bounds) - 1):
        start = bounds[sequence]
        for row in range(start, bounds[sequence + 1]):
            _place_sources(sources, row, start, sequence, x, state, nothing, channels, width)
            _place_sources(targets, row, start, sequence, dx, dstate, dnothing, channels, width)
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
                    share = gradient * load(taps, at)
                    if k < width - 1:
                        share = share + load(targets[k], channel)
                    store(targets[k], channel, share)
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
    """Return y and the final state, the latter without elements where it is not asked for."""
    rows, taps, offset, state = _prepare(x, weight, bias, initial_state)
    channels, width, bounds = rows.shape[1], weight.shape[1], _bounds(x, cu_seqlens)
    y = torch.empty_like(rows)
    nothing = torch.zeros(channels)

    def run(first: int, last: int) -> None:
        _forward(
            rows.data_ptr(), taps.data_ptr(), offset.data_ptr(), address(state), nothing.data_ptr(), bounds,
            y.data_ptr(), channels, width, silu, first, last, REAL,
        )  # fmt: skip

    run_in_ranges(run, channels // LANES, _fewest_vectors(rows))
    y = y[:, : x.shape[2]].to(x.dtype).reshape(x.shape)
    if not return_final_state:
        return y, x.new_empty(0)
    row, before, inside = _survivors(bounds, width)
    final_state = x.new_zeros(inside.shape[0], width - 1, x.shape[2])
    final_state[inside] = rows[row[inside], : x.shape[2]].to(x.dtype)
    if initial_state is not None:
        sequence = torch.arange(len(initial_state)).unsqueeze(1).expand_as(before)
        final_state[~inside] = initial_state[sequence[~inside], before[~inside]].to(x.dtype)
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

    run_in_ranges(run, channels // LANES, _fewest_vectors(rows))
    dx, sums = dx[:, : x.shape[2]], sums.sum(0)[:, : x.shape[2]]
    dstate = None if dstate is None else dstate[..., : x.shape[2]]
    if grad_final_state is not None:
        row, before, inside = _survivors(bounds, width)
        dx[row[inside]] += grad_final_state[inside]
        if dstate is not None:
            sequence = torch.arange(len(dstate)).unsqueeze(1).expand_as(before)
            dstate[sequence[~inside], before[~inside]] += grad_final_state[~inside]
    return dx.reshape(x.shape), sums[:width].t(), None if bias is None else sums[width], dstate


def step(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Return y for one position and update the state in place."""
    y, _ = forward(x.unsqueeze(1), weight, bias, state, None, silu, False)
    push(state, x)
    return y.squeeze(1)


def _prepare(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return rows of x, taps (K, channels), bias and state as the kernels take them."""
    rows = in_vectors(x.reshape(x.shape[0] * x.shape[1], x.shape[2]), LANES)
    offset = torch.zeros(rows.shape[1]) if bias is None else in_vectors(bias, LANES)
    return (
        rows,
        in_vectors(weight.t(), LANES),
        offset,
        None if initial_state is None else in_vectors(initial_state, LANES),
    )


def _bounds(x: Tensor, cu_seqlens: Tensor | None) -> np.ndarray:
    """Return where in the rows each sequence starts, and their number."""
    if cu_seqlens is None:
        return np.arange(len(x) + 1) * x.shape[1]
    return cu_seqlens.numpy().astype(np.int64)


def _fewest_vectors(rows: Tensor) -> int:
    """Return how many vectors of channels are worth a thread."""
    return max(1, FEWEST_NUMBERS // (LANES * max(1, len(rows))))


def _survivors(bounds: np.ndarray, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each row of each final state, which row of x it is, or else of the initial state.

    The third tensor says which of the two, true for x.
    """
    starts, ends = torch.from_numpy(bounds[:-1, None]), torch.from_numpy(bounds[1:, None])
    row = ends - (width - 1) + torch.arange(width - 1)
    return row, row - starts + width - 1, row >= starts
