"""Words of 64 bits, and a counter that threads share."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from ..simd import I64, call, intrinsic


@intrinsic
def ones(typingctx: Any, word: Any) -> Any:
    """How many bits of a word are on."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, "llvm.ctpop.i64", I64, [args[0]])

    return types.int64(types.int64), code


@intrinsic
def lowest(typingctx: Any, word: Any) -> Any:
    """The place of the first bit that is on, of a word that has one."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, "llvm.cttz.i64", I64, [args[0], ir.IntType(1)(1)])

    return types.int64(types.int64), code


@intrinsic
def as_word(typingctx: Any, truths: Any) -> Any:
    """The lanes of a vector of truth values as the first bits of a word."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(truths.lanes)), I64)

    return types.int64(truths), code


@intrinsic
def take(typingctx: Any, counter: Any) -> Any:
    """The number behind a pointer, which is one more for whoever asks next, on whatever thread."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], I64(1), "monotonic")

    return types.int64(counter), code
