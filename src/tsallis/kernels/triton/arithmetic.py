"""Words of the Triton language for the members of the family, and the powers they are made of.

Hardware logarithms are right to an absolute error only; near 1 the members need a relative one, so logarithms are
polynomials of `kernels.coefficients`, as on CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..coefficients import LOG_QUOTIENT, PSI
from ..members import LN2 as LN2_NUMBER
from ..members import TINY as TINY_NUMBER
from ..members import compiled_with

INF = tl.constexpr(float("inf"))
LN2 = tl.constexpr(LN2_NUMBER)
TINY = tl.constexpr(TINY_NUMBER)
_LOG32, _LOG64 = tl.constexpr(LOG_QUOTIENT[32]), tl.constexpr(LOG_QUOTIENT[64])
_PSI32, _PSI64 = tl.constexpr(PSI[32]), tl.constexpr(PSI[64])
_LOG32_TERMS, _LOG64_TERMS = tl.constexpr(len(LOG_QUOTIENT[32])), tl.constexpr(len(LOG_QUOTIENT[64]))
_PSI32_TERMS, _PSI64_TERMS = tl.constexpr(len(PSI[32])), tl.constexpr(len(PSI[64]))


@triton.jit
def choose(truths, x, y):
    return tl.where(truths, x, y)


@triton.jit
def greater(x, y):
    return tl.maximum(x, y)


@triton.jit
def like(x, number):
    return tl.full(x.shape, number, x.dtype)


@triton.jit
def root(x):
    return tl.sqrt_rn(x) if x.dtype == tl.float32 else tl.sqrt(x)


@triton.jit
def _horner(x, COEFFICIENTS: tl.constexpr, TERMS: tl.constexpr):
    total = tl.full(x.shape, COEFFICIENTS[TERMS - 1], x.dtype)
    for i in tl.static_range(1, TERMS):
        total = total * x + COEFFICIENTS[TERMS - 1 - i]
    return total


@triton.jit
def polynomial(x, C32: tl.constexpr, TERMS32: tl.constexpr, C64: tl.constexpr, TERMS64: tl.constexpr):
    """The polynomial for the dtype of x."""
    if x.dtype == tl.float32:
        return _horner(x, C32, TERMS32)
    else:
        return _horner(x, C64, TERMS64)


@triton.jit
def split(y):
    """(m, e) with y = 2^e m and m in [sqrt(1/2), sqrt(2)), for positive finite normal y."""
    if y.dtype == tl.float32:
        raw = y.to(tl.int32, bitcast=True)
        exponent = (raw - 0x3F3504F3) >> 23
        mantissa = (raw - (exponent << 23)).to(tl.float32, bitcast=True)
    else:
        raw = y.to(tl.int64, bitcast=True)
        exponent = (raw - 0x3FE6A09E667F3BCD) >> 52
        mantissa = (raw - (exponent << 52)).to(tl.float64, bitcast=True)
    return mantissa, exponent.to(y.dtype)


@triton.jit
def _log_quotient(t):
    return polynomial(t, _LOG32, _LOG32_TERMS, _LOG64, _LOG64_TERMS)


@triton.jit
def log2(y):
    """log2 of positive finite normal numbers."""
    mantissa, exponent = split(y)
    t = mantissa - 1.0
    return exponent + t * _log_quotient(t)


@triton.jit
def log2_1p(x, y):
    """log2 of y = 1 + x, from x where y is near one, so that nothing is lost for small x."""
    mantissa, exponent = split(y)
    t = tl.where(exponent == 0.0, x, mantissa - 1.0)
    return exponent + t * _log_quotient(t)


@triton.jit
def exp2(x):
    return tl.exp2(x)


@triton.jit
def lost(x, y, xy):
    """What a product lost to rounding."""
    if x.dtype == tl.float32:
        return (x.to(tl.float64) * y.to(tl.float64) - xy.to(tl.float64)).to(tl.float32)
    else:
        return tl.fma(x, y, -xy)


@triton.jit
def psi_series(x):
    return polynomial(x, _PSI32, _PSI32_TERMS, _PSI64, _PSI64_TERMS)


@triton.jit
def expm1(y):
    """e^y - 1 without loss for small y (Kahan's quotient)."""
    u = tl.exp(y)
    near = (u > 0.5) & (u < 2.0) & (u != 1.0)
    quotient = (u - 1.0) * y / tl.log(tl.where(near, u, 2.0))
    return tl.where(u == 1.0, y, tl.where(near, quotient, u - 1.0))


members = compiled_with(
    {
        "choose": choose,
        "greater": greater,
        "like": like,
        "root": root,
        "log2": log2,
        "log2_1p": log2_1p,
        "exp2": exp2,
        "lost": lost,
        "psi_series": psi_series,
        "INF": INF,
        # The interpreter wants to see the language among a function's names.
        "tl": tl,
    },
    triton.jit,
    tl.constexpr,
)
(
    sparsemax_arguments, entmax15_arguments, power_arguments, edge_sparsemax, edge_entmax15, edge_power,
    evaluate_sparsemax, evaluate_entmax15, evaluate_power, advance_sparsemax, advance_entmax15, advance_power,
    weight_sparsemax, weight_entmax15, weight_power, entropy_sparsemax, entropy_entmax15, entropy_power, accelerate,
    tsallis_log_slope,
) = (
    members.sparsemax_arguments, members.entmax15_arguments, members.power_arguments, members.edge_sparsemax,
    members.edge_entmax15, members.edge_power, members.evaluate_sparsemax, members.evaluate_entmax15,
    members.evaluate_power, members.advance_sparsemax, members.advance_entmax15, members.advance_power,
    members.weight_sparsemax, members.weight_entmax15, members.weight_power, members.entropy_sparsemax,
    members.entropy_entmax15, members.entropy_power, members.accelerate, members.tsallis_log_slope,
)  # fmt: skip

SPARSEMAX, ENTMAX15, POWER, NORMMAX = (tl.constexpr(i) for i in range(4))


@triton.jit
def arguments(X, Y, scale, exponent, KIND: tl.constexpr):
    if KIND == SPARSEMAX:
        return sparsemax_arguments(0.0, X, Y, scale, exponent)
    elif KIND == ENTMAX15:
        return entmax15_arguments(0.0, X, Y, scale, exponent)
    else:
        return power_arguments(0.0, X, Y, scale, exponent)


@triton.jit
def evaluate(d, first, second, third, KIND: tl.constexpr):
    if KIND == SPARSEMAX:
        return evaluate_sparsemax(d, 0.0, first, second, third)
    elif KIND == ENTMAX15:
        return evaluate_entmax15(d, 0.0, first, second, third)
    else:
        return evaluate_power(d, 0.0, first, second, third)


@triton.jit
def advance(S, W, X, Y, scale, exponent, KIND: tl.constexpr):
    if KIND == SPARSEMAX:
        return advance_sparsemax(S, W, X, Y, scale, exponent)
    elif KIND == ENTMAX15:
        return advance_entmax15(S, W, X, Y, scale, exponent)
    else:
        return advance_power(S, W, X, Y, scale, exponent)


@triton.jit
def edge(X, scale, KIND: tl.constexpr):
    if KIND == SPARSEMAX:
        return edge_sparsemax(X, scale)
    elif KIND == ENTMAX15:
        return edge_entmax15(X, scale)
    else:
        return edge_power(X, scale)


@triton.jit
def weight(p, alpha, KIND: tl.constexpr):
    if KIND == SPARSEMAX:
        return weight_sparsemax(p, alpha)
    elif KIND == ENTMAX15:
        return weight_entmax15(p, alpha)
    else:
        return weight_power(p, alpha)


@triton.jit
def entropy(p, a, alpha, KIND: tl.constexpr):
    if KIND == SPARSEMAX:
        return entropy_sparsemax(p, a, alpha)
    elif KIND == ENTMAX15:
        return entropy_entmax15(p, a, alpha)
    else:
        return entropy_power(p, a, alpha)
