"""The numba type of a vector, its memory access and its arithmetic.

Numba does not vectorize a loop over as many arrays as a scan has, because it cannot prove that they do not
overlap. So kernels use explicit vectors. The width is the same on all machines; LLVM splits a vector into the
machine's registers. Addresses are integers, as from `Tensor.data_ptr`, and indices count fp32 numbers.
"""

# mypy: allow-untyped-defs
# Only numba knows the types of compiled functions.

import operator

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16

_FLOAT, _INTEGER = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTEGERS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INTEGER, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


class Lanes(types.Type):
    """Numba type of LANES fp32 numbers."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type) -> None:
        super().__init__(manager, fe_type, _FLOATS)


def _constant(number: int) -> ir.Constant:
    return ir.Constant(_INTEGERS, [number] * LANES)


def _repeat(builder, number):
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(undefined, number, _INTEGER(0)), undefined, _constant(0)
    )


def _address(builder, address, index, pointee):
    base = builder.inttoptr(address, _FLOAT.as_pointer())
    return builder.bitcast(builder.gep(base, [index]), pointee.as_pointer())


@intrinsic
def load(typing, address, index):
    """Return LANES numbers that start at `index`."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(builder, *arguments, _FLOATS), align=4)

    return lanes(types.int64, types.int64), generate


@intrinsic
def store(typing, address, index, value):
    """Write LANES numbers, starting at `index`."""

    def generate(context, builder, signature, arguments):
        address, index, value = arguments
        builder.store(value, _address(builder, address, index, _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, lanes), generate


@intrinsic
def load_some(typing, address, index, count):
    """Return `count` numbers that start at `index`, zeros in the other lanes."""

    def generate(context, builder, signature, arguments):
        address, index, count = arguments
        pointer = _address(builder, address, index, _FLOATS)
        kinds = [pointer.type, _MASK, _INTEGER]
        name = f"llvm.vp.load.v{LANES}f32.p0"
        function = builder.module.declare_intrinsic(name, (), ir.FunctionType(_FLOATS, kinds))
        count = builder.trunc(count, _INTEGER)
        value = builder.call(function, [pointer, ir.Constant(_MASK, [1] * LANES), count])
        in_range = builder.icmp_signed(
            "<", ir.Constant(_INTEGERS, list(range(LANES))), _repeat(builder, count)
        )
        return builder.select(in_range, value, ir.Constant(_FLOATS, [0.0] * LANES))

    return lanes(types.int64, types.int64, types.int64), generate


@intrinsic
def store_some(typing, address, index, value, count):
    """Write the first `count` numbers, starting at `index`."""

    def generate(context, builder, signature, arguments):
        address, index, value, count = arguments
        pointer = _address(builder, address, index, _FLOATS)
        kinds = [_FLOATS, pointer.type, _MASK, _INTEGER]
        name = f"llvm.vp.store.v{LANES}f32.p0"
        function = builder.module.declare_intrinsic(name, (), ir.FunctionType(ir.VoidType(), kinds))
        count = builder.trunc(count, _INTEGER)
        builder.call(function, [value, pointer, ir.Constant(_MASK, [1] * LANES), count])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, lanes, types.int64), generate


@intrinsic
def read(typing, address, index):
    """Return the number at `index`."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(builder, *arguments, _FLOAT))

    return types.float32(types.int64, types.int64), generate


@intrinsic
def write(typing, address, index, value):
    """Write one number to `index`."""

    def generate(context, builder, signature, arguments):
        address, index, value = arguments
        builder.store(value, _address(builder, address, index, _FLOAT))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), generate


@intrinsic
def splat(typing, number):
    """Return one number in every lane."""

    def generate(context, builder, signature, arguments):
        return _repeat(builder, context.cast(builder, arguments[0], number, types.float32))

    return lanes(number), generate


@intrinsic
def total(typing, value):
    """Return the sum of the lanes."""

    def generate(context, builder, signature, arguments):
        function_type = ir.FunctionType(_FLOAT, [_FLOAT, _FLOATS])
        function = builder.module.declare_intrinsic(f"llvm.vector.reduce.fadd.v{LANES}f32", (), function_type)
        return builder.call(function, [ir.Constant(_FLOAT, -0.0), arguments[0]], fastmath=("reassoc",))

    return types.float32(lanes), generate


def _define(symbol, emit) -> None:
    """Define the operator `symbol` for two vectors, or for a vector and a number."""

    @infer_global(symbol)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            if lanes in args and all(kind == lanes or isinstance(kind, types.Float) for kind in args):
                return signature(lanes, *args)
            return None

    def generate(context, builder, signature, arguments):
        operands = [
            value if kind == lanes else _repeat(builder, context.cast(builder, value, kind, types.float32))
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        return emit(builder, *operands)

    for kinds in ((lanes, lanes), (lanes, types.Float), (types.Float, lanes)):
        lower_builtin(symbol, *kinds)(generate)


# A product and a sum may fuse. Reordering is forbidden: rounding by a large summand relies on the order.
_FLAGS = ("contract", "nsz")
_define(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS))
_define(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS))
_define(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS))
_define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS))


@intrinsic
def fuse(typing, a, b, c):
    """Return a b + c, rounded once if the machine supports it."""

    def generate(context, builder, signature, arguments):
        function_type = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        function = builder.module.declare_intrinsic(f"llvm.fmuladd.v{LANES}f32", (), function_type)
        return builder.call(function, arguments)

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def larger(typing, value, bound):
    """Return the larger of each lane and a number; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        bound = _repeat(builder, context.cast(builder, arguments[1], signature.args[1], types.float32))
        return builder.select(builder.fcmp_ordered("<", arguments[0], bound), bound, arguments[0])

    return lanes(lanes, types.float64), generate


@intrinsic
def smaller(typing, value, bound):
    """Return the smaller of each lane and a number; NaN stays NaN."""

    def generate(context, builder, signature, arguments):
        bound = _repeat(builder, context.cast(builder, arguments[1], signature.args[1], types.float32))
        return builder.select(builder.fcmp_ordered(">", arguments[0], bound), bound, arguments[0])

    return lanes(lanes, types.float64), generate


def _shuffle(order):
    """Return a function of two vectors that selects the lanes `order`; those of the second start at LANES."""

    @intrinsic
    def shuffle(typing, a, b):
        def generate(context, builder, signature, arguments):
            return builder.shuffle_vector(*arguments, ir.Constant(_INTEGERS, order))

        return lanes(lanes, lanes), generate

    return shuffle


evens, odds = _shuffle(list(range(0, 2 * LANES, 2))), _shuffle(list(range(1, 2 * LANES, 2)))
_ALTERNATE = [lane // 2 + lane % 2 * LANES for lane in range(2 * LANES)]
interleave_low, interleave_high = _shuffle(_ALTERNATE[:LANES]), _shuffle(_ALTERNATE[LANES:])


@intrinsic
def bits_to_exponent(typing, value):
    """Return 2^(b - 127) for each lane, where the low bits of its representation are b."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _INTEGERS)
        return builder.bitcast(builder.shl(bits, _constant(23)), _FLOATS)

    return lanes(lanes), generate


@intrinsic
def if_odd(typing, bits, odd, even):
    """Return the lanes of `odd` where the last bit of `bits` is 1, else the lanes of `even`."""

    def generate(context, builder, signature, arguments):
        bits, odd, even = arguments
        last = builder.and_(builder.bitcast(bits, _INTEGERS), _constant(1))
        return builder.select(builder.icmp_signed("!=", last, _constant(0)), odd, even)

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def negate_if_second_bit(typing, bits, value):
    """Return each lane, negated where the second-last bit of `bits` is 1."""

    def generate(context, builder, signature, arguments):
        bits, value = (builder.bitcast(argument, _INTEGERS) for argument in arguments)
        sign = builder.shl(builder.and_(bits, _constant(2)), _constant(30))
        return builder.bitcast(builder.xor(value, sign), _FLOATS)

    return lanes(lanes, lanes), generate
