"""Operators and functions of vectors: ``+ - * /``, comparisons, choices.

No operation may be re-associated: the formulas rely on it. NaN and infinities keep their meaning everywhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from .simd import FLAGS, Vector, call, intrinsic, llvm_type, spread_over, suffix, truths_of


def _spread(context: Any, builder: Any, sig: Any, args: Any) -> list[Any]:
    """The arguments, numbers among them spread over a vector."""
    target = next(t for t in sig.args if isinstance(t, Vector))
    vector = llvm_type(context, target)
    return [
        value if isinstance(kind, Vector)
        else spread_over(context, builder, vector, context.cast(builder, value, kind, target.dtype))
        for value, kind in zip(args, sig.args, strict=True)
    ]  # fmt: skip


def _operation(function: Callable[..., Any], emit: Callable[[Any, Any, Any], Any], *, compares: bool = False) -> None:
    """Define an operator between vectors, and between vectors and numbers."""

    @infer_global(function)  # pyright: ignore[reportOptionalCall]
    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) != 2 or not any(isinstance(a, Vector) for a in args):
                return None
            if not all(isinstance(a, Vector | types.Number) for a in args):
                return None
            target = next(a for a in args if isinstance(a, Vector))
            return signature(truths_of(target) if compares else target, *args)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *_spread(context, builder, sig, args))

    for left, right in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, left, right)(code)


_operation(operator.add, lambda b, x, y: b.fadd(x, y, flags=FLAGS))
_operation(operator.sub, lambda b, x, y: b.fsub(x, y, flags=FLAGS))
_operation(operator.mul, lambda b, x, y: b.fmul(x, y, flags=FLAGS))
_operation(operator.truediv, lambda b, x, y: b.fdiv(x, y, flags=FLAGS))
for _function, _symbol in ((operator.gt, ">"), (operator.lt, "<"), (operator.ge, ">="), (operator.le, "<=")):
    _operation(_function, lambda b, x, y, s=_symbol: b.fcmp_ordered(s, x, y), compares=True)
_operation(operator.eq, lambda b, x, y: b.fcmp_ordered("==", x, y), compares=True)


def _logical(function: Callable[..., Any], emit: Callable[[Any, Any, Any], Any]) -> None:
    @infer_global(function)  # pyright: ignore[reportOptionalCall]
    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            both = len(args) == 2 and all(isinstance(a, Vector) and a.dtype == types.boolean for a in args)
            return signature(args[0], *args) if both else None

    lower_builtin(function, Vector, Vector)(lambda context, builder, sig, args: emit(builder, *args))


_logical(operator.and_, lambda b, x, y: b.and_(x, y))
_logical(operator.or_, lambda b, x, y: b.or_(x, y))


@intrinsic
def unordered(typingctx: Any, x: Any, y: Any) -> Any:
    """Where x or y is NaN."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fcmp_unordered("uno", *args)

    return truths_of(x)(x, y), code


@intrinsic
def like(typingctx: Any, x: Any, number: Any) -> Any:
    """The vector of the type of x whose lanes all hold the number."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = context.cast(builder, args[1], number, x.dtype)
        return spread_over(context, builder, args[0].type, scalar)

    return x(x, number), code


@intrinsic
def choose(typingctx: Any, truths: Any, x: Any, y: Any) -> Any:
    """x where true, else y, which may be a number."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        other = args[2] if isinstance(y, Vector) else spread_over(
            context, builder, args[1].type, context.cast(builder, args[2], y, x.dtype)
        )  # fmt: skip
        return builder.select(args[0], args[1], other)

    return x(truths, x, y), code


def _pairwise(doc: str, emit: Callable[[Any, Any, Any], Any]) -> Any:
    def function(typingctx: Any, x: Any, y: Any) -> Any:
        target = x if isinstance(x, Vector) else y

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, *_spread(context, builder, sig, args))

        return target(x, y), code

    function.__doc__ = doc
    return intrinsic(function)


greater = _pairwise(
    "The larger of x and y in each lane; y where they do not compare.",
    lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y),
)


@intrinsic
def lost(typingctx: Any, x: Any, y: Any, xy: Any) -> Any:
    """What the product xy of x and y lost to rounding."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        negated = builder.fneg(args[2])
        return call(builder, f"llvm.fma.{suffix(x)}", args[0].type, [args[0], args[1], negated])

    return x(x, y, xy), code


@intrinsic
def root(typingctx: Any, x: Any) -> Any:
    """Square roots."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.sqrt.{suffix(x)}", args[0].type, list(args))

    return x(x), code
