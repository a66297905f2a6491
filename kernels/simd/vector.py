"""The type of a vector in numba, its memory and its arithmetic.

Numba vectorises no loop over as many arrays as a scan has (it cannot show that they do not overlap), so
kernels say what is a vector. Its width is one for all machines: LLVM splits it into the registers there are.
Addresses are integers, as of `Tensor.data_ptr`, and indices count fp32 numbers.
"""

# mypy: allow-untyped-defs
# What is compiled has types that only numba knows.

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
    """The numba type of LANES fp32 numbers."""

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
    """Return the LANES numbers from `index` on."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(builder, *arguments, _FLOATS), align=4)

    return lanes(types.int64, types.int64), generate


@intrinsic
def store(typing, address, index, value):
    """Write LANES numbers from `index` on."""

    def generate(context, builder, signature, arguments):
        address, index, value = arguments
        builder.store(value, _address(builder, address, index, _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, lanes), generate


@intrinsic
def load_some(typing, address, index, count):
    """Return the `count` numbers from `index` on, zeros in the other lanes."""

    def generate(context, builder, signature, arguments):
        address, index, count = arguments
        pointer = _address(builder, address, index, _FLOATS)
        kinds = [pointer.type, _MASK, _INTEGER]
        name = f"llvm.vp.load.v{LANES}f32.p0"
        function = builder.module.declare_intrinsic(name, (), ir.FunctionType(_FLOATS, kinds))
        count = builder.trunc(count, _INTEGER)
        value = builder.call(function, [pointer, ir.Constant(_MASK, [1] * LANES), count])
        there = builder.icmp_signed("<", ir.Constant(_INTEGERS, list(range(LANES))), _repeat(builder, count))
        return builder.select(there, value, ir.Constant(_FLOATS, [0.0] * LANES))

    return lanes(types.int64, types.int64, types.int64), generate


@intrinsic
def store_some(typing, address, index, value, count):
    """Write the first `count` numbers from `index` on."""

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
    """Return the one number at `index`."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(builder, *arguments, _FLOAT))

    return types.float32(types.int64, types.int64), generate


@intrinsic
def write(typing, address, index, value):
    """Write one number at `index`."""

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
    """Give two vectors, or a vector and a number, the operator `symbol`."""

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


# A product and a sum may fuse; nothing may be reordered, on which rounding by a large summand relies.
_FLAGS = ("contract", "nsz")
_define(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS))
_define(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS))
_define(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS))
_define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS))


@intrinsic
def fuse(typing, a, b, c):
    """Return a b + c, rounded once where the machine can."""

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
    """Return a function of two vectors that takes the lanes of `order`, the second's from LANES on."""

    @intrinsic
    def chosen(typing, a, b):
        def generate(context, builder, signature, arguments):
            return builder.shuffle_vector(*arguments, ir.Constant(_INTEGERS, order))

        return lanes(lanes, lanes), generate

    return chosen


evens, odds = _shuffle(list(range(0, 2 * LANES, 2))), _shuffle(list(range(1, 2 * LANES, 2)))
_ALTERNATE = [lane // 2 + lane % 2 * LANES for lane in range(2 * LANES)]
interleave_low, interleave_high = _shuffle(_ALTERNATE[:LANES]), _shuffle(_ALTERNATE[LANES:])


@intrinsic
def bits_to_exponent(typing, value):
    """Return the power of two whose biased exponent is the low bits of each lane's representation."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _INTEGERS)
        return builder.bitcast(builder.shl(bits, _constant(23)), _FLOATS)

    return lanes(lanes), generate


@intrinsic
def if_odd(typing, bits, odd, even):
    """Return the lanes of `odd` where the representation of `bits` ends in 1, else those of `even`."""

    def generate(context, builder, signature, arguments):
        bits, odd, even = arguments
        last = builder.and_(builder.bitcast(bits, _INTEGERS), _constant(1))
        return builder.select(builder.icmp_signed("!=", last, _constant(0)), odd, even)

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def negate_if_second_bit(typing, bits, value):
    """Return each lane with its sign changed where the last bit but one of `bits` is 1."""

    def generate(context, builder, signature, arguments):
        bits, value = (builder.bitcast(argument, _INTEGERS) for argument in arguments)
        sign = builder.shl(builder.and_(bits, _constant(2)), _constant(30))
        return builder.bitcast(builder.xor(value, sign), _FLOATS)

    return lanes(lanes, lanes), generate
