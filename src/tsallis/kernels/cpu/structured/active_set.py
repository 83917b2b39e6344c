"""The active-set method for one item, with what a factor's structures are and how their best is found inlined.

As the reference (`tsallis.structured.active_set`), but for two things: the inverse of the bordered matrix is kept and
updated, and made anew where its rounding shows; and the rest of the face is looked for along directions that are
orthogonal to the hull so far, along which only what is missing differs.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

from ..arithmetic import choose
from ..compiler import device
from ..simd import INF, lanes, load, offset, peek, poke, splat, store
from . import inverse
from .hull import DEPENDENT, make_hull
from .job import COUNT, RANDOM

# A gap from which on weights are improved, as the inverse's errors come near it.
FINE = 1e-9
# A slope that is rounding, as in the reference.
NOTHING = 2.0**-46
# Of coordinates on the hull, what is not rounding.
COORDINATE = 1e-9
# Directions in which a face has nothing new, after which it is whole.
MISSES = 3
# So often the best structure is asked for without the gap being half as large, before the inverse is made anew.
PATIENCE = 32
DONE, STUCK, CUT = range(3)
EPSILON = 2.0**-52


@device
def uniform(r):
    """A number in [-1, 1)."""
    seed = peek(r.facts, RANDOM)
    seed ^= seed << 13
    seed ^= (seed >> 7) & 0x01FFFFFFFFFFFFFF
    seed ^= seed << 17
    poke(r.facts, RANDOM, seed)
    return float(seed >> 11) * 2.0**-52


class Solver(NamedTuple):
    """Functions of a thread's job."""

    begin_with: Any
    solve: Any
    finish: Any
    set_marginals: Any
    complete: Any


def make_solver(structures: ModuleType, best: Any) -> Solver:
    """The method, for structures that are compared by the functions of that module."""
    _, column, append, forget, heaviest, make, normalise, optimum = make_hull(structures)
    stride, ahead, average, advantage = structures.stride, structures.ahead, structures.average, structures.advantage
    inner, possible, size_of_scores = structures.inner, structures.possible, structures.size_of_scores
    mass = structures.mass
    read, scaled_to_base = structures.read, structures.scaled_to_base

    @device
    def settle(r, rounds):
        """Move weights to the optimum on the hull, letting go what would be negative. False if all that happened is
        that the structure which came last left again, with nothing of the weight.
        """
        newest, moved = peek(r.facts, COUNT) - 1, False
        while True:
            optimum(r, rounds)
            k, length, first = peek(r.facts, COUNT), 2.0, -1
            for s in range(k):
                goal = peek(r.target, s + 1)
                if goal < 0.0:
                    step = peek(r.w, s) / (peek(r.w, s) - goal)
                    if step < length:
                        length, first = step, s
            if first < 0:
                for s in range(k):
                    poke(r.w, s, peek(r.target, s + 1))
                return moved or newest >= 0
            for s in range(k):
                w = peek(r.w, s)
                poke(r.w, s, max(0.0, w + length * (peek(r.target, s + 1) - w)))
            poke(r.w, first, 0.0)
            if first == newest and length == 0.0 and not moved:
                newest = -1
            else:
                moved = True
            forget(r, first, True)

    @device
    def set_marginals(r):
        """Those of the weights. What all structures have is exactly 1, so that it cancels whatever its score."""
        average(r, r.w, r.mu)
        total = mass(r)
        for j in range(0, r.d, lanes(r.mu)):
            mu = load(r.mu, j)
            store(r.mu, j, choose(mu >= splat(r.mu, total), splat(r.mu, 1.0), mu))

    @device
    def set_slope(r):
        """Marginals, and the slope of the objective, 0 where it is rounding."""
        set_marginals(r)
        for j in range(0, r.d, lanes(r.mu)):
            slope = load(r.masked, j) - load(r.mu, j)
            store(r.slope, j, choose(slope * slope > splat(r.mu, NOTHING * NOTHING), slope, splat(r.mu, 0.0)))

    @device
    def rounding(r):
        """What rounding may leave of a gap."""
        return 64.0 * EPSILON * (float(r.d + r.e) + size_of_scores(r))

    @device
    def swap(r, b):
        """The structure found has variables on the hull of the others, but other pairs, which are better: weights move
        along the line on which marginals of variables stay, to the first that is zero. Whether they did.
        """
        k, length, first = peek(r.facts, COUNT), INF, -1
        for s in range(k):
            along = peek(r.z, s + 1)
            if along > COORDINATE and peek(r.w, s) / along < length:
                length, first = peek(r.w, s) / along, s
        if first < 0:
            return False
        for s in range(k):
            poke(r.w, s, max(0.0, peek(r.w, s) - length * peek(r.z, s + 1)))
        poke(r.w, first, 0.0)
        if k == 1:
            poke(r.facts, COUNT, 0)
            append(r, 1.0, b, 1.0)
            scaled_to_base(r, 0)
            return True
        forget(r, first, True)
        schur = column(r, r.found, r.row)
        # The base may be another one now.
        if schur > DEPENDENT:
            append(r, schur, ahead(r, r.found, r.row), length)
            return True
        normalise(r, r.w)
        return False

    @device
    def take_in(r):
        """Have the structure found enter; whether it did."""
        schur = column(r, r.found, r.row)
        b = ahead(r, r.found, r.row)
        if schur > DEPENDENT:
            if peek(r.facts, COUNT) == r.capacity:
                # More than can be independent: errors of updates.
                return False
            append(r, schur, b, 0.0)
            return True
        if r.e == 0:
            return False
        gain = b
        for s in range(peek(r.facts, COUNT)):
            gain -= peek(r.z, s + 1) * peek(r.b, s)
        return gain > rounding(r) and swap(r, b)

    @device
    def begin_with(r, first, weights, used, count):
        """Start from structures with weights, if they are possible; whether they are."""
        poke(r.facts, COUNT, 0)
        kept = 0.0
        for s in range(count):
            if peek(used, s) == 0:
                continue
            w = peek(weights, s)
            if not (0.0 <= w < INF and read(r, offset(first, s * r.d)) and possible(r, r.found)):
                return False
            if w == 0.0:
                continue
            k = peek(r.facts, COUNT)
            schur = column(r, r.found, r.row) if k > 0 else 1.0
            if schur > DEPENDENT and k < r.capacity:
                append(r, schur, 0.0, w)
                kept += w
        if not kept > 0.0:
            return False
        scaled_to_base(r, heaviest(r))
        normalise(r, r.w)
        return True

    @device
    def solve(r, most, tol, started):
        """(how it ended, the gap, how often the best structure was asked for), from a state or from the one found."""
        asked, gap, tried, careful, least, since = 0, INF, False, False, INF, 0
        if not started:
            poke(r.facts, COUNT, 0)
            append(r, 1.0, 0.0, 1.0)
            scaled_to_base(r, 0)
        settle(r, 0)
        while True:
            set_slope(r)
            best(r, r.slope)
            asked += 1
            gap = advantage(r, ahead(r, r.found, r.row))
            if gap <= tol:
                return DONE, gap, asked
            if asked >= most or not gap > -INF:
                return CUT, gap, asked
            if gap < 0.5 * least:
                least, since = gap, asked
            elif asked - since >= PATIENCE:
                # The inverse's errors lead astray.
                since, careful = asked, True
                make(r)
                normalise(r, r.w)
                settle(r, 2)
                continue
            if take_in(r) and settle(r, 2 if careful else int(gap < FINE)):
                tried = False
                continue
            # Nothing new though the gap says that there is: because of the inverse's errors, or nothing but rounding.
            if tried:
                break
            tried = careful = True
            make(r)
            normalise(r, r.w)
            settle(r, 2)
        return (DONE if abs(gap) <= tol + rounding(r) else STUCK), gap, asked

    @device
    def draw(r):
        """A direction orthogonal to the affine hull."""
        k = peek(r.facts, COUNT)
        for j in range(r.d):
            poke(r.noise, j, 1.7 * uniform(r))
        inverse.pad(r.noise, r.d)
        poke(r.v, 0, 0.0)
        for s in range(k):
            poke(r.v, s + 1, inner(r, r.noise, offset(r.codes, s * r.width), offset(r.rows, s * stride(r))))
        inverse.pad(r.v, k + 1)
        inverse.times(r.M, r.ld, k + 1, r.v, r.z)
        average(r, offset(r.z, 1), r.slope)
        for j in range(0, r.d, lanes(r.noise)):
            store(r.noise, j, load(r.noise, j) - load(r.slope, j))

    @device
    def complete(r, gap):
        """Structures of weight 0 that are as good as those in use, until they span the optimal face. They are best for
        slopes that differ by next to nothing. Marginals and the inverse are those of the
        structures in use.
        """
        # As much as the gap leaves open.
        error = math.sqrt(2.0 * max(gap, 0.0))
        nudge, tied = 1e-6 + 4.0 * error, 1e-9 + 2.0 * error * math.sqrt(float(r.d))
        misses = 0
        poke(r.facts, RANDOM, 88172645463325252)
        while misses < MISSES and peek(r.facts, COUNT) < r.capacity:
            draw(r)
            misses += 1
            for side in range(2):
                factor = splat(r.noise, nudge if side == 0 else -nudge)
                for j in range(0, r.d, lanes(r.noise)):
                    store(r.slope, j, load(r.masked, j) - load(r.mu, j) + factor * load(r.noise, j))
                best(r, r.slope)
                b = ahead(r, r.found, r.row)
                if -advantage(r, b) <= tied and peek(r.facts, COUNT) < r.capacity:
                    schur = column(r, r.found, r.row)
                    if schur > DEPENDENT:
                        append(r, schur, b, 0.0)
                        misses = 0

    @device
    def finish(r, inverted):
        """Without structures that have no weight; the inverse of what is left is made only if asked for."""
        s = 0
        while s < peek(r.facts, COUNT):
            if peek(r.w, s) > 0.0:
                s += 1
            else:
                forget(r, s, False)
        if inverted:
            make(r)
        normalise(r, r.w)

    return Solver(begin_with, solve, finish, set_marginals, complete)
