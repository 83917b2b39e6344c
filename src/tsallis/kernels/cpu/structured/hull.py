"""The affine hull of an item's structures: how one enters and leaves, and the optimum on it."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from ..compiler import device
from ..simd import offset, peek, poke
from . import inverse
from .job import BASE, COUNT, UPDATES

# Squared distance from the hull of the others below which a structure's variables depend on theirs.
DEPENDENT = 1e-9


class Hull(NamedTuple):
    """Functions of a thread's job."""

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

    @device
    def column(r, code):
        """z = M v for the column v of a structure, and its squared distance from the hull."""
        k = peek(r.facts, COUNT)
        poke(r.v, 0, 1.0)
        for s in range(k):
            poke(r.v, s + 1, common(r, offset(r.codes, s * r.width), code))
        inverse.pad(r.v, k + 1)
        inverse.times(r.M, r.ld, k + 1, r.v, r.z)
        return common(r, code, code) - inverse.dot(r.v, r.z, k + 1)

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
        poke(r.facts, UPDATES, peek(r.facts, UPDATES) + 1)

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
        poke(r.facts, UPDATES, peek(r.facts, UPDATES) + 1)
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
            schur = column(r, code)
            if schur > DEPENDENT:
                inverse.enter(r.M, r.ld, s + 1, r.z, schur)
                s += 1
            else:
                poke(r.facts, COUNT, k)
                forget(r, s, False)
                k -= 1
        poke(r.facts, COUNT, k)
        poke(r.facts, UPDATES, 0)

    @device
    def normalise(r, w):
        """Weights to a sum of 1."""
        total, k = 0.0, peek(r.facts, COUNT)
        for s in range(k):
            total += peek(w, s)
        for s in range(k):
            poke(w, s, peek(w, s) / total)

    @device
    def optimum(r, refine):
        """The multiplier and the weights that are best on the affine hull, where they may be negative."""
        k = peek(r.facts, COUNT)
        poke(r.v, 0, 1.0)
        for s in range(k):
            poke(r.v, s + 1, peek(r.b, s))
        inverse.pad(r.v, k + 1)
        inverse.times(r.M, r.ld, k + 1, r.v, r.target)
        if refine:
            weights = offset(r.target, 1)
            for _ in range(2):
                average(r, weights, r.mu)
                rest = 1.0
                for s in range(k):
                    rest -= peek(weights, s)
                    product = inner(r, r.mu, offset(r.codes, s * r.width), offset(r.rows, s * stride(r)))
                    poke(r.v, s + 1, peek(r.b, s) - product - peek(r.target, 0))
                poke(r.v, 0, rest)
                inverse.pad(r.v, k + 1)
                inverse.times(r.M, r.ld, k + 1, r.v, r.z)
                for s in range(k + 1):
                    poke(r.target, s, peek(r.target, s) + peek(r.z, s))
        normalise(r, offset(r.target, 1))

    return Hull(column, append, forget, heaviest, make, normalise, optimum)
