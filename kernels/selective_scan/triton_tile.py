"""A tile of states [channels, states] and what drives it: what the Triton kernels of the scan share.

A program is one warp. It keeps its tile in registers and walks time. Numbers are tuples: (real,), or
(real, imaginary) where A is complex. The backward pass holds the complex conjugates of the adjoints, and C
counts twice (y = 2 Re(sum C h)), so that both passes need nothing but sums and products.

Arguments that recur: `place` is where a program works, (batch, length, group of channels, channels of the
tile, which of them exist); `row` is a position of a batch, counted over all batches; `form` is a `Form`.
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RET505
# What is compiled has types that only Triton knows; Triton does not unpack tuples, and types both branches.

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
TURN = tl.constexpr(6.283185307179586)
ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to a whole number


@triton.jit
def place_of(batch, length, tile, form: tl.constexpr):
    """Return the place of a tile, counted over all groups."""
    group = tile // form.group_tiles
    within = tile % form.group_tiles * form.width + tl.arange(0, form.width)
    if form.group_channels % form.width == 0:
        return batch, length, group, group * form.group_channels + within, within >= 0
    else:
        return batch, length, group, group * form.group_channels + within, within < form.group_channels


@triton.jit
def row_of(position, place, form: tl.constexpr):
    """Return the row where a position of the scan lies."""
    batch, length, _, _, _ = place
    if form.reverse:
        return batch * length + (length - 1 - position)
    else:
        return batch * length + position


@triton.jit
def load_row(pointer, row, place, mask, form: tl.constexpr):
    """Load a row of (..., channels) as it is stored, zero where masked."""
    _, _, _, channel, exists = place
    return tl.load(pointer + (row * form.channels + channel), mask=exists & mask, other=0.0)


@triton.jit
def store_row(pointer, row, values, place, mask, form: tl.constexpr):
    _, _, _, channel, exists = place
    at = pointer + (row * form.channels + channel)
    tl.store(at, values.to(pointer.dtype.element_ty), mask=exists & mask)


@triton.jit
def load_parameter(pointer, place):
    """Load a parameter of each channel: zero if it is absent."""
    _, _, _, channel, exists = place
    if pointer is None:
        return tl.zeros(channel.shape, tl.float32)
    else:
        return tl.load(pointer + channel, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def zero_states(form: tl.constexpr):
    width: tl.constexpr = form.width
    size: tl.constexpr = form.size
    zero = tl.zeros((width, size), tl.float32)
    if form.is_complex:
        return zero, zero
    else:
        return (zero,)


@triton.jit
def load_numbers(pointer, index, mask, form: tl.constexpr):
    """Load numbers as they are stored, the parts of each next to one another; zero where masked."""
    if form.is_complex:
        index = tl.expand_dims(index * 2, -1) + tl.arange(0, 2)
        return tl.split(tl.load(pointer + index, mask=tl.expand_dims(mask, -1), other=0.0))
    else:
        return (tl.load(pointer + index, mask=mask, other=0.0),)


@triton.jit
def store_numbers(pointer, index, values, mask, form: tl.constexpr):
    if form.is_complex:
        index = tl.expand_dims(index * 2, -1) + tl.arange(0, 2)
        tl.store(pointer + index, tl.join(values[0], values[1]), mask=tl.expand_dims(mask, -1))
    else:
        tl.store(pointer + index, values[0], mask=mask)


@triton.jit
def load_states(pointer, entry, place, mask, form: tl.constexpr):
    """Load the tile of an entry of (..., channels, states), zero where masked."""
    _, _, _, channel, exists = place
    state = tl.arange(0, form.size)
    index = (entry * form.channels + channel[:, None]) * form.states + state
    return as_fp32(load_numbers(pointer, index, (exists & mask)[:, None] & (state < form.states), form))


@triton.jit
def store_states(pointer, entry, values, place, mask, form: tl.constexpr):
    _, _, _, channel, exists = place
    state = tl.arange(0, form.size)
    index = (entry * form.channels + channel[:, None]) * form.states + state
    store_numbers(pointer, index, values, (exists & mask)[:, None] & (state < form.states), form)


@triton.jit
def load_a(A, place, form: tl.constexpr):
    """Load A, its real part in units of log 2 and its imaginary part in turns."""
    a = load_states(A, 0, place, True, form)
    if form.is_complex:
        return a[0] * LOG2_E, a[1] / TURN
    else:
        return (a[0] * LOG2_E,)


@triton.jit
def load_weights(pointer, row, place, mask, form: tl.constexpr):
    """Load a row of B or C, (batch, length, groups, states), as it is stored, zero where masked."""
    _, _, group, _, _ = place
    state = tl.arange(0, form.size)
    index = (row * form.groups + group) * form.states + state
    return load_numbers(pointer, index, mask & (state < form.states), form)


@triton.jit
def as_fp32(a):
    if len(a) == 2:
        return a[0].to(tl.float32), a[1].to(tl.float32)
    else:
        return (a[0].to(tl.float32),)


@triton.jit
def spread(weights):
    """Return B or C of a position, a loaded row or constant, as fp32 for all channels."""
    weights = as_fp32(weights)
    if len(weights[0].shape) == 2:
        return weights
    elif len(weights) == 2:
        return weights[0][None, :], weights[1][None, :]
    else:
        return (weights[0][None, :],)


@triton.jit
def add(a, b):
    if len(a) == 2:
        return a[0] + b[0], a[1] + b[1]
    else:
        return (a[0] + b[0],)


@triton.jit
def times(a, b):
    if len(a) == 2:
        return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]
    else:
        return (a[0] * b[0],)


@triton.jit
def scaled(factor, a):
    """Return a factor of each channel times a."""
    if len(a) == 2:
        return factor[:, None] * a[0], factor[:, None] * a[1]
    else:
        return (factor[:, None] * a[0],)


@triton.jit
def conjugate(a):
    if len(a) == 2:
        return a[0], -a[1]
    else:
        return a


@triton.jit
def contract(a, b):
    """Return the real part of the sum over states of a times b."""
    return tl.sum(times(a, b)[0], axis=1)


@triton.jit
def decay(dt, a):
    """Return exp(dt A), a from `load_a`."""
    size = tl.exp2(dt[:, None] * a[0])
    if len(a) == 2:
        cosine, sine = _rotation(dt[:, None] * a[1])
        return size * cosine, size * sine
    else:
        return (size,)


@triton.jit
def _rotation(turns):
    """Return cosine and sine to 6e-7, by minimax polynomials (those of Triton branch on large angles)."""
    r = turns - ((turns + ROUNDER) - ROUNDER)
    r2 = r * r
    cosine = 60.1719031234934 + r2 * (-25.98144761881636 + r2 * 6.545872472459151)
    cosine = 1 + r2 * (
        -19.739205840237542 + r2 * (64.93916221440034 + r2 * (-85.45076921887141 + r2 * cosine))
    )
    sine = -76.60216891396496 + r2 * (41.286471427316314 + r2 * -12.381861526205247)
    sine = r * (TURN + r2 * (-41.34156666598286 + r2 * (81.59890207714362 + r2 * sine)))
    return cosine, sine


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp2(-LOG2_E * x))


@triton.jit
def softplus(x):
    """Return log(1 + exp(x)) to the relative precision of fp32, by the series of the inverse tanh."""
    e = tl.exp2(-LOG2_E * tl.abs(x))
    s = e / (2 + e)
    s2 = s * s
    series = 1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9 + s2 * (1 / 11 + s2 / 13))))
    return tl.maximum(x, 0.0) + 2 * (s + s * s2 * series)


@triton.jit
def sequence_at(sequences, position, place, form: tl.constexpr):
    """Return which packed sequence holds a position; before and after all, -1 does."""
    _, length, _, _, _ = place
    return tl.load(sequences + 1 + row_of(position, place, form), mask=position <= length, other=-1)


@triton.jit
def is_new(sequences, position, direction, place, form: tl.constexpr):
    """Return the sequence of a position that is walked to in `direction`, and whether it begins there."""
    sequence = sequence_at(sequences, position, place, form)
    before = sequence_at(sequences, position - direction, place, form)
    return sequence.to(tl.int64), (sequence >= 0) & (sequence != before)


@triton.jit
def enter(states, boundary, sequences, position, direction, place, form: tl.constexpr):
    """Return the states that enter a position: the boundary's, or zero, if a packed sequence begins there."""
    if sequences is None:
        return states
    else:
        sequence, begins = is_new(sequences, position, direction, place, form)
        if begins:
            if boundary is None:
                states = zero_states(form)
            else:
                states = load_states(boundary, sequence, place, True, form)
        return states
