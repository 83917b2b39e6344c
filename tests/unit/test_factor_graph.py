"""Factor graphs against exact solutions of single factors and of trees, certificates of loopy ones, and differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tsallis.core.status import Outcome
from tsallis.structured import (
    AndOut,
    AtMostOne,
    Attached,
    Bits,
    Budget,
    DependencyTree,
    Factor,
    FactorGraph,
    Imply,
    Matching,
    Or,
    OrOut,
    Pair,
    Sequence,
    Simplex,
    XorOut,
    sparsemap,
)  # fmt: skip

from .graphs import (
    LOGIC,
    STRUCTURES,
    Joint,
    RandomGraph,
    all_pairs,
    assignments,
    best_value,
    gap,
    outside,
    random_tree,
    shaped,
)  # fmt: skip

EVERY: list[Factor] = [
    Simplex(1), Simplex(5), AtMostOne(1), AtMostOne(5), Or(1), Or(5), XorOut(2), XorOut(5), OrOut(2), OrOut(5),
    AndOut(2), AndOut(5), Imply(2), Imply(5), Pair(), Budget(5, 0), Budget(5, 2), Budget(5, 5), Budget(5, 2, True),
    Budget(5, 0, True), Budget(5, 5, True), Bits(5), Simplex(20), Budget(20, 7), OrOut(20), Sequence(3, 3),
    Matching(3), DependencyTree(3), DependencyTree(3, True),
]  # fmt: skip


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _joined(*parts: tuple[Tensor, dict[Attached, Tensor]]) -> tuple[Tensor, dict[Attached, Tensor]]:
    return torch.cat([x for x, _ in parts]), {
        key: torch.cat([more[key] for _, more in parts]) for key in parts[0][1]
    }  # fmt: skip


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("factor", EVERY, ids=repr)
def test_a_single_factor_is_solved_exactly(factor: Factor, negate: bool) -> None:
    """As by the active set, in value and gradient, with ties and without; also of two that share nothing."""
    d, batch = factor.variables, 10 if isinstance(factor, DependencyTree) else 40
    flip = (torch.rand(d, generator=torch.Generator().manual_seed(1)) < 0.5 if negate else torch.zeros(d)).bool()
    if isinstance(factor, DependencyTree) and negate:
        flip[:] = False
    sign, off = 1 - 2 * flip.double(), flip.double()
    graph = FactorGraph()
    u = graph.variables((2, d))
    masked = graph.variables(d)
    parts = [torch.where(flip, 1, 0).bool()]
    places = [graph.add(factor, type(u)(graph, row.index, parts[0])) for row in u]
    x = torch.cat([_normal(batch, 2, d) * scale for scale in (0.3, 1.0, 4.0)])
    x = torch.cat([x, (2 * _normal(batch, 2, d, seed=1)).round() / 2]).requires_grad_()
    y = shaped(factor, _normal(len(x), factor.additional, seed=2)).requires_grad_() if factor.additional else None
    more = {} if y is None else dict.fromkeys(places, y)
    found = graph.solve(x, torch.zeros(len(x), d), additional=more)
    assert found.result.ok
    assert not bool(found.iterations.any())
    assert bool((found[masked] == 0).all())
    direction, along = _normal(len(x), d, seed=3), _normal(len(x), factor.additional, seed=4)
    for i, place in enumerate(places):
        own = sparsemap(factor, sign * x[:, i] + off, y, tol=1e-14)
        mu = sign * (own.marginals.flatten(1) - off)
        assert torch.allclose(found[u][:, i], mu, atol=2e-7)
        if isinstance(factor, Pair):
            # Bounds on pairs, where the score is 0 for both; here it is not.
            assert bool((y != 0).all()) if y is not None else False
        assert torch.allclose(found.pairs(place), own.pairs, atol=2e-7)
        inputs = (x,) if y is None else (x, y)
        ours, exact = (
            torch.autograd.grad((a * direction).sum() + (b * along).sum(), inputs, retain_graph=True)
            for a, b in ((found[u][:, i], found.pairs(place)), (mu, own.pairs))
        )
        # Without ties: at those both are one of several.
        for a, b in zip(ours, exact, strict=True):
            assert torch.allclose(a[: 3 * batch], b[: 3 * batch], atol=1e-6)


@pytest.mark.parametrize("kind", [*LOGIC, *STRUCTURES, "mixed"])
def test_trees_of_factors_are_the_joint_distribution(kind: str) -> None:
    """Exactly, in marginals, pairs and gradients: as SparseMAP over all assignments."""
    checked, moved = 0, False
    for seed in range(3 if kind != "mixed" else 12):
        made = random_tree(seed, 3, (kind,) if kind != "mixed" else LOGIC + STRUCTURES, most=8)
        joint = Joint(made)
        if not len(joint.every):
            continue
        x, more = _joined(made.scores(4, 0.3), made.scores(4, 1.0))
        inputs = [t.requires_grad_() for t in (x, *more.values())]
        found = made.graph.solve(x, additional=more, tol=1e-12, max_iter=10000)
        flat = torch.cat([x.new_zeros(len(x), 0), *(y.flatten(1) for y in more.values())], 1)
        exact = sparsemap(joint, x, flat, tol=1e-15)
        assert found.result.ok
        assert torch.allclose(found.marginals, exact.marginals, atol=1e-6), seed
        pairs = torch.cat([exact.pairs[:, :0], *(found.pairs(place) for place in more)], 1)
        assert torch.allclose(pairs, exact.pairs, atol=1e-6), seed
        c, e = _normal(*x.shape, seed=seed), _normal(*flat.shape, seed=seed + 1)
        ours, theirs = (
            torch.autograd.grad((a * c).sum() + (b * e).sum(), inputs, retain_graph=True)
            for a, b in ((found.marginals, pairs), (exact.marginals, exact.pairs))
        )
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-5), seed
            moved |= bool(a.any())
        checked += 1
    assert checked
    assert moved


class Loopy:
    """What became of random graphs: how many are solved, impossible and cut short; the worst error, iterations."""

    def __init__(self) -> None:
        self.solved = self.impossible = self.short = 0
        self.worst, self.iterations = 0.0, [0]

    def __str__(self) -> str:
        mean = sum(self.iterations) / len(self.iterations)
        return (
            f"{self.solved} solved, {self.impossible} impossible, {self.short} cut short; error {self.worst:.1e}; "
            f"{mean:.0f} iterations, {max(self.iterations)} at most"
        )


def _loopy(seeds: range, kinds: tuple[str, ...], factors: int = 6, variables: int = 10) -> Loopy:
    """What is solved is certified, what is impossible says so; three items of different scores for each graph."""
    seen = Loopy()
    for seed in seeds:
        made = RandomGraph(seed, variables, factors, kinds)
        x, more = _joined(made.scores(1, 0.3), made.scores(1, 1.0), made.scores(1, 3.0))
        x[1] = x[1].mul(2).round() / 2
        found = made.graph.solve(x, additional=more)
        if best_value(made, torch.zeros_like(x), {key: 0 * y for key, y in more.items()}, 0) != 0:
            assert set(found.result.codes.tolist()) <= {Outcome.NOT_CONVERGED, Outcome.INFEASIBLE}, seed
            seen.impossible += len(x)
            continue
        exact = made.graph.solve(x, additional=more, tol=1e-12, max_iter=20000)
        good = found.result.codes == Outcome.SUCCESS
        residual = torch.maximum(found.primal_residual, found.dual_residual)
        assert torch.equal(good, residual <= 1e-6)
        assert bool((found.iterations <= 1000).all())
        for item in range(len(x)):
            # |mu - mu*|^2 is twice the gap at most.
            assert abs(gap(made, exact, x, more, item)) < 5e-10, (seed, item)
            assert outside(made, exact, item) < 1e-9, (seed, item)
        error = (found.marginals - exact.marginals)[good].abs()
        assert bool((error < 1e-4).all()), seed
        seen.worst = max([seen.worst, *error.flatten().tolist()])
        seen.iterations += found.iterations[good].tolist()
        seen.solved, seen.short = seen.solved + int(good.sum()), seen.short + int((~good).sum())
    assert seen.short <= 0.05 * (seen.solved + seen.short)
    return seen


def test_loopy_graphs_are_certified() -> None:
    seen = _loopy(range(34), LOGIC)
    assert seen.solved > 80
    assert seen.impossible
    assert _loopy(range(100, 103), LOGIC + STRUCTURES).solved > 3


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_thousand_loopy_graphs() -> None:
    print(_loopy(range(1000), LOGIC))  # noqa: T201


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_ten_thousand_small_problems() -> None:
    seen = _loopy(range(10000, 13334), LOGIC, 3, 5)
    print(seen)  # noqa: T201
    assert seen.solved + seen.impossible + seen.short >= 10000


def test_rows_and_columns_are_doubly_stochastic() -> None:
    graph = FactorGraph()
    u = graph.variables((5, 5))
    graph.add(Simplex(5), u)
    graph.add(Simplex(5), u.mT)
    x = _normal(16, 5, 5).requires_grad_()
    found, exact = graph.solve(x, tol=1e-9), sparsemap(Matching(5), x, tol=1e-14)
    assert found.result.ok
    assert torch.allclose(found[u], exact.marginals, atol=1e-6)
    c = _normal(16, 5, 5, seed=1)
    ours, theirs = (torch.autograd.grad((mu * c).sum(), x)[0] for mu in (found[u], exact.marginals))
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert bool(ours.any())


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_are_those_of_finite_differences(tied: bool) -> None:
    """Along directions in which the solution is differentiable; of marginals and pairs, by all scores."""
    checked, worst, sizes = 0, 0.0, 0.0
    for seed in range(24):
        made = RandomGraph(seed, 8, 5, LOGIC if seed % 4 else LOGIC + STRUCTURES)
        if not len(assignments(made)):
            continue
        x, more = made.scores(2, 0.5)
        if tied:
            # Of many equal ones, few lie where a projection bends.
            x = 0.23 * x.mul(2).round() + 0.11
        inputs = [x, *more.values()]
        c = [_normal(*x.shape, seed=seed + 1), *(_normal(2, p.factor.additional, seed=seed + 2) for p in more)]
        steps = [_normal(*t.shape, seed=seed + 3) for t in inputs]

        def value(*scores: Tensor, made: RandomGraph = made, places: Any = tuple(more), c: Any = c) -> Tensor:
            additional = dict(zip(places, scores[1:], strict=True))
            found = made.graph.solve(scores[0], additional=additional, tol=1e-13, max_iter=20000)
            return sum(((a * b).sum(1) for a, b in zip([found.marginals, *map(found.pairs, places)], c, strict=True)),
                       torch.zeros(()))  # fmt: skip

        h = 1e-5
        with torch.no_grad():
            low, at, high = (value(*(t + s * h * d for t, d in zip(inputs, steps, strict=True))) for s in (-1, 0, 1))
        left, right = (at - low) / h, (high - at) / h
        slopes = torch.autograd.grad(value(*(t.requires_grad_() for t in inputs)).sum(), inputs)
        ours = sum(((g * d).flatten(1).sum(1) for g, d in zip(slopes, steps, strict=True)), torch.zeros(()))
        smooth = (left - right).abs() < 1e-5
        checked += int(smooth.sum())
        worst = max([worst, *(ours - (left + right) / 2)[smooth].abs().tolist()])
        sizes = max([sizes, *ours[smooth].abs().tolist()])
    assert checked > (10 if tied else 25)
    assert worst < 1e-5
    assert sizes > 1


def test_second_derivatives_are_zero_and_first_ones_linear() -> None:
    made = RandomGraph(3, 6, 3, ("simplex", "pair", "or out"))
    x, more = made.scores(1, 0.5)
    inputs = tuple(t.requires_grad_() for t in (x, *more.values()))

    def marginals(*scores: Tensor) -> tuple[Tensor, ...]:
        found = made.graph.solve(scores[0], additional=dict(zip(more, scores[1:], strict=True)), tol=1e-13)
        return found.marginals, *map(found.pairs, more)

    assert torch.autograd.gradcheck(marginals, inputs, atol=1e-5)
    assert torch.autograd.gradgradcheck(marginals, inputs, atol=1e-5)


def test_a_gradient_that_is_not_reached_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsallis.structured.graph_gradients._most", lambda variables: 1)
    graph = FactorGraph()
    u = graph.variables((4, 4))
    graph.add(Simplex(4), u)
    graph.add(Simplex(4), u.mT)
    x = (0.1 * _normal(2, 4, 4)).requires_grad_()
    with pytest.warns(RuntimeWarning, match="off its face"):
        torch.autograd.grad((graph.solve(x)[u] * _normal(2, 4, 4, seed=1)).sum(), x)


@pytest.mark.parametrize("factor", EVERY, ids=repr)
def test_the_best_structure_of_a_single_factor_is_exact(factor: Factor) -> None:
    """With ties too, and with some variables ruled out, some negated."""
    d = factor.variables
    graph = FactorGraph()
    u, v = graph.variables(factor.natural), graph.variables(d)
    first = graph.add(factor, u)
    flip = torch.rand(d, generator=torch.Generator().manual_seed(1)) < 0.5
    second = graph.add(factor, type(v)(graph, v.index, flip))
    x = _normal(30, 2, d)
    x[10:20] = x[10:20].round()
    x[20:, 0] = x[20:, 0].masked_fill(torch.rand(10, d, generator=torch.Generator().manual_seed(2)) < 0.2, -torch.inf)
    y = shaped(factor, _normal(30, factor.additional, seed=3)) if factor.additional else None
    more = {} if y is None else {first: y, second: y}
    found = graph.solve_map(x[:, 0].unflatten(1, factor.natural), x[:, 1], additional=more)
    assert not bool(found.iterations.any())
    good = found.result.codes == Outcome.SUCCESS
    assert bool(found.integral[good].all())
    for place, sign, mu in ((first, 1.0, found[u].flatten(1)), (second, 1 - 2 * flip.double(), found[v])):
        given = factor.flat(sign * x[:, place.number], y)
        scores = torch.cat([given.unary, given.additional], 1)
        bits = mu if place is first else (mu - flip.double()).abs()
        ours, best = (
            torch.where(chosen > 0, scores, 0.0).sum(1)
            for chosen in (torch.cat([bits, found.pairs(place)], 1), factor.best(given))
        )
        assert torch.allclose(ours[good], best[good])
        # The first alone has some ruled out.
        assert place is second or torch.equal(good, best > -torch.inf)


def test_the_best_assignment_of_trees_is_exact() -> None:
    checked = 0
    for seed in range(25):
        made = random_tree(seed)
        every = assignments(made)
        if not len(every):
            continue
        x, more = _joined(made.scores(1, 0.3), made.scores(1, 1.0), made.scores(1, 3.0))
        value = x @ every.T
        for y, pairs in zip(more.values(), all_pairs(made, every), strict=True):
            value = value + y.flatten(1) @ pairs.T
        found = made.graph.solve_map(x.requires_grad_(), additional=more)
        assert found.result.ok
        assert bool(found.integral.all())
        assert torch.equal(found.marginals, every[value.argmax(1)]), seed
        assert not found.marginals.requires_grad
        checked += 1
    assert checked > 15


def test_the_relaxation_says_whether_it_is_tight() -> None:
    """Loopy graphs: integral solutions are the best assignments; an odd cycle has none."""
    integral = 0
    for seed in range(12):
        made = RandomGraph(seed, 8, 5)
        every = assignments(made)
        if not len(every):
            continue
        x, more = made.scores(3)
        value = x @ every.T
        for y, pairs in zip(more.values(), all_pairs(made, every), strict=True):
            value = value + y.flatten(1) @ pairs.T
        found = made.graph.solve_map(x, additional=more)
        good = found.integral
        assert torch.equal(found.marginals[good], every[value.argmax(1)][good])
        integral += int(good.sum())
    assert integral > 10
    graph = FactorGraph()
    a = graph.variables(3)
    for i in range(3):
        graph.add(Simplex(2), a[[i, (i + 1) % 3]])
    found = graph.solve_map(torch.tensor([[1.0, 0.5, 0.0]]))
    assert found.result.ok
    assert not bool(found.integral.any())
    assert torch.allclose(found[a], torch.full((1, 3), 0.5), atol=1e-5)


def test_the_limit_holds_and_warm_starts_go_on() -> None:
    graph = FactorGraph()
    u = graph.variables((6, 6))
    graph.add(Simplex(6), u)
    graph.add(Simplex(6), u.mT)
    x = 0.3 * _normal(8, 6, 6)
    whole, cut = graph.solve(x), graph.solve(x, max_iter=7)
    assert whole.result.ok
    assert cut.result.outcomes() == {Outcome.NOT_CONVERGED: 8}
    assert bool((cut.iterations == 7).all())
    assert bool((torch.maximum(cut.primal_residual, cut.dual_residual) > 1e-6).all())
    rest, again = graph.solve(x, init=cut), graph.solve(x + 1e-3 * _normal(8, 6, 6, seed=1), init=whole)
    for warm in (rest, again):
        assert warm.result.ok
        assert float(warm.iterations.double().mean()) < float(whole.iterations.double().mean())
    assert torch.allclose(rest.marginals, whole.marginals, atol=1e-5)
    # Each alone as in the batch.
    alone = graph.solve(x[3:4])
    assert torch.equal(alone.marginals[0], whole.marginals[3])
    assert int(alone.iterations) == int(whole.iterations[3])
