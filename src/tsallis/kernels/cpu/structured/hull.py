"""The affine hull of an item's structures: how one enters and leaves, and the optimum on it."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from ..compiler import device
from ..simd import offset, peek, poke
from . import inverse
from .job import BASE, COUNT

# Squared distance from the hull of the others below which a structure's variables depend on theirs.
DEPENDENT = 1e-9
# Below this it is not taken as the difference of larger numbers.
CLOSE = 0.05


class Hull(NamedTuple):
    """Functions of a thread's job."""

    improve: Any
    column: Any
    append: Any
    forget: Any
    heaviest: Any
    make: Any
    normalise: Any
    optimum: Any


def make_hull(structures: ModuleType) -> Hull:
    """For structures that are compared by the functions of that module."""
    common, stride, copy = structures.common, structures.stride, structures.copy
    average, inner, scaled_to_base = structures.average, structures.inner, structures.scaled_to_base
    subtract_from = structures.subtract_from

    @device
    def improve(r, v, out):
        """Solve for what is left of a system that was solved with the inverse, whose updates leave errors."""
        k = peek(r.facts, COUNT)
        average(r, offset(out, 1), r.slope)
        total = peek(v, 0)
        for s in range(k):
            total -= peek(out, s + 1)
            product = inner(r, r.slope, offset(r.codes, s * r.width), offset(r.rows, s * stride(r)))
            poke(r.rest, s + 1, peek(v, s + 1) - peek(out, 0) - product)
        poke(r.rest, 0, total)
        inverse.pad(r.rest, k + 1)
        inverse.times(r.M, r.ld, k + 1, r.rest, r.change)
        for s in range(k + 1):
            poke(out, s, peek(out, s) + peek(r.change, s))

    @device
    def column(r, code, row):
        """z = M v for the column v of a structure, and its squared distance from the hull."""
        k = peek(r.facts, COUNT)
        poke(r.v, 0, 1.0)
        for s in range(k):
            poke(r.v, s + 1, common(r, offset(r.codes, s * r.width), code))
        inverse.pad(r.v, k + 1)
        inverse.times(r.M, r.ld, k + 1, r.v, r.z)
        schur = common(r, code, code) - inverse.dot(r.v, r.z, k + 1)
        if schur < CLOSE:
            improve(r, r.v, r.z)
            average(r, offset(r.z, 1), r.slope)
            schur = subtract_from(r, code, row, r.slope)
        return schur

    @device
    def append(r, schur, b, weight):
        """The structure found, whose column was looked at, into the next slot."""
        k = peek(r.facts, COUNT)
        if k == 0:
            inverse.begin(r.M, r.ld, common(r, r.found, r.found))
        else:
            inverse.enter(r.M, r.ld, k + 1, r.z, schur)
        copy(r, r.found, r.row, offset(r.codes, k * r.width), offset(r.rows, k * stride(r)))
        poke(r.b, k, b)
        poke(r.w, k, weight)
        poke(r.facts, COUNT, k + 1)

    @device
    def heaviest(r):
        at = 0
        for s in range(peek(r.facts, COUNT)):
            at = s if peek(r.w, s) > peek(r.w, at) else at
        return at

    @device
    def forget(r, s, update):
        """Free a slot; the last structure takes it."""
        last = peek(r.facts, COUNT) - 1
        if update:
            inverse.leave(r.M, r.ld, last + 2, s + 1, r.z)
        copy(
            r, offset(r.codes, last * r.width), offset(r.rows, last * stride(r)),
            offset(r.codes, s * r.width), offset(r.rows, s * stride(r)),
        )  # fmt: skip
        poke(r.b, s, peek(r.b, last))
        poke(r.w, s, peek(r.w, last))
        poke(r.facts, COUNT, last)
        base = peek(r.facts, BASE)
        if base == s:
            scaled_to_base(r, heaviest(r))
        elif base == last:
            poke(r.facts, BASE, s)

    @device
    def make(r):
        """The inverse from nothing but structures; those that depend on others are forgotten."""
        k, s = peek(r.facts, COUNT), 0
        while s < k:
            poke(r.facts, COUNT, s)
            code = offset(r.codes, s * r.width)
            if s == 0:
                inverse.begin(r.M, r.ld, common(r, code, code))
                s = 1
                continue
            schur = column(r, code, offset(r.rows, s * stride(r)))
            if schur > DEPENDENT:
                inverse.enter(r.M, r.ld, s + 1, r.z, schur)
                s += 1
            else:
                poke(r.facts, COUNT, k)
                forget(r, s, False)
                k -= 1
        poke(r.facts, COUNT, k)

    @device
    def normalise(r, w):
        """Weights to a sum of 1."""
        total, k = 0.0, peek(r.facts, COUNT)
        for s in range(k):
            total += peek(w, s)
        for s in range(k):
            poke(w, s, peek(w, s) / total)

    @device
    def optimum(r, rounds):
        """The multiplier and the weights that are best on the affine hull, where they may be negative."""
        k = peek(r.facts, COUNT)
        poke(r.v, 0, 1.0)
        for s in range(k):
            poke(r.v, s + 1, peek(r.b, s))
        inverse.pad(r.v, k + 1)
        inverse.times(r.M, r.ld, k + 1, r.v, r.target)
        for _ in range(rounds):
            improve(r, r.v, r.target)
        normalise(r, offset(r.target, 1))

    return Hull(improve, column, append, forget, heaviest, make, normalise, optimum)
