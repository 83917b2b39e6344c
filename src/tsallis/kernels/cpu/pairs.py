"""What a sparse output layer does with pairs (token, word): products, and sums of gradients.

A list holds, for each token, places in the vocabulary with a number each. Sums over a token's list are one thread's;
sums over a word's tokens go through the list sorted by places, in the order of the tokens, and are one thread's too: no
two threads write to the same place, and results do not depend on their number.
"""

from __future__ import annotations

from .compiler import SOURCE, Entry, device
from .rows import INTEGER
from .screening import PLACE
from .simd import add_up, lanes, load, load_first, offset, peek, pointer, poke, splat, store, store_first
from .sweeps import clear

(
    HIDDEN, WEIGHT, BIAS, VALUES, PLACES, COUNTS, TARGETS, TARGET_SCORES, STARTS, LIST_VALUES, LIST_PLACES, SCALES,
    OUT, OUT_BIAS, WORDS, ORDER, TOKENS,
    WIDTH, CAPACITY, PAIRS, VOCABULARY,
) = range(21)  # fmt: skip


@device
def dot(x, y, n):
    L = lanes(x)
    a, b, c, d = splat(x, 0.0), splat(x, 0.0), splat(x, 0.0), splat(x, 0.0)
    j = 0
    while j + 4 * L <= n:
        a, b = a + load(x, j) * load(y, j), b + load(x, j + L) * load(y, j + L)
        c, d = c + load(x, j + 2 * L) * load(y, j + 2 * L), d + load(x, j + 3 * L) * load(y, j + 3 * L)
        j += 4 * L
    none = splat(x, 0.0)
    while j < n:
        part = min(L, n - j)
        a = a + load_first(x, j, part, none) * load_first(y, j, part, none)
        j += L
    return add_up((a + b) + (c + d))


@device
def add_scaled(out, x, n, factor):
    """out += factor x."""
    L = lanes(out)
    f, none = splat(out, factor), splat(out, 0.0)
    j = 0
    while j + L <= n:
        store(out, j, load(out, j) + f * load(x, j))
        j += L
    if j < n:
        store_first(out, j, n - j, load_first(out, j, n - j, none) + f * load_first(x, j, n - j, none))


def _entries() -> tuple[Entry, ...]:
    source = SOURCE

    def products(job_at, value, other, one, first, last, chunk):
        """Scores of the targets, and with COUNTS those of the entries kept, in full precision."""
        _ = source
        job = pointer(job_at, INTEGER)
        width, capacity = peek(job, WIDTH), peek(job, CAPACITY)
        hidden, weight, bias = (
            pointer(peek(job, HIDDEN), one), pointer(peek(job, WEIGHT), one), pointer(peek(job, BIAS), one)
        )  # fmt: skip
        targets, scores = pointer(peek(job, TARGETS), INTEGER), pointer(peek(job, TARGET_SCORES), one)
        counts, biased = pointer(peek(job, COUNTS), INTEGER), peek(job, BIAS) != 0
        L = lanes(hidden)
        for r in range(first, last):
            e, y = offset(hidden, r * width), peek(targets, r)
            total = dot(e, offset(weight, y * width), width)
            poke(scores, r, total + peek(bias, y) if biased else total)
            if peek(job, COUNTS) != 0:
                values = offset(pointer(peek(job, VALUES), one), r * (capacity + L))
                places = offset(pointer(peek(job, PLACES), PLACE), r * (capacity + L))
                for k in range(peek(counts, r)):
                    v = int(peek(places, k))
                    total = dot(e, offset(weight, v * width), width)
                    poke(values, k, total + peek(bias, v) if biased else total)

    def flatten(job_at, value, other, one, first, last, chunk):
        """Lists of rows one behind the other, each with its target at the end and there minus ``value``; or minus that
        where the target is in the list already, and 0 at the end: what cancels must not leave its rounding.
        """
        _ = source
        job = pointer(job_at, INTEGER)
        capacity = peek(job, CAPACITY)
        counts, targets = pointer(peek(job, COUNTS), INTEGER), pointer(peek(job, TARGETS), INTEGER)
        starts = pointer(peek(job, STARTS), INTEGER)
        out, out_places = pointer(peek(job, LIST_VALUES), one), pointer(peek(job, LIST_PLACES), PLACE)
        L = lanes(out)
        for r in range(first, last):
            values = offset(pointer(peek(job, VALUES), one), r * (capacity + L))
            places = offset(pointer(peek(job, PLACES), PLACE), r * (capacity + L))
            at, count = peek(starts, r), max(peek(counts, r), 0)
            rest = -value
            for k in range(count):
                p = peek(values, k)
                if peek(places, k) == peek(targets, r):
                    p, rest = p - value, 0.0
                poke(out, at + k, p)
                poke(out_places, at + k, peek(places, k))
            poke(out, at + count, rest)
            poke(out_places, at + count, peek(targets, r))

    def to_hidden(job_at, value, other, one, first, last, chunk):
        """OUT = SCALES times the sums of the weight's rows over tokens' lists."""
        _ = source
        job = pointer(job_at, INTEGER)
        width = peek(job, WIDTH)
        weight, out, scales = (
            pointer(peek(job, WEIGHT), one), pointer(peek(job, OUT), one), pointer(peek(job, SCALES), one)
        )  # fmt: skip
        starts = pointer(peek(job, STARTS), INTEGER)
        values, places = pointer(peek(job, LIST_VALUES), one), pointer(peek(job, LIST_PLACES), PLACE)
        for r in range(first, last):
            row = offset(out, r * width)
            clear(row, width, False)
            scale = peek(scales, r)
            for k in range(peek(starts, r), peek(starts, r + 1)):
                add_scaled(row, offset(weight, int(peek(places, k)) * width), width, scale * peek(values, k))

    def sort(job_at, value, other, one, first, last, chunk):
        """WORDS = where each word's pairs start, ORDER = the pairs sorted by word, TOKENS = whose they are."""
        _ = source
        job = pointer(job_at, INTEGER)
        tokens, vocabulary = last, peek(job, VOCABULARY)
        starts, words = pointer(peek(job, STARTS), INTEGER), pointer(peek(job, WORDS), INTEGER)
        places, order, owner = (
            pointer(peek(job, LIST_PLACES), PLACE), pointer(peek(job, ORDER), PLACE), pointer(peek(job, TOKENS), PLACE)
        )  # fmt: skip
        for v in range(vocabulary + 1):
            poke(words, v, 0)
        for k in range(peek(job, PAIRS)):
            v = int(peek(places, k)) + 1
            poke(words, v, peek(words, v) + 1)
        for v in range(vocabulary):
            poke(words, v + 1, peek(words, v + 1) + peek(words, v))
        for r in range(tokens):
            for k in range(peek(starts, r), peek(starts, r + 1)):
                v = int(peek(places, k))
                at = peek(words, v)
                poke(order, at, k)
                poke(owner, at, r)
                poke(words, v, at + 1)
        # Each start has moved to the next one.
        for i in range(vocabulary):
            v = vocabulary - i
            poke(words, v, peek(words, v - 1))
        poke(words, 0, 0)

    def to_weight(job_at, value, other, one, first, last, chunk):
        """OUT = sums of SCALES times hidden states over words' pairs; all words, or those that TARGETS names."""
        _ = source
        job = pointer(job_at, INTEGER)
        width = peek(job, WIDTH)
        hidden, out, scales, out_bias = (
            pointer(peek(job, HIDDEN), one), pointer(peek(job, OUT), one), pointer(peek(job, SCALES), one),
            pointer(peek(job, OUT_BIAS), one),
        )  # fmt: skip
        words, values = pointer(peek(job, WORDS), INTEGER), pointer(peek(job, LIST_VALUES), one)
        order, owner = pointer(peek(job, ORDER), PLACE), pointer(peek(job, TOKENS), PLACE)
        chosen = pointer(peek(job, TARGETS), INTEGER)
        for i in range(first, last):
            v = peek(chosen, i) if peek(job, TARGETS) != 0 else i
            row = offset(out, i * width)
            clear(row, width, False)
            total = 0.0
            for at in range(peek(words, v), peek(words, v + 1)):
                r = int(peek(owner, at))
                factor = peek(scales, r) * peek(values, int(peek(order, at)))
                add_scaled(row, offset(hidden, r * width), width, factor)
                total += factor
            if peek(job, OUT_BIAS) != 0:
                poke(out_bias, i, total)

    return tuple(Entry(kernel) for kernel in (products, flatten, to_hidden, sort, to_weight))


products, flatten, to_hidden, sort, to_weight = _entries()
