"""Vectors of the machine as values in numba code: 64 bytes, so 16 float32 or 8 float64.

What the auto-vectoriser makes of a loop depends on its shape, its length and the version of LLVM. Here the code says
what it wants: `load` a vector, compute with ``+ - * /`` and comparisons, `store` it. On machines with narrower vectors
LLVM splits each into several.

No operation may be re-associated except the sums over a vector (`add_up`): the formulas rely on it. NaN and infinities
keep their meaning everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

BYTES = 64
FLAGS = ("contract", "arcp", "nsz", "afn")
INF, NAN = float("inf"), float("nan")
I32, I64 = ir.IntType(32), ir.IntType(64)


def intrinsic(function: Callable[..., Any]) -> Any:
    """numba's, without the type that makes checkers ask for the first argument, which numba supplies."""
    return numba_intrinsic(function)


class Vector(types.Type):
    """Type of a vector: of numbers, or of truth values."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        element = dmm.lookup(fe_type.dtype).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.lanes))


def vector_of(dtype: Any) -> Vector:
    """The vector type for elements of this dtype."""
    return Vector(dtype, BYTES * 8 // dtype.bitwidth)


def truths_of(vector: Vector) -> Vector:
    return Vector(types.boolean, vector.lanes)


def llvm_type(context: Any, numba_type: Any) -> Any:
    return context.get_value_type(numba_type)


def call(builder: Any, name: str, returns: Any, args: list[Any], flags: tuple[str, ...] = ()) -> Any:
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(returns, [a.type for a in args]), name)
    return builder.call(function, args, fastmath=flags)


def suffix(numba_type: Any) -> str:
    """How LLVM spells a type in the name of an intrinsic."""
    if isinstance(numba_type, Vector):
        return f"v{numba_type.lanes}{suffix(numba_type.dtype)}"
    return ("f" if isinstance(numba_type, types.Float) else "i") + str(numba_type.bitwidth)


def spread_over(context: Any, builder: Any, vector: Any, scalar: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


# --- memory -----------------------------------------------------------------------------------------------------------


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to numbers of the type of ``like``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], llvm_type(context, sig.return_type))

    return types.CPointer(like)(types.int64, like), code


@intrinsic
def lanes(typingctx: Any, ptr: Any) -> Any:
    """How many numbers behind this pointer make a vector."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return I64(vector_of(ptr.dtype).lanes)

    return types.int64(ptr), code


@intrinsic
def offset(typingctx: Any, ptr: Any, index: Any) -> Any:
    """The pointer moved by so many elements."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return ptr(ptr, types.int64), code


@intrinsic
def peek(typingctx: Any, ptr: Any, index: Any) -> Any:
    """The number at ptr[index]."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]))

    return ptr.dtype(ptr, types.int64), code


@intrinsic
def poke(typingctx: Any, ptr: Any, index: Any, value: Any) -> Any:
    """ptr[index] = value."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(ptr, types.int64, ptr.dtype), code


def vector_at(builder: Any, ptr: Any, index: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(ptr, [index]), ir.PointerType(vector))


@intrinsic
def load(typingctx: Any, ptr: Any, index: Any) -> Any:
    """The vector that begins at ptr[index]."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = vector_at(builder, args[0], args[1], llvm_type(context, sig.return_type))
        return builder.load(where, align=ptr.dtype.bitwidth // 8)

    return vector_of(ptr.dtype)(ptr, types.int64), code


@intrinsic
def store(typingctx: Any, ptr: Any, index: Any, value: Any) -> Any:
    """Write a vector to ptr[index] and on."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = vector_at(builder, args[0], args[1], args[2].type)
        builder.store(args[2], where, align=ptr.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(ptr, types.int64, value), code


def _first(builder: Any, count: Any, lanes: int) -> Any:
    """Truth values: lane < count."""
    numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    limit = spread_over(None, builder, ir.VectorType(I32, lanes), builder.trunc(count, I32))
    return builder.icmp_signed("<", numbers, limit)


@intrinsic
def load_first(typingctx: Any, ptr: Any, index: Any, count: Any, fill: Any) -> Any:
    """As `load`, but only the first ``count`` lanes are read; the others are those of ``fill``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = llvm_type(context, sig.return_type)
        where = vector_at(builder, args[0], args[1], vector)
        keep = _first(builder, args[2], vector.count)
        name = f"llvm.masked.load.{suffix(sig.return_type)}.p0"
        return call(builder, name, vector, [where, I32(ptr.dtype.bitwidth // 8), keep, args[3]])

    return fill(ptr, types.int64, types.int64, fill), code


@intrinsic
def store_first(typingctx: Any, ptr: Any, index: Any, count: Any, value: Any) -> Any:
    """As `store`, but only the first ``count`` lanes are written."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = vector_at(builder, args[0], args[1], args[3].type)
        keep = _first(builder, args[2], args[3].type.count)
        call(
            builder,
            f"llvm.masked.store.{suffix(value)}.p0",
            ir.VoidType(),
            [args[3], where, I32(ptr.dtype.bitwidth // 8), keep],
        )
        return context.get_dummy_value()

    return types.void(ptr, types.int64, types.int64, value), code


@intrinsic
def store_past(typingctx: Any, ptr: Any, index: Any, value: Any) -> Any:
    """As `store`, to a place aligned as vectors are, past the caches: for what will not be read soon."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = vector_at(builder, args[0], args[1], args[2].type)
        written = builder.store(args[2], where, align=BYTES)
        written.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
        return context.get_dummy_value()

    return types.void(ptr, types.int64, value), code


@intrinsic
def fence(typingctx: Any) -> Any:
    """Let everything stored be seen before what is stored from here on."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def misalignment(typingctx: Any, ptr: Any) -> Any:
    """How many elements the pointer is past a place aligned as vectors are."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bytes_ = builder.and_(builder.ptrtoint(args[0], I64), I64(BYTES - 1))
        return builder.udiv(bytes_, I64(ptr.dtype.bitwidth // 8))

    return types.int64(ptr), code


# --- between scalars and vectors --------------------------------------------------------------------------------------


@intrinsic
def splat(typingctx: Any, ptr: Any, number: Any) -> Any:
    """The vector for this pointer whose lanes all hold the number."""
    vector = vector_of(ptr.dtype)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = context.cast(builder, args[1], number, ptr.dtype)
        return spread_over(context, builder, llvm_type(context, vector), scalar)

    return vector(ptr, number), code


@intrinsic
def add_up(typingctx: Any, vector: Any) -> Any:
    """The sum of the lanes."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = llvm_type(context, vector.dtype)
        name = f"llvm.vector.reduce.fadd.{suffix(vector)}"
        return call(builder, name, scalar, [scalar(-0.0), args[0]], ("reassoc", *FLAGS))

    return vector.dtype(vector), code


@intrinsic
def largest(typingctx: Any, vector: Any) -> Any:
    """The largest lane; lanes that are NaN may be passed over."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes, total = vector.lanes, args[0]
        undefined = ir.Constant(total.type, ir.Undefined)
        step = lanes // 2
        while step:
            order = [(i + step) % lanes for i in range(lanes)]
            other = builder.shuffle_vector(total, undefined, ir.Constant(ir.VectorType(I32, lanes), order))
            total = builder.select(builder.fcmp_ordered(">", other, total), other, total)
            step //= 2
        return builder.extract_element(total, I32(0))

    return vector.dtype(vector), code


@intrinsic
def some(typingctx: Any, truths: Any) -> Any:
    """Whether any lane is true."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(truths.lanes))
        return builder.icmp_unsigned("!=", bits, ir.IntType(truths.lanes)(0))

    return types.boolean(truths), code


@intrinsic
def count(typingctx: Any, truths: Any) -> Any:
    """How many lanes are true."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = ir.IntType(truths.lanes)
        name = f"llvm.ctpop.i{truths.lanes}"
        return builder.zext(call(builder, name, bits, [builder.bitcast(args[0], bits)]), I64)

    return types.int64(truths), code


def _packing(doc: str, name: str) -> Any:
    def function(typingctx: Any, vector: Any, truths: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            zeros = ir.Constant(args[0].type, [0] * vector.lanes)
            full = f"llvm.x86.avx512.mask.{name}.{suffix(vector)}"
            return call(builder, full, args[0].type, [args[0], zeros, args[1]])

        return vector(vector, truths), code

    function.__doc__ = doc
    return intrinsic(function)


# Both for AVX-512 only: see `compiler.PACKS`.
compress = _packing("The lanes that are true, moved to the front; zeros behind them.", "compress")
expand = _packing("The first lanes, moved to those that are true; zeros elsewhere.", "expand")


@intrinsic
def first_of(typingctx: Any, x: Any) -> Any:
    """The number in the first lane."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(args[0], I32(0))

    return x.dtype(x), code


@intrinsic
def epsilon(typingctx: Any, ptr: Any) -> Any:
    """The distance from 1 to the next number."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return llvm_type(context, ptr.dtype)(2.0**-23 if ptr.dtype == types.float32 else 2.0**-52)

    return ptr.dtype(ptr), code
