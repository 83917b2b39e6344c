"""SparseMAP: the sparse distribution over structures, differentiable, with what certifies it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import is_integer, is_number
from ..core.status import Outcome, Result
from ..core.structures import ActiveSet, Structures
from . import active_set, kernels
from .factor import Factor, Scores
from .kernels import described, kernel_for


@dataclass(frozen=True)
class StructuredSolution:
    """A sparse distribution over structures.

    Attributes:
        marginals: (B, *natural) probabilities of the variables, differentiable.
        pairs: (B, e) probabilities of pairs of variables that have scores of their own, differentiable.
        vertices: (B, S, d) variables of the structures in the support.
        vertex_pairs: (B, S, e) their pairs.
        weights: (B, S) their probabilities, largest first, differentiable.
        mask: (B, S) which of them there are.
        gap: (B) how much better than the objective here any distribution can be, at most: a certificate.
        iterations: (B) how often the best structure was asked for.
        result: what happened in each item.
        geometry: "on", or "onoff" where variables that are off count too.
        factor: of which it is.
    """

    marginals: Tensor
    pairs: Tensor
    vertices: Tensor
    vertex_pairs: Tensor
    weights: Tensor
    mask: Tensor
    gap: Tensor
    iterations: Tensor
    result: Result
    geometry: str
    factor: str


def sparsemap(
    factor: Factor,
    scores: Tensor,
    additional: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    max_iter: int = 1000,
    tol: float = 1e-9,
    init: Literal["map", "random"] | StructuredSolution = "map",
    generator: torch.Generator | None = None,
) -> StructuredSolution:
    r"""The distribution over a factor's structures with the best marginals, few of them with probability:

    $$\max_{p \in \triangle} \; \langle A^\top x, p \rangle - \tfrac12 \|A_u p\|^2$$

    with a structure's variables as columns of A_u, and those with its pairs as columns of A. Marginals A_u p are
    unique, p in general is not: the one returned depends on the start.

    Args:
        factor: the set of structures.
        scores: (B, *natural) of variables; -inf rules out what has them, where something else is possible.
        additional: of pairs of variables, for factors that have such, such as transitions; None for zero.
        lengths: (B) of items of a padded batch, for factors that have such.
        max_iter: the best structure is asked for at most so often.
        tol: the gap at which an item is done. A larger one asks for fewer structures: |mu - mu*| <= sqrt(2 gap).
        init: "map" starts from the best structure; "random" from the best one for uniform scores in [-1, 1], drawn from
            the generator; or an earlier solution of this factor and a batch of this size. Items whose structures are
            not possible any more start anew.
        generator: for "random".

    Returns:
        a `StructuredSolution`, in the dtype of the scores, the gap in float64; solved in float64.

    Raises:
        ShapeError: scores that are not the factor's.
        ParameterError: max_iter, tol or init that cannot be.

    Differentiability:
        any order in scores of variables and pairs; the result is piecewise linear, so second derivatives are zero.
        Marginals and pairs: on the whole face of structures that are as good as those in the support, which is looked
        for when a gradient is wanted. Weights, which are not unique: with the support held fixed. Not inside function
        transforms for sequences and projective trees.

    Complexity:
        per iteration one best structure, and for a support of S O(S^2 + S d) by kernels, O(S^3 + S d) without.

    Example:
        >>> import torch
        >>> from tsallis.structured import Bits, sparsemap
        >>> found = sparsemap(Bits(3), torch.tensor([[0.25, 2.0, -1.0]]))
        >>> found.marginals, found.weights
        (tensor([[0.2500, 1.0000, 0.0000]]), tensor([[0.7500, 0.2500]]))

    References:
        niculae2018sparsemap
    """
    if not is_integer(max_iter) or max_iter < 1:
        raise ParameterError(f"max_iter={max_iter!r}", "a whole number, 1 at least", "Choose one")
    if not is_number(tol) or not tol >= 0:
        raise ParameterError(f"tol={tol!r}", "a number, 0 or more", "Choose one")
    return solution(factor, factor.flat(scores, additional, lengths), scores, max_iter, tol, init, generator)


def solution(
    factor: Factor,
    given: Scores,
    scores: Tensor,
    max_iter: int,
    tol: float,
    init: Literal["map", "random"] | StructuredSolution,
    generator: torch.Generator | None = None,
) -> StructuredSolution:
    """`sparsemap` of scores that a factor has read, in the dtype of those that were given."""
    # More than can be counted to is no limit.
    max_iter = min(int(max_iter), 2**62)
    wanted = torch.is_grad_enabled() and (given.unary.requires_grad or given.additional.requires_grad)
    structures = described(factor)
    if (kernel := kernel_for(given, structures, max_iter, wanted)) is not None and structures is not None:
        return _by_kernel(kernel, structures, factor, scores, given, wanted, max_iter, float(tol), init, generator)
    with torch.no_grad():
        clean, codes = _cleaned(given)
        inner = _inner(factor, clean)
        x = torch.cat([inner.unary, inner.additional], -1)
        first = factor.best(inner)
        # Where the best one is ruled out, all are.
        impossible = active_set.values(first[:, None], x)[:, 0] == -torch.inf
        codes = torch.where(impossible & (codes == Outcome.SUCCESS), int(Outcome.INFEASIBLE), codes)
        bad = codes != Outcome.SUCCESS
        inner = inner.each(lambda s: torch.where(bad[:, None], 0.0, s))
        begun = _state(factor, inner, init, generator)
        found = active_set.solve(factor.best, inner, begun, max_iter, float(tol) / factor.spread)
        state = active_set.compact(found.state)
        codes = torch.where(~bad & ~found.done, int(Outcome.GAP_LEFT), codes)
        face = state
        if wanted:
            face = active_set.whole_face(factor, inner, state, found.gap)
    weights, marginals = (_finished(t, bad, scores) for t in _differentiable(factor, given, state, face))
    vertices, pairs = state.structures.to(weights.dtype).tensor_split([factor.variables], -1)
    mu, nu = marginals.tensor_split([factor.variables], -1)
    return StructuredSolution(
        mu.reshape(len(mu), *factor.natural), nu, vertices, pairs, weights, state.used & ~bad[:, None],
        torch.where(bad, torch.nan, found.gap * factor.spread), found.iterations, Result(codes.to(torch.int8)),
        _geometry(factor), repr(factor),
    )  # fmt: skip


def _by_kernel(
    kernel: ActiveSet, structures: Structures, factor: Factor, scores: Tensor, given: Scores, wanted: bool,
    max_iter: int, tol: float, init: object, generator: torch.Generator | None,
) -> StructuredSolution:  # fmt: skip
    dtype = _dtype(scores)
    with torch.no_grad():
        inner = _inner(factor, given).each(Tensor.contiguous)
        start = kernels.begin(inner, *_start(factor, inner, init, generator))
        whole = wanted and factor.slopes(inner.unary[:0]) is None
        found = kernel.solve(
            structures, inner.unary, inner.additional, given.lengths, start, max_iter, tol / factor.spread, whole
        )
        slots = max(1, int(found.sizes[:, 0].max()))
        vertices, pairs, weights, mask = kernel.vectors(found, slots, dtype)
    mu, nu = found.marginals, found.pairs
    if wanted:
        slopes = factor.slopes(inner.unary)
        if slopes is not None:
            slopes = torch.where(found.gap.isnan()[:, None], 0.0, slopes) / factor.spread
        derived = kernels.Derived(factor, kernel, found, slots, 1 / factor.spread, slopes)
        weights, mu, nu = kernels.Solved.apply(derived, weights, given.unary, given.additional)  # pyright: ignore[reportGeneralTypeIssues]
    gap = found.gap if factor.spread == 1 else found.gap * factor.spread
    return StructuredSolution(
        mu.to(dtype).reshape(len(mu), *factor.natural), nu.to(dtype), vertices, pairs, weights.to(dtype), mask, gap,
        found.asked, Result(found.codes), _geometry(factor), repr(factor),
    )  # fmt: skip


def _geometry(factor: Factor) -> str:
    return "on" if factor.spread == 1 else "onoff"


def _inner(factor: Factor, given: Scores) -> Scores:
    """Scores of the problem whose quadratic term is -1/2 |mu|^2."""
    if factor.spread == 1 and factor.shift == 0:
        return given
    return Scores((given.unary + factor.shift) / factor.spread, given.additional / factor.spread, given.lengths)


def _cleaned(given: Scores) -> tuple[Scores, Tensor]:
    """Scores that can be worked with, and what is wrong with each item."""
    codes = torch.zeros(len(given.unary), dtype=torch.int64, device=given.unary.device)
    for x in (given.unary, given.additional):
        codes = torch.where((x == torch.inf).any(-1), int(Outcome.INFINITE_SCORE), codes)
    for x in (given.unary, given.additional):
        codes = torch.where(x.isnan().any(-1), int(Outcome.NAN_SCORE), codes)
    bad = (codes != Outcome.SUCCESS)[:, None]
    return given.each(lambda x: torch.where(bad, 0.0, x)), codes


Earlier = tuple[Tensor, Tensor, Tensor]


def _start(
    factor: Factor, inner: Scores, init: object, generator: torch.Generator | None
) -> tuple[Scores | None, Earlier | None]:
    """Other scores whose best structure is the start, or structures, weights and which of them are used; or neither."""
    if init == "map":
        return None, None
    if init == "random":

        def drawn(x: Tensor) -> Tensor:
            uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            return torch.where(x == -torch.inf, x, 2 * uniform - 1)

        return inner.each(drawn), None
    if not isinstance(init, StructuredSolution):
        raise ParameterError(f"init={init!r}", '"map", "random" or an earlier solution', "Choose one")
    structures = torch.cat([init.vertices, init.vertex_pairs], -1).detach().double()
    batch, size = len(inner.unary), factor.variables + factor.additional
    if init.factor != repr(factor) or len(structures) != batch or structures.shape[-1] != size:
        raise ShapeError(
            f"init of {init.factor} and {len(structures)} items", f"one of {factor!r} and {batch}", "Start anew"
        )
    if not init.weights.shape == init.mask.shape == structures.shape[:2]:
        raise ShapeError(
            f"init with weights of shape {tuple(init.weights.shape)} and a mask of shape {tuple(init.mask.shape)}",
            f"{tuple(structures.shape[:2])}, as it has vertices", "Pass a solution as it came",
        )  # fmt: skip
    return None, (structures, init.weights.detach().double(), init.mask.bool())


def _state(factor: Factor, inner: Scores, init: object, generator: torch.Generator | None) -> active_set.State:
    drawn, again = _start(factor, inner, init, generator)
    return active_set.start(factor.best(drawn or inner)) if again is None else _again(factor, inner, *again)


def _again(factor: Factor, inner: Scores, structures: Tensor, weights: Tensor, used: Tensor) -> active_set.State:
    """Where an earlier solution ended; items for which that is impossible now begin at their best structure."""
    x = torch.cat([inner.unary, inner.additional], -1)
    own = structures[..., : factor.variables]
    behind = torch.stack([factor.inside(own[:, s], inner.lengths) != own[:, s] for s in range(own.shape[1])], 1)
    out = (active_set.values(structures, x) == -torch.inf) | behind.any(-1) | ~weights.isfinite()
    first = torch.zeros_like(structures)
    first[:, 0] = factor.best(inner)
    if factor.chooses:
        # Of items of other lengths.
        out = out | (own.sum(-1) != first[:, :1, : factor.variables].sum(-1))
    good = used.any(-1) & ~(used & out).any(-1)
    one = torch.zeros_like(used)
    one[:, 0] = True
    return active_set.State(
        torch.where(good[:, None, None], structures, first), torch.where(good[:, None], weights, one.double()),
        torch.where(good[:, None], used, one),
    )  # fmt: skip


def _differentiable(
    factor: Factor, given: Scores, state: active_set.State, face: active_set.State
) -> tuple[Tensor, Tensor]:
    """(weights, marginals) as functions of the scores: linear ones, on a support and a face that stay."""
    inner = _inner(factor, given)
    x = torch.cat([inner.unary, inner.additional], -1)
    weights = state.weights + _moved(factor, x, state)
    marginals = torch.einsum("bs,bsd->bd", state.weights, state.structures)
    slopes = factor.slopes(x[:, : factor.variables].detach())
    if slopes is not None:
        return weights, marginals + slopes * torch.where(slopes > 0, x - x.detach(), 0.0)
    return weights, marginals + torch.einsum("bs,bsd->bd", _moved(factor, x, face), face.structures)


def _moved(factor: Factor, x: Tensor, state: active_set.State) -> Tensor:
    """(B, S) zeros whose derivatives are those of the weights."""
    b = active_set.values(state.structures, x)
    return torch.einsum("bst,bt->bs", active_set.corner(state, factor.variables), b - b.detach())


def _finished(x: Tensor, bad: Tensor, scores: Tensor) -> Tensor:
    """In the scores' dtype; NaN where there is no result."""
    return torch.where(bad[:, None], torch.nan, x).to(_dtype(scores))


def _dtype(scores: Tensor) -> torch.dtype:
    return scores.dtype if scores.dtype.is_floating_point else torch.get_default_dtype()
