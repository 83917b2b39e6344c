"""Tiles: as many vectors as a vector has lanes, one below the other; a row's sum lands in the lane of its number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .simd import BYTES, I32, I64, intrinsic, llvm_type, vector_at, vector_of


def _tile(builder: Any, ptr: Any, vector: Any) -> list[Any]:
    n = vector.count
    return [builder.load(vector_at(builder, ptr, I64(i * n), vector), align=4) for i in range(n)]


def _riffle(builder: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """x0 y0 x1 y1 ... as two vectors."""
    n = x.type.count
    order = [i // 2 + (i % 2) * n for i in range(2 * n)]
    kind = ir.VectorType(I32, n)
    low, high = (ir.Constant(kind, part) for part in (order[:n], order[n:]))
    return builder.shuffle_vector(x, y, low), builder.shuffle_vector(x, y, high)


@intrinsic
def transpose(typingctx: Any, source: Any, target: Any) -> Any:
    """Write the transpose of the tile at source to target."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = llvm_type(context, vector_of(source.dtype))
        rows, n = _tile(builder, args[0], vector), vector.count
        for _ in range(n.bit_length() - 1):
            half = n // 2
            rows = [v for i in range(half) for v in _riffle(builder, rows[i], rows[i + half])]
        for i, row in enumerate(rows):
            builder.store(row, vector_at(builder, args[1], I64(i * n), vector), align=4)
        return context.get_dummy_value()

    return types.void(source, source), code


def _reduction(doc: str, emit: Callable[[Any, Any, Any], Any]) -> Any:
    def function(typingctx: Any, ptr: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            rows = _tile(builder, args[0], llvm_type(context, sig.return_type))
            while len(rows) > 1:
                half = len(rows) // 2
                rows = [emit(builder, *_riffle(builder, rows[i], rows[i + half])) for i in range(half)]
            return rows[0]

        return vector_of(ptr.dtype)(ptr), code

    function.__doc__ = doc
    return intrinsic(function)


row_sums = _reduction("The sum of each vector of a tile, in the lane of its number.", lambda b, x, y: b.fadd(x, y))
row_maxima = _reduction(
    "The largest lane of each vector of a tile, in the lane of its number; NaN may be passed over.",
    lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y),
)


@intrinsic
def tile(typingctx: Any, ptr: Any) -> Any:
    """Room on the stack for a tile."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = llvm_type(context, vector_of(ptr.dtype))
        room = cgutils.alloca_once(builder, ir.ArrayType(vector, vector.count))
        room.align = BYTES
        return builder.bitcast(room, ir.PointerType(vector.element))

    return ptr(ptr), code
