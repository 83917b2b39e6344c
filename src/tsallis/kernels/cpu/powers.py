"""Logarithms and powers of vectors, to a few units in the last place, without a call of the C library."""

from __future__ import annotations

from math import factorial, log
from typing import Any

from llvmlite import ir
from numba.core import types

from .arithmetic import choose, greater, like
from .compiler import device
from .simd import FLAGS, call, intrinsic, suffix

LN2 = log(2.0)


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


def polynomial(doc: str, coefficients: dict[Any, tuple[float, ...]]) -> Any:
    """A polynomial as a function of vectors, its coefficients chosen by their dtype, constant term first."""

    def function(typingctx: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = args[0].type
            constant = lambda value: ir.Constant(vector, [value] * x.lanes)  # noqa: E731
            *rest, last = coefficients[x.dtype]
            total = constant(last)
            for value in reversed(rest):
                total = builder.fadd(builder.fmul(total, args[0], flags=FLAGS), constant(value), flags=FLAGS)
            return total

        return x(x), code

    function.__doc__ = doc
    return intrinsic(function)


# Interpolation at Chebyshev nodes, relative error 3e-8 and 9e-18 (log), 3e-9 and 4e-18 (exp).
_log_quotient = polynomial(
    "log2(1 + t)/t for 1 + t in [sqrt(1/2), sqrt(2)].",
    {
        types.float32: (
            1.442695, -0.721347468, 0.480910753, -0.360693268, 0.287903261, -0.239169881, 0.216078226, -0.205861881,
            0.123109685,
        ),
        types.float64: (
            1.4426950408889634, -0.7213475204444822, 0.4808983469629793, -0.3606737602218718, 0.2885390081799428,
            -0.240449173549558, 0.20609929137787664, -0.18033687436152818, 0.16029945342821048, -0.14426976700975894,
            0.13115422276901945, -0.12021762501443926, 0.11096631074823189, -0.1031564771346186, 0.09643400946674259,
            -0.0893036861956003, 0.08175306478371262, -0.08234343834443268, 0.09414882662095735, -0.08546741793954375,
            0.03677416934714219,
        ),
    },
)  # fmt: skip
_exp_fraction = polynomial(
    "2^f for f in [-1/2, 1/2].",
    {
        types.float32: (1.0, 0.693147207, 0.240226509, 0.0555032723, 0.00961805668, 0.00134004282, 0.000154614447),
        types.float64: (
            1.0, 0.6931471805599453, 0.2402265069591016, 0.055504108664821625, 0.009618129107587256,
            0.001333355814640647, 0.00015403530463724353, 1.5252733841556773e-05, 1.3215432535912375e-06,
            1.0178057087733941e-07, 7.074194297288521e-09, 4.4558179083360645e-10,
        ),
    },
)  # fmt: skip


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


_psi_series = polynomial(
    "Taylor series of psi, whose first omitted term is below the rounding error for |x| < 1.",
    {
        types.float32: tuple((j + 1) / factorial(j + 2) for j in range(10)),
        types.float64: tuple((j + 1) / factorial(j + 2) for j in range(20)),
    },
)


@device
def tsallis_log_slope(p, a):
    """Derivative in alpha of the deformed logarithm at fixed p > 0: l^2 psi(a l), l = log p (`core.numerics`)."""
    ell = LN2 * log2(p)
    x = a * ell
    near = (x < 1.0) & (x > -1.0)
    power = exp2(x / LN2)
    far = choose(near, like(x, 1.0), x)
    return ell * ell * choose(near, _psi_series(choose(near, x, 0.0)), (far * power - (power - 1.0)) / (far * far))
