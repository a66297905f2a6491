"""Elementary functions of vectors, by minimax polynomials. Errors are stated before rounding to fp32."""

# mypy: allow-untyped-defs
# Only numba knows the types of compiled functions.

from numba import njit

from kernels.simd.vector import bits_to_exponent, fuse, if_odd, larger, negate_if_second_bit, smaller, splat

LOG2_E = 1.4426950408889634
# Adding 1.5 * 2^23 rounds a number to an integer and leaves that integer in the low bits of the sum.
_ROUND = 12582912.0
_ROUND_AND_BIAS = _ROUND + 127.0


@njit
def exp2(value):
    """Return 2^value within 9e-8: exactly 1 at 0, 0 below -126.5, infinity from 127.5."""
    value = smaller(larger(value, -127.0), 128.0)
    shifted = value + _ROUND_AND_BIAS
    r = value - (shifted - _ROUND_AND_BIAS)
    polynomial = 0.009671512660562646 + r * 0.001326472689901971
    polynomial = 0.24022242084919262 + r * (0.05550733744244618 + r * polynomial)
    return bits_to_exponent(shifted) * (1.0 + r * (0.6931469775984712 + r * polynomial))


@njit
def exp(value):
    """Return e^value within 3e-9: 0 below -87.7, infinity from 88.4."""
    value = smaller(larger(value, -88.03), 88.72)
    shifted = value * LOG2_E + _ROUND_AND_BIAS
    k = shifted - _ROUND_AND_BIAS
    # log(2) in two parts; the first has few bits, so that k times it is exact.
    r = fuse(k, splat(-1.4286068203094172e-06), fuse(k, splat(-0.693145751953125), value))
    polynomial = 0.008368709842547294 + r * 0.0013814612982590482
    polynomial = 0.1666652068963505 + r * (0.04166838736701653 + r * polynomial)
    return bits_to_exponent(shifted) * (1.0 + (r + (r * r) * (0.49999993451679725 + r * polynomial)))


@njit
def cosine_and_sine(angle):
    """Return (cos angle, sin angle) within 4e-9, for |angle| up to 1e6."""
    quarters = angle * 0.6366197723675814 + _ROUND
    k = quarters - _ROUND
    # pi / 2 in two parts: rounded to fp32, the phase of a frequency would drift over a long sequence.
    r = fuse(k, splat(4.371139006309477e-08), fuse(k, splat(-1.5707963705062866), angle))
    s = r * r
    cosine = 0.041666646866424954 + s * (-0.0013887367515018716 + s * 2.443845152254277e-05)
    cosine = 1.0 + s * (-0.5 + s * cosine)
    sine = -0.1666665460955877 + s * (0.008332160762372708 + s * -0.00019515283250444524)
    sine = r + r * (s * sine)
    return (
        negate_if_second_bit(quarters + 1.0, if_odd(quarters, sine, cosine)),
        negate_if_second_bit(quarters, if_odd(quarters, cosine, sine)),
    )


@njit
def sigmoid(value):
    """Return 1 / (1 + exp(-value))."""
    return 1.0 / (1.0 + exp(0.0 - value))


@njit
def silu(value):
    """Return value / (1 + exp(-value))."""
    return value * sigmoid(value)


@njit
def softplus(value):
    """Return log(1 + exp(value)) as max(value, 0) + log(1 + u), u = exp(-|value|); the logarithm within 5e-9.

    From about 17 on the result is `value`, so it agrees with a softplus that has a threshold of 20.
    """
    positive = larger(value, 0.0)
    u = exp(value - positive - positive)
    polynomial = 0.02020457183314621 + u * -0.003318469627601711
    polynomial = 0.10680553071545944 + u * (-0.05766441980447945 + u * polynomial)
    polynomial = 0.19695400077321928 + u * (-0.15355394897539804 + u * polynomial)
    polynomial = 0.3333051131406872 + u * (-0.24958587341192875 + u * polynomial)
    return positive + (u + (u * u) * (-0.4999993276347996 + u * polynomial))
