"""Vectors of real or complex states, so that one kernel source serves both.

A kernel takes an argument `kind`, REAL or COMPLEX, and is compiled once for each. In memory the imaginary
parts of a vector of states lie `plane` numbers after the real parts.
"""

# mypy: allow-untyped-defs
# Only numba knows the types of compiled functions.

import hashlib
import operator
from pathlib import Path

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import (
    NativeValue,
    intrinsic,
    make_attribute_wrapper,
    models,
    overload,
    register_model,
    unbox,
)

from kernels.simd.functions import LOG2_E, cosine_and_sine, exp2
from kernels.simd.vector import (
    LANES,
    Lanes,
    evens,
    fuse,
    interleave_high,
    interleave_low,
    lanes,
    load,
    load_some,
    odds,
    read,
    splat,
    store,
    store_some,
    total,
    write,
)


def _digest() -> str:
    """Return a hash of all compiled source: this folder and cpu*.py of the operators."""
    here = Path(__file__).parent
    sources = sorted([*here.glob("*.py"), *here.parent.glob("*/cpu*.py")])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


class _KindType(types.Opaque):
    pass


class Kind:
    """Kind of states, real or complex. A compiled function selects by the type of this argument.

    Numba's cache on disk notices changes in the file of a function, but not in the files that it calls. The
    hash in the name of the type makes the cache notice those too.
    """

    def __init__(self, name: str, parts: int) -> None:
        self.parts = parts
        self._numba_type_ = _KindType(f"{name} {_DIGEST}")


_DIGEST = _digest()
REAL, COMPLEX = Kind("real", 1), Kind("complex", 2)
register_model(_KindType)(models.OpaqueModel)


@unbox(_KindType)
def _unbox_kind(fe_type, value, context):
    return NativeValue(context.context.get_dummy_value())


class ComplexLanes(types.Type):
    """Numba type of LANES complex numbers with real parts `re` and imaginary parts `im`."""

    def __init__(self) -> None:
        super().__init__(name="ComplexLanes")


complex_lanes = ComplexLanes()


@register_model(ComplexLanes)
class _ComplexLanesModel(models.StructModel):
    def __init__(self, manager, fe_type) -> None:
        super().__init__(manager, fe_type, [("re", lanes), ("im", lanes)])


make_attribute_wrapper(ComplexLanes, "re", "re")
make_attribute_wrapper(ComplexLanes, "im", "im")


@intrinsic
def combine(typing, re, im):
    """Return re + i im."""

    def generate(context, builder, signature, arguments):
        pair = ir.Constant(context.get_value_type(complex_lanes), ir.Undefined)
        return builder.insert_value(builder.insert_value(pair, arguments[0], 0), arguments[1], 1)

    return complex_lanes(lanes, lanes), generate


def fill_states(number, kind):
    """Return states that all equal one real number."""


def load_states(address, index, plane, kind):
    """Return the states that start at `index`."""


def spread_state(address, index, kind):
    """Return the state at `index`, its parts adjacent in memory, in every lane."""


def store_states(address, index, plane, value):
    """Write states, starting at `index`."""


def load_adjacent_states(address, index, count, kind):
    """Return `count` states that start at `index`, their parts adjacent; zeros in the other lanes."""


def store_adjacent_states(address, index, value, count):
    """Write the first `count` states, starting at `index`, their parts adjacent."""


def write_total(address, index, value):
    """Write the sum of the states to `index`, its parts adjacent."""


def exponential(A, dt):
    """Return exp(dt A) for real dt."""


def multiply_add(a, b, c):
    """Return a b + c with the shortest latency from b, on which a recurrence depends."""


def real(value):
    """Return the real parts."""


def conjugate(value):
    """Return the complex conjugates."""


@overload(operator.add)
def _add(a, b):
    if isinstance(a, ComplexLanes) and isinstance(b, ComplexLanes):
        return lambda a, b: combine(a.re + b.re, a.im + b.im)
    return None


@overload(operator.mul)
def _multiply(a, b):
    if isinstance(a, ComplexLanes) and isinstance(b, ComplexLanes):
        return lambda a, b: combine(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re)
    if isinstance(a, ComplexLanes) and isinstance(b, Lanes):
        return lambda a, b: combine(a.re * b, a.im * b)
    return None


def _is_complex(kind) -> bool:
    return kind == COMPLEX._numba_type_


@overload(fill_states)
def _fill_states(number, kind):
    if _is_complex(kind):
        return lambda number, kind: combine(splat(number), splat(0.0))
    return lambda number, kind: splat(number)


@overload(load_states)
def _load_states(address, index, plane, kind):
    if _is_complex(kind):
        return lambda address, index, plane, kind: combine(load(address, index), load(address, index + plane))
    return lambda address, index, plane, kind: load(address, index)


@overload(spread_state)
def _spread_state(address, index, kind):
    if _is_complex(kind):
        return lambda address, index, kind: combine(
            splat(read(address, index)), splat(read(address, index + 1))
        )
    return lambda address, index, kind: splat(read(address, index))


@overload(store_states)
def _store_states(address, index, plane, value):
    if not isinstance(value, ComplexLanes):
        return lambda address, index, plane, value: store(address, index, value)

    def store_parts(address, index, plane, value):
        store(address, index, value.re)
        store(address, index + plane, value.im)

    return store_parts


@overload(load_adjacent_states)
def _load_adjacent_states(address, index, count, kind):
    if not _is_complex(kind):
        return lambda address, index, count, kind: load_some(address, index, count)

    def load_pairs(address, index, count, kind):
        low = load_some(address, index, min(2 * count, LANES))
        high = load_some(address, index + LANES, max(2 * count - LANES, 0))
        return combine(evens(low, high), odds(low, high))

    return load_pairs


@overload(store_adjacent_states)
def _store_adjacent_states(address, index, value, count):
    if not isinstance(value, ComplexLanes):
        return lambda address, index, value, count: store_some(address, index, value, count)

    def store_pairs(address, index, value, count):
        store_some(address, index, interleave_low(value.re, value.im), min(2 * count, LANES))
        store_some(address, index + LANES, interleave_high(value.re, value.im), max(2 * count - LANES, 0))

    return store_pairs


@overload(write_total)
def _write_total(address, index, value):
    if not isinstance(value, ComplexLanes):
        return lambda address, index, value: write(address, index, total(value))

    def write_parts(address, index, value):
        write(address, index, total(value.re))
        write(address, index + 1, total(value.im))

    return write_parts


@overload(exponential)
def _exponential(A, dt):
    if not isinstance(A, ComplexLanes):
        return lambda A, dt: exp2(dt * (A * LOG2_E))

    def polar(A, dt):
        magnitude = exp2(dt * (A.re * LOG2_E))
        cosine, sine = cosine_and_sine(dt * A.im)
        return combine(magnitude * cosine, magnitude * sine)

    return polar


@overload(multiply_add)
def _multiply_add(a, b, c):
    if not isinstance(a, ComplexLanes):
        return lambda a, b, c: fuse(a, b, c)
    return lambda a, b, c: combine(fuse(a.re, b.re, c.re - a.im * b.im), fuse(a.re, b.im, c.im + a.im * b.re))


@overload(real)
def _real(value):
    return (lambda value: value.re) if isinstance(value, ComplexLanes) else (lambda value: value)


@overload(conjugate)
def _conjugate(value):
    if isinstance(value, ComplexLanes):
        return lambda value: combine(value.re, 0.0 - value.im)
    return lambda value: value
