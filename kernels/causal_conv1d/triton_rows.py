"""What the Triton kernels of the causal convolution share: the filter, the window of a row, its gradients.

Arguments that recur: `row` is counted over (batch x length), `position` within the row's sequence;
`channel` is the channels of the program and `exists` which of them there are; `stride` is between rows of
x; `positions` and `sequences` are those of each row where sequences are packed, else None.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RUF005
# What is compiled has types that only Triton knows, and Triton does not unpack tuples.

import triton
import triton.language as tl


@triton.jit
def load_filter(weight, bias, channel, exists, WIDTH: tl.constexpr):
    """Return the taps, the present row's last, and the bias of each channel."""
    SIZE: tl.constexpr = triton.next_power_of_2(WIDTH)
    tap = tl.arange(0, SIZE)
    mask = exists[:, None] & (tap < WIDTH)[None, :]
    tile = tl.load(weight + channel[:, None] * WIDTH + tap[None, :], mask=mask, other=0.0).to(tl.float32)
    taps = ()
    for k in tl.static_range(WIDTH):
        taps = taps + (tl.sum(tl.where((tap == k)[None, :], tile, 0.0), axis=1),)
    if bias is None:
        offset = tl.zeros_like(taps[0])
    else:
        offset = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    return taps, offset


@triton.jit
def position_of(positions, row, rows, length):
    """Return where in its sequence a row stands; past the last row it does not matter."""
    return row % length if positions is None else tl.load(positions + row, mask=row < rows, other=0)


@triton.jit
def sequence_of(sequences, row, length):
    """Return the sequence that a row belongs to."""
    return row // length if sequences is None else tl.load(sequences + row)


@triton.jit
def is_interior(positions, group, position, rows, length, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """Tell whether a group of rows, and the window of each, lie in one sequence."""
    if positions is None:
        interior = (position >= WIDTH - 1) & (position + GROUP <= length)
    else:
        last = position_of(positions, group + GROUP - 1, rows, length)
        interior = (position >= WIDTH - 1) & (last == position + GROUP - 1)
    return interior


@triton.jit
def load_window(
    x, state, row, position, sequence, stride, channels, channel, exists,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Load the K - 1 positions before that of a row: rows of x, or of the state before the sequence."""
    window = ()
    for k in tl.static_range(WIDTH - 1):
        lag = WIDTH - 1 - k
        before = x + (row - lag) * stride + channel
        value = tl.load(before, mask=exists & (position >= lag), other=0.0).to(tl.float32)
        if state is not None:
            past = state + (sequence * (WIDTH - 1) + k + position) * channels + channel
            value += tl.load(past, mask=exists & (position < lag), other=0.0).to(tl.float32)
        window = window + (value,)
    return window


@triton.jit
def load_rows(x, row, after, stride, channel, exists, ROWS: tl.constexpr):
    """Load the next rows of x, zero from `after` on."""
    loaded = ()
    for i in tl.static_range(ROWS):
        loaded = loaded + (
            tl.load(x + (row + i) * stride + channel, mask=exists & (row + i < after), other=0.0),
        )
    return loaded


@triton.jit
def rest(values):
    """Drop the first of a tuple."""
    rest = ()
    for i in tl.static_range(1, len(values)):
        rest = rest + (values[i],)
    return rest


@triton.jit
def zeros_like(like, COUNT: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(COUNT):
        zeros = zeros + (tl.zeros_like(like),)
    return zeros


@triton.jit
def sigmoid(value):
    """Return 1 / (1 + exp(-value)); a squared reciprocal root costs less than a division."""
    root = tl.rsqrt(1 + tl.exp(-value))
    return root * root


@triton.jit
def convolve(inputs, taps, offset):
    """Return a row before its activation."""
    value = offset
    for k in tl.static_range(len(taps)):
        value += taps[k] * inputs[k]
    return value


@triton.jit
def gradient_before(grad, inputs, taps, offset, SILU: tl.constexpr):
    """Return the gradient before the activation from the one after it."""
    if SILU:
        value = convolve(inputs, taps, offset)
        gate = sigmoid(value)
        grad = grad * gate * (1 + value * (1 - gate))
    return grad


@triton.jit
def spread(pending, grad, taps, position, INTERIOR: tl.constexpr):
    """Add a row's share to the gradients of the K - 1 rows before it, within its sequence, and its own."""
    gradients = pending + (tl.zeros_like(grad),)
    spread = ()
    for k in tl.static_range(len(taps)):
        share = taps[k] * grad
        if not INTERIOR:
            share = tl.where(position >= len(taps) - 1 - k, share, 0.0)
        spread = spread + (gradients[k] + share,)
    return spread


@triton.jit
def add_to_sums(sums, grad, inputs):
    """Add a row's share to the gradients of the taps and, last, of the bias."""
    added = ()
    for k in tl.static_range(len(inputs)):
        added = added + (sums[k] + grad * inputs[k],)
    return added + (sums[len(inputs)] + grad,)
