"""SparseMAP on tensors: the kernels of this folder behind `core.structures.ActiveSet`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ....core.structures import Start, Structures, Supports
from ..calls import address
from ..compiler import Entry
from ..jobs import ONES, chunks_of, run
from . import entries, job

# More structures than this make inverses that no cache holds.
MOST_STRUCTURES = 4096
# Below so many variables in all items a second thread costs more than it saves.
FEW = 256
# The same for numbers that are written only.
MANY = 2**14


class Plan(NamedTuple):
    """What calls for a factor and a capacity have in common.

    Attributes:
        fields: of a job.
        numbers, words: where in it the addresses of a thread's own parts stand, and where these begin in its memory of
            float64 and of integers, in bytes.
        own: of float64 and of integers, how many a thread needs.
    """

    fields: tuple[int, ...]
    numbers: tuple[tuple[int, int], ...]
    words: tuple[tuple[int, int], ...]
    own: tuple[int, int]


@lru_cache(maxsize=256)
def plan(factor: Structures, capacity: int) -> Plan:
    n, m, d = factor.places, factor.columns, factor.variables
    width = n if n else -(-d // 64)
    search = {
        "bits": (d, 0),
        "sequence": (2 * m, n * m),
        "matching": (n + 2 * m + 3, 3 * m + 3),
        "tree": ((n + 1) * (n + 3), (n + 1) * (2 * n + 17)),
        "projective": (5 * (n + 1) ** 2, 3 * (n + 1) ** 2 + 6 * n + 12),
    }[factor.kind]
    fields = _fields(
        d=d, e=factor.additional, places=n, width=width, capacity=capacity, low=factor.low, high=factor.high, columns=m,
        states=m if factor.kind == "sequence" else 0, by_column=factor.kind in ("tree", "projective"),
        ld=job.row_length(capacity),
    )  # fmt: skip
    sizes = job.own_sizes(capacity, d, n == 0, width, *search)
    ways, own = [], []
    for names in (job.OWN, job.OWN_INTEGERS):
        at, way = 0, []
        for name in names:
            way.append((job.PLACE[name], 8 * at))
            at += sizes[name]
        ways.append(tuple(way))
        own.append(at)
    return Plan(tuple(fields), ways[0], ways[1], (own[0], own[1]))


def _fields(**values: int) -> list[int]:
    made = [0] * job.FIELDS
    for name, value in values.items():
        made[job.PLACE[name]] = value
    return made


def capacity_for(factor: Structures, most: int, firsts: int, whole: bool) -> int:
    """How many structures an item may have in use: affinely independent ones, one more each time it asks."""
    rank = factor.variables - factor.places + 1
    return rank if whole else min(rank, most + max(1, firsts))


class ActiveSet:
    """`core.structures.ActiveSet`."""

    def refuses(self, factor: Structures, most: int, whole: bool) -> str | None:
        if capacity_for(factor, most, 0, whole) > MOST_STRUCTURES:
            return f"for supports of at most {MOST_STRUCTURES} structures"
        return None

    def solve(
        self, factor: Structures, x: Tensor, y: Tensor, lengths: Tensor | None, start: Start, most: int, tol: float,
        whole: bool,
    ) -> Supports:  # fmt: skip
        batch, firsts = len(x), 0 if start.weights is None else start.weights.shape[1]
        capacity = capacity_for(factor, most, firsts, whole)
        width = plan(factor, capacity).fields[job.PLACE["width"]]
        found = Supports(
            factor, capacity, lengths, torch.empty(batch, dtype=torch.int8), x.new_empty(batch),
            torch.empty(batch, dtype=torch.int64), torch.empty(batch, 2, dtype=torch.int64),
            torch.empty(batch, capacity, width, dtype=torch.int64), x.new_empty(batch, capacity), torch.empty_like(x),
            torch.empty_like(y),
        )  # fmt: skip
        tensors = {
            "scores": x, "pair_scores": y, "start_x": start.x, "start_y": start.y, "first": start.structures,
            "first_weights": start.weights, "first_used": start.used, "outcomes": found.codes, "gaps": found.gap,
            "asked": found.asked, "weights": found.weights, "marginals": found.marginals, "pairs": found.pairs,
        }  # fmt: skip
        _run(entries.solver(factor.kind), found, tol, tensors, most=most, firsts=firsts, whole=whole)
        return found

    def vectors(self, found: Supports, slots: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        factor, batch = found.factor, len(found.gap)
        kept = dtype if dtype in ONES else torch.float32
        unary, pairs = (torch.zeros(batch, slots, n, dtype=kept) for n in (factor.variables, factor.additional))
        weights, mask = found.weights.new_empty(batch, slots), torch.empty(batch, slots, dtype=torch.bool)
        given = _job(
            found,
            {"gaps": found.gap, "weights": found.weights, "marginals": unary, "pairs": pairs, "first_weights": weights,
             "first_used": mask}, firsts=slots,
        )  # fmt: skip
        chunks = chunks_of(batch, unary.numel() + pairs.numel(), MANY, torch.get_num_threads())
        run(entries.vectors(factor.kind != "bits"), given, 0.0, 0.0, kept, batch, chunks)
        return unary.to(dtype), pairs.to(dtype), weights, mask

    def marginals_of_scores(self, found: Supports, x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        x, y = x.contiguous(), y.contiguous()
        mu, nu = torch.empty_like(x), torch.empty_like(y)
        tensors = {"scores": x, "pair_scores": y, "marginals": mu, "pairs": nu}
        _run(_products(found), found, scale, tensors, whole=entries.MARGINALS_OF_SCORES)
        return mu, nu

    def scores_of_weights(self, found: Supports, weights: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        x, y = torch.empty_like(found.marginals), torch.empty_like(found.pairs)
        tensors = {"first_weights": weights.contiguous(), "marginals": x, "pairs": y}
        _run(
            _products(found), found, scale, tensors, whole=entries.SCORES_OF_WEIGHTS, firsts=weights.shape[1]
        )  # fmt: skip
        return x, y

    def weights_of_scores(self, found: Supports, x: Tensor, y: Tensor, slots: int, scale: float) -> Tensor:
        weights = x.new_empty(len(x), slots)
        tensors = {"scores": x.contiguous(), "pair_scores": y.contiguous(), "weights": weights}
        _run(_products(found), found, scale, tensors, whole=entries.WEIGHTS_OF_SCORES, firsts=slots)
        return weights


def _products(found: Supports) -> Entry:
    return entries.products(found.factor.kind != "bits")


def _job(found: Supports, tensors: Mapping[str, Tensor | None], **sizes: int) -> list[int]:
    given, at = list(plan(found.factor, found.capacity).fields), job.PLACE
    for name, tensor in tensors.items():
        given[at[name]] = address(tensor)
    for name, size in sizes.items():
        given[at[name]] = size
    given[at["lengths"]], given[at["items"]] = address(found.lengths), len(found.gap)
    given[at["sizes"]], given[at["vertices"]] = found.sizes.data_ptr(), found.vertices.data_ptr()
    return given


def _run(entry: Entry, found: Supports, value: float, tensors: Mapping[str, Tensor | None], **sizes: int) -> None:
    """Do a job whose items are taken by whichever thread is free."""
    place, items = plan(found.factor, found.capacity), len(found.gap)
    threads = chunks_of(items, items * found.factor.variables, FEW, torch.get_num_threads())
    given, jobs = _job(found, tensors, **sizes), []
    numbers = torch.empty(threads * place.own[0], dtype=torch.float64)
    words = torch.empty(threads * place.own[1] + 1, dtype=torch.int64)
    # Which item is next.
    words[-1] = 0
    at_numbers, at_words = numbers.data_ptr(), words.data_ptr()
    given[job.PLACE["counter"]] = at_words + 8 * threads * place.own[1]
    for thread in range(threads):
        for way, at, size in ((place.numbers, at_numbers, place.own[0]), (place.words, at_words, place.own[1])):
            begin = at + 8 * thread * size
            for field, shift in way:
                given[field] = begin + shift
        jobs += given
    run(entry, jobs, value, 0.0, torch.float64, items, threads)
