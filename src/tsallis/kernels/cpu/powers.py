"""Logarithms and powers of vectors, to a few units in the last place, without a call of the C library."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from ..coefficients import EXP_FRACTION, LOG_QUOTIENT, PSI
from .arithmetic import choose, greater
from .compiler import device
from .simd import FLAGS, call, intrinsic, suffix


@intrinsic
def smallest_exponent(typingctx: Any, x: Any) -> Any:
    """log2 of the smallest normal number."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.DoubleType()(-126.0 if x.dtype == types.float32 else -1022.0)

    return types.float64(x), code


@intrinsic
def split(typingctx: Any, y: Any) -> Any:
    """(m, e) with y = 2^e m and m in [sqrt(1/2), sqrt(2)), for positive finite normal y."""
    narrow = y.dtype == types.float32
    bits, fraction = (32, 23) if narrow else (64, 52)
    half_root = 0x3F3504F3 if narrow else 0x3FE6A09E667F3BCD

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(bits), y.lanes)
        constant = lambda value: ir.Constant(vector, [value] * y.lanes)  # noqa: E731
        raw = builder.bitcast(args[0], vector)
        shifted = builder.sub(raw, constant(half_root))
        exponent = builder.ashr(shifted, constant(fraction))
        mantissa = builder.sub(raw, builder.shl(exponent, constant(fraction)))
        pair = [builder.bitcast(mantissa, args[0].type), builder.sitofp(exponent, args[0].type)]
        return context.make_tuple(builder, sig.return_type, pair)

    return types.UniTuple(y, 2)(y), code


@intrinsic
def whole(typingctx: Any, x: Any) -> Any:
    """(n, 2^n) for x rounded to the nearest integer n, which must be the exponent of a normal number."""
    narrow = x.dtype == types.float32
    bits, fraction, bias = (32, 23, 127) if narrow else (64, 52, 1023)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(bits), x.lanes)
        constant = lambda value: ir.Constant(vector, [value] * x.lanes)  # noqa: E731
        nearest = call(builder, f"llvm.rint.{suffix(x)}", args[0].type, list(args))
        biased = builder.add(builder.fptosi(nearest, vector), constant(bias))
        power = builder.bitcast(builder.shl(biased, constant(fraction)), args[0].type)
        return context.make_tuple(builder, sig.return_type, [nearest, power])

    return types.UniTuple(x, 2)(x), code


def polynomial(doc: str, coefficients: dict[int, tuple[float, ...]]) -> Any:
    """A polynomial of `kernels.coefficients` as a function of vectors."""

    def function(typingctx: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = args[0].type
            constant = lambda value: ir.Constant(vector, [value] * x.lanes)  # noqa: E731
            *rest, last = coefficients[x.dtype.bitwidth]
            total = constant(last)
            for value in reversed(rest):
                total = builder.fadd(builder.fmul(total, args[0], flags=FLAGS), constant(value), flags=FLAGS)
            return total

        return x(x), code

    function.__doc__ = doc
    return intrinsic(function)


_log_quotient = polynomial("log2(1 + t)/t for 1 + t in [sqrt(1/2), sqrt(2)].", LOG_QUOTIENT)
_exp_fraction = polynomial("2^f for f in [-1/2, 1/2].", EXP_FRACTION)
psi_series = polynomial("psi(x) for |x| < 1.", PSI)


@device
def log2(y):
    """log2 of positive finite normal numbers."""
    mantissa, exponent = split(y)
    t = mantissa - 1.0
    return exponent + t * _log_quotient(t)


@device
def log2_1p(x, y):
    """log2 of y = 1 + x, from x where y is near one, so that nothing is lost for small x."""
    mantissa, exponent = split(y)
    t = choose(exponent == 0.0, x, mantissa - 1.0)
    return exponent + t * _log_quotient(t)


@device
def exp2(x):
    """2^x for x below the exponent of the largest number; 0 where the result would not be normal."""
    lowest = smallest_exponent(x)
    n, power = whole(greater(x, lowest))
    value = power * _exp_fraction(greater(x, lowest) - n)
    return choose(x > lowest, value, 0.0)
