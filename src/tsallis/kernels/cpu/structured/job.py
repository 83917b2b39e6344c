"""What the kernels are told, thread by thread: addresses of tensors and of the thread's own memory, and sizes.

Compiled functions see a job as something with attributes, each of which is a number read from memory that Python wrote;
only `n` and `y` change, with the item.

A structure is kept as ``width`` words: of factors that choose one variable at each place (the state of a sequence, the
column of a row, the head of a word) those variables; of others the bits of their variables.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import models, register_model

from ..compiler import device
from ..simd import I32, I64, intrinsic, peek, poke

# Float64 at an address: tensors,
TENSORS = ("scores", "pair_scores", "start_x", "start_y", "first", "first_weights", "gaps", "weights", "marginals",
           "pairs")  # fmt: skip
# and a thread's own. By structure (and one more, the multiplier): the inverse (`inverse`); scores as far as they exceed
# that of the base; weights; the optimum on the hull; a column of the bordered matrix, and the inverse times it; what is
# left of a system that was solved, and what that changes.
BY_STRUCTURE = ("b", "w", "target", "v", "z", "rest", "change")
# By variable: scores, with zero where they rule out, and with the -inf; marginals; the slope that the best structure is
# looked for with; a direction; of bits, the structure found and the base.
BY_VARIABLE = ("x", "masked", "mu", "slope", "noise", "row", "base_row")
# Of bits, structures; room for the search.
OWN = ("M", *BY_STRUCTURE, *BY_VARIABLE, "rows", "numbers")
# Integers at an address: tensors, and a thread's own: structures, the one found, the base; a number per structure; see
# below; room for the search.
INTEGERS = ("lengths", "counter", "asked", "sizes", "vertices")
OWN_INTEGERS = ("codes", "found", "base", "order", "facts", "words")
BYTES = ("first_used", "outcomes")
# Numbers: of items; variables, pairs, places (0 for bits), words of a structure, room for structures; how often the
# best one is asked for; structures given to start from, or weights per item; whether faces are completed, or which
# product; how many variables may be on; of the matrix that variables are its columns, and whether they are places (and
# not its rows); states of a sequence; how far rows of the inverse are apart.
SIZES = ("items", "d", "e", "places", "width", "capacity", "most", "firsts", "whole", "low", "high", "columns",
         "by_column", "states", "ld")  # fmt: skip
CHANGING = ("y", "n")
NAMES = (*TENSORS, *OWN, *INTEGERS, *OWN_INTEGERS, *BYTES, *SIZES, *CHANGING)
PLACE = {name: place for place, name in enumerate(NAMES)}
FIELDS = len(NAMES)
N, Y, LENGTHS, PAIR_SCORES = (PLACE[name] for name in ("n", "y", "lengths", "pair_scores"))
# Facts of an item: how many structures are in use, which is the base (-1: none of them), where the random
# numbers are.
COUNT, BASE, RANDOM = range(3)


class JobType(types.Type):
    """Type of a job."""

    def __init__(self) -> None:
        super().__init__(name=f"StructuredJob({','.join(NAMES)})")


JOB = JobType()


@register_model(JobType)
class _JobModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: JobType) -> None:
        super().__init__(dmm, fe_type, I64.as_pointer())


def _type_of(name: str) -> Any:
    if name in BYTES:
        return types.CPointer(types.uint8)
    if name in INTEGERS or name in OWN_INTEGERS:
        return types.CPointer(types.int64)
    return types.int64 if name in SIZES or name == "n" else types.CPointer(types.float64)


@infer_getattr
class _JobAttributes(AttributeTemplate):
    key = JobType

    def generic_resolve(self, typ: JobType, attr: str) -> Any:
        return _type_of(attr) if attr in PLACE else None


@lower_getattr_generic(JobType)
def _read(context: Any, builder: Any, typ: JobType, value: Any, attr: str) -> Any:
    word = builder.load(builder.gep(value, [I32(PLACE[attr])]))
    if attr not in CHANGING:
        # Nothing that is stored in between can change it.
        word.set_metadata("invariant.load", builder.module.add_metadata([]))
    kind = context.get_value_type(_type_of(attr))
    return word if isinstance(kind, ir.IntType) else builder.inttoptr(word, kind)


@intrinsic
def job_of(typingctx: Any, address: Any, thread: Any) -> Any:
    """The job of a thread, of those that begin at an address."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = builder.inttoptr(args[0], I64.as_pointer())
        return builder.gep(first, [builder.mul(args[1], I64(FIELDS))])

    return JOB(types.int64, types.int64), code


@intrinsic
def memory(typingctx: Any, job: Any) -> Any:
    """The job as the numbers it is."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0]

    return types.CPointer(types.int64)(job), code


@device
def turn_to(r, item):
    """Speak of this item from now on."""
    here = memory(r)
    poke(here, N, peek(r.lengths, item) if peek(here, LENGTHS) != 0 else r.places)
    poke(here, Y, peek(here, PAIR_SCORES) + 8 * item * r.e)


def padded(n: int) -> int:
    """Numbers up to a whole vector, and one vector more."""
    return (n + 7) // 8 * 8 + 8


whole = device(padded)


def row_length(capacity: int) -> int:
    """How far rows of the inverse are apart: no multiple of a large power of two, whose lines of the cache are few."""
    length = padded(capacity + 1)
    return length + 8 if length % 64 == 0 else length


def own_sizes(capacity: int, d: int, bits: bool, width: int, numbers: int, words: int) -> dict[str, int]:
    """How long a thread's own parts are; ``numbers`` and ``words`` are those of the search."""
    dense = padded(d)
    return {
        "M": (capacity + 2) * row_length(capacity), **dict.fromkeys(BY_STRUCTURE, padded(capacity + 1)),
        **dict.fromkeys(BY_VARIABLE, dense),
        "rows": capacity * dense if bits else 0, "numbers": numbers,
        "codes": capacity * width, "found": width, "base": width, "order": capacity, "facts": 8, "words": words,
    }  # fmt: skip
