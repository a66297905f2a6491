"""Building blocks of the Triton kernels: a tile of states [channels, states], its memory and arithmetic.

A program is one warp. It keeps its tile in registers and walks through time. Numbers are tuples: (real,), or
(real, imaginary) where A is complex. The backward holds complex conjugates of the adjoints, and C counts
twice (y = 2 Re(sum C h)), so both passes need only sums and products.

Arguments of many functions:
    place: (batch, length, group of channels, channels of the tile, mask of the channels that exist)
    row: index of a position over all rows of the batch
    spec: a `triton_plan.Spec`
"""
# mypy: allow-untyped-defs, disable-error-code="assignment,misc"
# ruff: noqa: RET505
# Only Triton knows the types of compiled functions; it does not unpack tuples and it types both branches.

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
TURN = tl.constexpr(6.283185307179586)
ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to a whole number


@triton.jit
def place_of(batch, length, tile, spec: tl.constexpr):
    """Return the place of tile number `tile` of all groups."""
    group = tile // spec.group_tiles
    within = tile % spec.group_tiles * spec.width + tl.arange(0, spec.width)
    if spec.group_channels % spec.width == 0:
        return batch, length, group, group * spec.group_channels + within, within >= 0
    else:
        return batch, length, group, group * spec.group_channels + within, within < spec.group_channels


@triton.jit
def row_of(position, place, spec: tl.constexpr):
    """Return the row of a position, which counts in the direction of the scan."""
    batch, length, _, _, _ = place
    if spec.reverse:
        return batch * length + (length - 1 - position)
    else:
        return batch * length + position


@triton.jit
def load_row(pointer, row, place, mask, spec: tl.constexpr):
    """Return a row of (..., channels) as stored, zero where masked."""
    _, _, _, channel, exists = place
    return tl.load(pointer + (row * spec.channels + channel), mask=exists & mask, other=0.0)


@triton.jit
def store_row(pointer, row, values, place, mask, spec: tl.constexpr):
    """Write a row of (..., channels)."""
    _, _, _, channel, exists = place
    at = pointer + (row * spec.channels + channel)
    tl.store(at, values.to(pointer.dtype.element_ty), mask=exists & mask)


@triton.jit
def load_parameter(pointer, place):
    """Return a parameter of each channel in fp32, zero if it is absent."""
    _, _, _, channel, exists = place
    if pointer is None:
        return tl.zeros(channel.shape, tl.float32)
    else:
        return tl.load(pointer + channel, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def zero_states(spec: tl.constexpr):
    """Return a tile of zeros."""
    width: tl.constexpr = spec.width
    size: tl.constexpr = spec.size
    zero = tl.zeros((width, size), tl.float32)
    if spec.is_complex:
        return zero, zero
    else:
        return (zero,)


@triton.jit
def load_numbers(pointer, index, mask, spec: tl.constexpr):
    """Return numbers as stored, with adjacent parts; zero where masked."""
    if spec.is_complex:
        index = tl.expand_dims(index * 2, -1) + tl.arange(0, 2)
        return tl.split(tl.load(pointer + index, mask=tl.expand_dims(mask, -1), other=0.0))
    else:
        return (tl.load(pointer + index, mask=mask, other=0.0),)


@triton.jit
def store_numbers(pointer, index, values, mask, spec: tl.constexpr):
    """Write numbers with adjacent parts."""
    if spec.is_complex:
        index = tl.expand_dims(index * 2, -1) + tl.arange(0, 2)
        tl.store(pointer + index, tl.join(values[0], values[1]), mask=tl.expand_dims(mask, -1))
    else:
        tl.store(pointer + index, values[0], mask=mask)


@triton.jit
def load_states(pointer, entry, place, mask, spec: tl.constexpr):
    """Return the tile at an entry of (..., channels, states) in fp32, zero where masked."""
    _, _, _, channel, exists = place
    state = tl.arange(0, spec.size)
    index = (entry * spec.channels + channel[:, None]) * spec.states + state
    return as_fp32(load_numbers(pointer, index, (exists & mask)[:, None] & (state < spec.states), spec))


@triton.jit
def store_states(pointer, entry, values, place, mask, spec: tl.constexpr):
    """Write the tile at an entry of (..., channels, states)."""
    _, _, _, channel, exists = place
    state = tl.arange(0, spec.size)
    index = (entry * spec.channels + channel[:, None]) * spec.states + state
    store_numbers(pointer, index, values, (exists & mask)[:, None] & (state < spec.states), spec)


@triton.jit
def load_a(A, place, spec: tl.constexpr):
    """Return A, its real part in units of log 2 and its imaginary part in turns."""
    a = load_states(A, 0, place, True, spec)
    if spec.is_complex:
        return a[0] * LOG2_E, a[1] / TURN
    else:
        return (a[0] * LOG2_E,)


@triton.jit
def load_weights(pointer, row, place, mask, spec: tl.constexpr):
    """Return a row of B or C, (batch, length, groups, states), as stored, zero where masked."""
    _, _, group, _, _ = place
    state = tl.arange(0, spec.size)
    index = (row * spec.groups + group) * spec.states + state
    return load_numbers(pointer, index, mask & (state < spec.states), spec)


@triton.jit
def as_fp32(a):
    """Return numbers in fp32."""
    if len(a) == 2:
        return a[0].to(tl.float32), a[1].to(tl.float32)
    else:
        return (a[0].to(tl.float32),)


@triton.jit
def spread(weights):
    """Return B or C of a position, loaded or constant, in fp32 with an axis of channels."""
    weights = as_fp32(weights)
    if len(weights[0].shape) == 2:
        return weights
    elif len(weights) == 2:
        return weights[0][None, :], weights[1][None, :]
    else:
        return (weights[0][None, :],)


@triton.jit
def add(a, b):
    """Return a + b."""
    if len(a) == 2:
        return a[0] + b[0], a[1] + b[1]
    else:
        return (a[0] + b[0],)


@triton.jit
def times(a, b):
    """Return a b."""
    if len(a) == 2:
        return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]
    else:
        return (a[0] * b[0],)


@triton.jit
def scaled(factor, a):
    """Return a times one real factor per channel."""
    if len(a) == 2:
        return factor[:, None] * a[0], factor[:, None] * a[1]
    else:
        return (factor[:, None] * a[0],)


@triton.jit
def conjugate(a):
    """Return the complex conjugate of a."""
    if len(a) == 2:
        return a[0], -a[1]
    else:
        return a


@triton.jit
def contract(a, b):
    """Return Re(sum over states of a b)."""
    return tl.sum(times(a, b)[0], axis=1)


@triton.jit
def decay(dt, a):
    """Return exp(dt A) for a from `load_a`."""
    size = tl.exp2(dt[:, None] * a[0])
    if len(a) == 2:
        cosine, sine = _rotation(dt[:, None] * a[1])
        return size * cosine, size * sine
    else:
        return (size,)


@triton.jit
def next_states(states, step, value, a, b):
    """Return exp(step A) states + B step value: the recurrence. Takes a from `load_a`."""
    return add(times(decay(step, a), states), scaled(step * value, spread(b)))


@triton.jit
def _rotation(turns):
    """Return cosine and sine of turns within 6e-7, by minimax polynomials.

    Triton's own functions branch on large angles.
    """
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
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + tl.exp2(-LOG2_E * x))


@triton.jit
def softplus(x):
    """Return log(1 + exp(x)) to the relative precision of fp32, by the series of artanh."""
    e = tl.exp2(-LOG2_E * tl.abs(x))
    s = e / (2 + e)
    s2 = s * s
    series = 1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9 + s2 * (1 / 11 + s2 / 13))))
    return tl.maximum(x, 0.0) + 2 * (s + s * s2 * series)


@triton.jit
def sequence_at(sequences, position, place, spec: tl.constexpr):
    """Return the index of the packed sequence that holds a position, -1 outside all."""
    _, length, _, _, _ = place
    return tl.load(sequences + 1 + row_of(position, place, spec), mask=position <= length, other=-1)


@triton.jit
def is_new(sequences, position, direction, place, spec: tl.constexpr):
    """Return the sequence of a position, and whether a walk in `direction` enters it there."""
    sequence = sequence_at(sequences, position, place, spec)
    before = sequence_at(sequences, position - direction, place, spec)
    return sequence.to(tl.int64), (sequence >= 0) & (sequence != before)


@triton.jit
def enter(states, boundary, sequences, position, direction, place, spec: tl.constexpr):
    """Return the states that enter a position.

    Where a packed sequence begins there, they are its row of `boundary`, or zero without a boundary.
    """
    if sequences is None:
        return states
    else:
        sequence, begins = is_new(sequences, position, direction, place, spec)
        if begins:
            if boundary is None:
                states = zero_states(spec)
            else:
                states = load_states(boundary, sequence, place, True, spec)
        return states
