"""The kernels: solve items; products with the derivatives that items have; structures as numbers.

Items are taken one by one by whichever thread is free: some need ten times as long as others.
"""

from __future__ import annotations

from functools import cache

from ....core.status import Outcome
from ..compiler import SOURCE, Entry, device
from ..simd import INF, NAN, offset, peek, pointer, poke
from . import bits, inverse, places
from .active_set import DONE, make_solver
from .best_bits import best_bits
from .best_matching import best_matching
from .best_projective import best_projective
from .best_sequence import best_sequence
from .best_tree import best_tree
from .hull import make_hull
from .job import BASE, COUNT, PLACE, Y, job_of, memory, turn_to, whole
from .words import take

KINDS = {
    "bits": (bits, best_bits),
    "sequence": (places, best_sequence),
    "matching": (places, best_matching),
    "tree": (places, best_tree),
    "projective": (places, best_projective),
}
START_X, START_Y, LENGTHS, MARGINALS, PAIRS = (
    PLACE[name] for name in ("start_x", "start_y", "lengths", "marginals", "pairs")
)
SUCCESS, NAN_SCORE, INFINITE, INFEASIBLE, GAP_LEFT = (
    int(code) for code in
    (Outcome.SUCCESS, Outcome.NAN_SCORE, Outcome.INFINITE_SCORE, Outcome.INFEASIBLE, Outcome.GAP_LEFT)
)  # fmt: skip


@device
def fault(numbers, count, code):
    """What is wrong with an item: the worst of these scores and what was known."""
    for j in range(count):
        x = peek(numbers, j)
        if x != x:
            return NAN_SCORE
        if x == INF:
            code = INFINITE
    return code


@device
def in_order(r):
    """Slots by weight, the largest first."""
    k = peek(r.facts, COUNT)
    for s in range(k):
        w, at = peek(r.w, s), s
        while at > 0 and peek(r.w, peek(r.order, at - 1)) < w:
            poke(r.order, at, peek(r.order, at - 1))
            at -= 1
        poke(r.order, at, s)


@cache
def solver(kind: str) -> Entry:
    """Solve items of this kind of factor; ``value`` is the tolerance."""
    structures, best = KINDS[kind]
    begin_with, solve, finish, set_marginals, complete = make_solver(structures, best)
    possible, set_pairs = structures.possible, structures.set_pairs
    source = SOURCE

    @device
    def started(r, item):
        """Whether there is a start with weights that is possible; else it is the structure found."""
        d, firsts, here = r.d, r.firsts, memory(r)
        if firsts > 0:
            at = item * firsts
            if begin_with(r, offset(r.first, at * d), offset(r.first_weights, at), offset(r.first_used, at), firsts):
                return True
            best(r, r.masked)
        if peek(here, START_X) != 0:
            for j in range(d):
                poke(r.slope, j, peek(r.start_x, item * d + j) if peek(r.masked, j) > -INF else -INF)
            for j in range(d, whole(d)):
                poke(r.slope, j, -INF)
            y = peek(here, Y)
            poke(here, Y, peek(here, START_Y) + 8 * item * r.e)
            best(r, r.slope)
            poke(here, Y, y)
        return False

    @device
    def deliver(r, item, begin, end):
        """Structures in these places of the order, to where they are asked for."""
        codes, weights = offset(r.vertices, item * r.capacity * r.width), offset(r.weights, item * r.capacity)
        for at in range(begin, end):
            s = peek(r.order, at)
            poke(weights, at, peek(r.w, s))
            for i in range(r.width):
                poke(codes, at * r.width + i, peek(r.codes, s * r.width + i))

    @device
    def take_scores(r, item):
        """The scores of an item; what is wrong with them."""
        d = r.d
        x = offset(r.scores, item * d)
        code = fault(x, d, SUCCESS)
        code = fault(r.y, r.e, code) if code != NAN_SCORE else code
        if code != SUCCESS:
            return code
        for j in range(d):
            poke(r.masked, j, peek(x, j))
            poke(r.x, j, peek(x, j) if peek(x, j) > -INF else 0.0)
        for j in range(d, whole(d)):
            poke(r.masked, j, -INF)
            poke(r.x, j, 0.0)
            poke(r.row, j, 0.0)
            poke(r.base_row, j, 0.0)
        best(r, r.masked)
        # Where the best one is ruled out, all are.
        return SUCCESS if possible(r, r.found) else INFEASIBLE

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        r = job_of(job_at, chunk)
        while True:
            item = take(r.counter)
            if item >= r.items:
                break
            turn_to(r, item)
            mu, nu = offset(r.marginals, item * r.d), offset(r.pairs, item * r.e)
            gap, asked, k, total = NAN, 0, 0, 0
            code = take_scores(r, item)
            if code == SUCCESS:
                how, gap, asked = solve(r, r.most, value, started(r, item))
                code = SUCCESS if how == DONE else GAP_LEFT
                finish(r, r.whole != 0)
                in_order(r)
                set_marginals(r)
                for j in range(r.d):
                    poke(mu, j, peek(r.mu, j))
                set_pairs(r, nu)
                k = peek(r.facts, COUNT)
                deliver(r, item, 0, k)
                if r.whole != 0:
                    complete(r, gap)
                    for s in range(k, peek(r.facts, COUNT)):
                        poke(r.order, s, s)
                    deliver(r, item, k, peek(r.facts, COUNT))
                total = peek(r.facts, COUNT)
            else:
                for j in range(r.d):
                    poke(mu, j, NAN)
                for j in range(r.e):
                    poke(nu, j, NAN)
            poke(r.sizes, 2 * item, k)
            poke(r.sizes, 2 * item + 1, total)
            poke(r.outcomes, item, code)
            poke(r.gaps, item, gap)
            poke(r.asked, item, asked)

    return Entry(kernel)


# What `products` maps to what: scores to marginals, weights to scores, scores to weights.
MARGINALS_OF_SCORES, SCORES_OF_WEIGHTS, WEIGHTS_OF_SCORES = range(3)


@cache
def products(chosen: bool) -> Entry:
    """Products of directions with derivatives, of structures that choose at places or of bits. Q is the corner of the
    inverse, M has structures as columns. M Q M' takes scores and pair_scores to marginals and pairs; M Q takes
    first_weights there; Q M' takes scores and pair_scores to weights. ``whole`` says which.
    """
    structures = places if chosen else bits
    hull = make_hull(structures)
    make, improve = hull.make, hull.improve
    copy, stride, inner, pair_inner = structures.copy, structures.stride, structures.inner, structures.pair_inner
    average, set_pairs, expand = structures.average, structures.set_pairs, structures.expand
    source = SOURCE

    @device
    def take_structures(r, item, which):
        """Those of an item; the inverse of their matrix."""
        codes, width = offset(r.vertices, item * r.capacity * r.width), r.width
        k = peek(r.sizes, 2 * item + (which == MARGINALS_OF_SCORES))
        for s in range(k):
            expand(r, offset(codes, s * width))
            copy(r, r.found, r.row, offset(r.codes, s * width), offset(r.rows, s * stride(r)))
            poke(r.w, s, peek(r.first_weights, item * r.firsts + s) if which == SCORES_OF_WEIGHTS else 1.0)
        poke(r.facts, COUNT, k)
        poke(r.facts, BASE, -1)
        make(r)

    def kernel(job_at, value, other, one, first, last, chunk):
        """``value`` is what the product is multiplied by."""
        _ = source
        r = job_of(job_at, chunk)
        which = r.whole
        while True:
            item = take(r.counter)
            if item >= r.items:
                break
            turn_to(r, item)
            take_structures(r, item, which)
            k = peek(r.facts, COUNT)
            if which != SCORES_OF_WEIGHTS:
                for j in range(r.d):
                    poke(r.x, j, peek(r.scores, item * r.d + j))
                inverse.pad(r.x, r.d)
            poke(r.v, 0, 0.0)
            for s in range(k):
                code, given = offset(r.codes, s * r.width), peek(r.w, s)
                if which != SCORES_OF_WEIGHTS:
                    given = inner(r, r.x, code, offset(r.rows, s * stride(r))) + pair_inner(r, code)
                poke(r.v, s + 1, given)
            inverse.pad(r.v, k + 1)
            if k > 0:
                inverse.times(r.M, r.ld, k + 1, r.v, r.z)
                improve(r, r.v, r.z)
                improve(r, r.v, r.z)
            for s in range(k):
                poke(r.w, s, value * peek(r.z, s + 1))
            if which == WEIGHTS_OF_SCORES:
                for s in range(r.firsts):
                    poke(r.weights, item * r.firsts + s, peek(r.w, s) if s < k else 0.0)
                continue
            average(r, r.w, r.mu)
            for j in range(r.d):
                poke(r.marginals, item * r.d + j, peek(r.mu, j))
            set_pairs(r, offset(r.pairs, item * r.e))

    return Entry(kernel)


@cache
def vectors(chosen: bool) -> Entry:
    """Structures with a weight as numbers, (slots, d) into marginals and (slots, e) into pairs, which hold zeros; their
    weights into first_weights, NaN in items without a result; which there are into first_used.
    """
    structures = places if chosen else bits
    write, write_pairs = structures.write, structures.write_pairs
    source = SOURCE

    def kernel(job_at, value, other, one, first, last, chunk):
        _ = source
        r = job_of(job_at, 0)
        unary, pairs = pointer(peek(memory(r), MARGINALS), one), pointer(peek(memory(r), PAIRS), one)
        for item in range(first, last):
            codes, n = offset(r.vertices, item * r.capacity * r.width), r.places
            if peek(memory(r), LENGTHS) != 0:
                n = peek(r.lengths, item)
            k, gap = peek(r.sizes, 2 * item), peek(r.gaps, item)
            nothing = gap if gap != gap else 0.0
            for s in range(r.firsts):
                code, at = offset(codes, s * r.width), item * r.firsts + s
                poke(r.first_used, at, s < k)
                poke(r.first_weights, at, peek(r.weights, item * r.capacity + s) if s < k else nothing)
                if s < k:
                    write(r, n, code, offset(unary, at * r.d))
                    write_pairs(r, n, code, offset(pairs, at * r.e))

    return Entry(kernel)
