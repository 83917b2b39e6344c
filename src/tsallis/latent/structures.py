"""Exact marginalization over structures: SparseMAP, and sparsemax over the best bit vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import ParameterError
from ..core.status import Outcome
from ..structured import Factor, sparsemap, topk_sparsemax_bits
from .estimators import Estimate, Estimator, Problem
from .latents import Table
from .packing import support_pairs


@dataclass(frozen=True, eq=False)
class SparseMAP(Estimator):
    r"""Exact marginalization over the few structures that SparseMAP gives probability.

    The loss gets values (R, d), 0 or 1, of the scores' dtype. Which structures these are is not unique, only their
    marginals are: losses that are not linear in the structure, and the entropy, depend on the start. Where constraints
    tie variables together, as in `Budget` and `Sequence`, they may also jump when scores change by 1e-9, though
    marginals do not; with `Bits` they jump on boundaries only. Gradients are those of the structures that were found.
    Of bit vectors, `TopKSparsemax` has a distribution that is unique and continuous. `Expectation.exact` says which
    examples were solved to the tolerance.

    Args:
        factor: the set of structures, such as ``Bits(n, geometry="onoff")``; scores are (B, *natural).
        additional, lengths: as in `sparsemap`.
        init: ``"map"``, or ``"random"``, a random start drawn from the generator, which must then be given.
        max_iter, tol: as in `sparsemap`.

    References:
        niculae2018sparsemap, correia2020efficient
    """

    factor: Factor
    additional: Tensor | None = None
    lengths: Tensor | None = None
    init: Literal["map", "random"] = "map"
    max_iter: int = 300
    tol: float = 1e-9

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        problem.refuse_table("SparseMAP")
        random = self.init == "random"
        if random != (problem.generator is not None):
            raise ParameterError(
                f"init={self.init!r} {'without' if random else 'with'} a generator",
                "a generator for random starts, and for these only",
                "Pass one" if random else "Leave it out",
            )
        found = sparsemap(
            self.factor, scores, self.additional, lengths=self.lengths,
            init=self.init, max_iter=self.max_iter, tol=self.tol, generator=problem.generator,
        )  # fmt: skip
        table = Table(found.weights, found.vertices, found.mask, found.marginals)
        return _summed(table, problem, found.result.codes == Outcome.SUCCESS)


@dataclass(frozen=True, eq=False)
class TopKSparsemax(Estimator):
    """Sparsemax over the k best bit vectors, scores (B, D): exact where `Expectation.exact` certifies that no other
    vector has probability.

    Args:
        k: how many are looked at.
        grow: whether to double k until every example is certified, or k is `most`.
        most: the largest k to grow to.

    References:
        correia2020efficient
    """

    k: int = 10
    grow: bool = True
    most: int = 4096

    def estimate(self, scores: Tensor, problem: Problem) -> Estimate:
        problem.refuse_table("TopKSparsemax")
        if problem.generator is not None:
            raise ParameterError("generator with TopKSparsemax", "none: nothing is sampled", "Leave generator out")
        found = topk_sparsemax_bits(scores, self.k, grow=self.grow, most=self.most)
        marginals = torch.einsum("bs,bsd->bd", found.p, found.vertices)
        return _summed(Table(found.p, found.vertices, found.p > 0, marginals), problem, found.exact)


def _summed(table: Table, problem: Problem, exact: Tensor) -> Estimate:
    assert table.vertices is not None
    index, slot = support_pairs(table.probs)
    z = table.vertices[index, slot]
    loss = problem.expected(index, z, table.probs[index, slot], len(table.probs))
    return Estimate(loss, loss, table, exact)
