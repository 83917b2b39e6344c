"""Structured latents and hierarchies: equal to enumeration; several processes: neither hang nor drift."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.latent import Marginal, ScoreFunction, SparseMAP, TopKSparsemax, expectation
from tsallis.structured import Bits, Budget, sparsemap

from .processes import run_two

F64 = torch.float64
N = 5


def _table(theta: Tensor):
    """A loss of bit vectors that is not linear in them."""
    return lambda index, z: ((z * theta).sum(-1) + 0.2 * index).square().cos() + z[:, 0]


@pytest.mark.parametrize("k", [1, 3, 32])
def test_topk_sparsemax_is_sparsemax_over_all_vectors(k: int) -> None:
    """Grown until certified: value and gradients of sparsemax over the 2^N scores."""
    torch.manual_seed(1)
    scores = (0.4 * torch.randn(6, N, dtype=F64)).requires_grad_()
    theta = torch.randn(N, dtype=F64, requires_grad=True)
    every = Bits(N).enumerate().to(F64)
    p = ts.sparsemax(scores @ every.T)
    index = torch.arange(6).repeat_interleave(len(every))
    dense = (p * _table(theta)(index, every.repeat(6, 1)).reshape(6, -1)).sum(-1)
    e = expectation(scores, _table(theta), TopKSparsemax(k), entropy_weight=0.3)
    assert e.exact.all()
    assert torch.allclose(e.loss, dense)
    assert e.rows == int((p > 0).sum()) > 6
    entropy = -(p * torch.where(p > 0, p, 1.0).log()).sum(-1)
    expected = torch.autograd.grad((dense - 0.3 * entropy).mean(), [scores, theta])
    for got, wanted in zip(torch.autograd.grad(e.objective, [scores, theta]), expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-10)
        assert wanted.abs().max() > 1e-4
    cut = expectation(scores, _table(theta), TopKSparsemax(1, grow=False))
    assert not cut.exact.any()
    assert cut.rows == 6


@pytest.mark.parametrize("factor", [Bits(N, geometry="onoff"), Budget(N, 2, geometry="onoff"), Bits(N)], ids=str)
def test_sparsemap_is_the_sum_over_its_support(factor) -> None:
    """Losses that are linear in the bits have the gradient of the marginals; others that of the weights, as solved."""
    torch.manual_seed(2)
    scores = torch.randn(6, N, dtype=F64, requires_grad=True)
    c = torch.randn(N, dtype=F64)
    e = expectation(scores, lambda index, z: z @ c, SparseMAP(factor))
    found = sparsemap(factor, scores)
    linear = found.marginals @ c
    assert torch.allclose(e.loss, linear)
    assert e.rows == int(e.support_size.sum()) == int((found.weights > 0).sum())
    assert e.exact.all()
    assert not expectation(scores, lambda index, z: z @ c, SparseMAP(factor, max_iter=1)).exact.all()
    (got,), (wanted,) = (torch.autograd.grad(t.sum(), scores, retain_graph=True) for t in (e.loss, linear))
    assert torch.allclose(got, wanted, atol=1e-9)
    assert wanted.abs().max() > 0.1
    bits = found.marginals.clamp(1e-300, 1 - 1e-15)
    assert torch.allclose(e.marginal_entropy, -(bits * bits.log() + (1 - bits) * (1 - bits).log()).sum(-1), atol=1e-9)
    theta = torch.randn(N, dtype=F64, requires_grad=True)
    e = expectation(scores, _table(theta), SparseMAP(factor))
    index = torch.arange(6).repeat_interleave(found.weights.shape[1])
    by_hand = (found.weights * _table(theta)(index, found.vertices.flatten(0, 1)).reshape(6, -1)).sum(-1)
    assert torch.allclose(e.loss, by_hand)
    for got, wanted in zip(
        torch.autograd.grad(e.loss.sum(), [scores, theta]),
        torch.autograd.grad(by_hand.sum(), [scores, theta]),
        strict=True,
    ):
        assert torch.allclose(got, wanted, atol=1e-10)


def test_random_starts_change_the_distribution_and_not_the_marginals() -> None:
    scores = 0.2 * torch.randn(1, 8, dtype=F64)
    factor = Bits(8, geometry="onoff")
    method = SparseMAP(factor, init="random")
    made = [torch.Generator().manual_seed(seed) for seed in range(5)]
    found = [expectation(scores, lambda i, z: z.sum(-1), method, generator=g) for g in made]
    entropies = torch.cat([e.entropy for e in found])
    assert entropies.max() - entropies.min() > 0.01
    for e in found:
        assert torch.allclose(e.loss, found[0].loss)
        assert torch.allclose(e.marginal_entropy, found[0].marginal_entropy)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("geometry", ["on", "onoff"])
def test_bits_do_not_jump(geometry: Literal["on", "onoff"], backend: str | None) -> None:
    """Rounding does not choose the structures: losses that are not linear in them are functions of the scores."""
    torch.manual_seed(4)
    scores, theta = torch.randn(200, 8, dtype=F64), torch.randn(8, dtype=F64)
    near = scores + 1e-9 * (2 * torch.rand_like(scores) - 1)
    method = SparseMAP(Bits(8, geometry=geometry))
    with ts.use_backend(backend):
        found, other = (expectation(s, lambda i, z: (z @ theta).cos(), method) for s in (scores, near))
        few = scores[:4].requires_grad_()
        assert torch.autograd.gradcheck(lambda s: expectation(s, lambda i, z: (z @ theta).cos(), method).loss, few)
    assert (found.loss - other.loss).abs().max() < 1e-7
    assert (found.entropy - other.entropy).abs().max() < 1e-4


class Levels:
    """z1 of four values, z2 of five that hangs on it, and a loss of both."""

    def __init__(self, batch: int = 3) -> None:
        torch.manual_seed(3)
        draw = lambda *shape: torch.randn(*shape, dtype=F64, requires_grad=True)  # noqa: E731
        self.first, self.second, self.table = draw(batch, 4), draw(4, 5), draw(batch, 4, 5)
        self.rows: list[int] = []

    @property
    def leaves(self) -> list[Tensor]:
        return [self.first, self.second, self.table]

    def run(self, outer, inner, weight: float = 0.0):
        """A second expectation inside the first."""

        def of_first(index: Tensor, z: Tensor) -> Tensor:
            def of_second(row: Tensor, y: Tensor) -> Tensor:
                self.rows.append(len(row))
                return self.table[index[row], z[row], y].square()

            return expectation(self.second[z], of_second, inner, entropy_weight=weight).surrogate

        return expectation(self.first, of_first, outer, entropy_weight=weight)

    def joint(self, mapping) -> tuple[Tensor, Tensor]:
        """The loss and the joint distribution, by enumeration."""
        p = mapping(self.first)[:, :, None] * mapping(self.second)
        return (p * self.table.square()).sum((1, 2)), p


@pytest.mark.parametrize("name", ["softmax", "sparsemax", "entmax15"])
def test_a_hierarchy_expands_the_surviving_branches(name: str) -> None:
    levels = Levels()
    e = levels.run(name, name)
    loss, p = levels.joint(getattr(ts, name))
    assert torch.allclose(e.loss, loss)
    assert levels.rows == [int((p > 0).sum())]
    assert name == "softmax" or levels.rows[0] < p.numel()
    for got, wanted in zip(
        torch.autograd.grad(e.objective, levels.leaves), torch.autograd.grad(loss.mean(), levels.leaves), strict=True
    ):
        assert torch.allclose(got, wanted, atol=1e-12)


def test_the_entropies_of_a_hierarchy_add_up() -> None:
    levels = Levels()
    e = levels.run("softmax", "softmax", weight=0.7)
    loss, p = levels.joint(ts.softmax)
    assert torch.allclose(e.surrogate, loss + 0.7 * (p * p.log()).sum((1, 2)))


def test_a_frontier_keeps_the_most_probable_branches() -> None:
    torch.manual_seed(4)
    scores = torch.randn(10, 20, dtype=F64, requires_grad=True)
    c = torch.randn(20, dtype=F64)
    full = ts.softmax(scores)
    seen: list[Tensor] = []
    e = expectation(scores, lambda i, z: seen.append(i) or c[z], Marginal("softmax", frontier=35))
    assert e.rows == 35
    assert e.support_size.min() >= 1
    kept = e.probs > 0
    assert torch.allclose(e.probs.sum(-1), torch.ones(10, dtype=F64))
    # What is kept is more probable than what is not, but for each example's best.
    best = torch.zeros_like(kept).scatter_(-1, full.argmax(-1, keepdim=True), True)
    assert full[kept & ~best].min() >= full[~kept].max()
    truncated = torch.where(kept, full, 0.0)
    loss = (truncated / truncated.sum(-1, keepdim=True) * c).sum(-1)
    assert torch.allclose(e.loss, loss)
    (got,), (wanted,) = (torch.autograd.grad(t.sum(), scores, retain_graph=True) for t in (e.loss, loss))
    assert torch.allclose(got, wanted)
    assert not e.exact.any()
    whole = expectation(scores, lambda i, z: c[z], Marginal("softmax", frontier=200))
    assert whole.exact.all()
    assert whole.rows == 200
    few = expectation(scores, lambda i, z: c[z], Marginal("softmax", frontier=2))
    assert few.support_size.tolist() == [1] * 10
    weights = torch.zeros(10)
    weights[7] = 1
    one = expectation(scores, lambda i, z: c[z], Marginal("softmax", frontier=29, importance=weights))
    assert one.support_size.tolist() == [1] * 7 + [20, 1, 1]


@pytest.mark.parametrize("max_rows", [None, 3])
def test_a_hierarchy_with_frontiers_is_the_sum_over_what_they_keep(max_rows: int | None) -> None:
    """By enumeration; with max_rows each call of the loss has a frontier of its own."""
    levels = Levels()
    p, q = ts.softmax(levels.first), ts.softmax(levels.second)
    outer, budget, seen = 8, 20 if max_rows is None else 8, []

    def of_first(index: Tensor, z: Tensor) -> Tensor:
        inner = Marginal("softmax", frontier=budget, importance=p.detach()[index, z])
        e = expectation(levels.second[z], lambda row, y: levels.table[index[row], z[row], y].square(), inner)
        seen.append(e.rows)
        return e.surrogate

    e = expectation(levels.first, of_first, Marginal("softmax", frontier=outer), max_rows=max_rows)
    kept = _kept(p, outer)
    pairs = kept.nonzero()
    loss = torch.zeros(3, dtype=F64)
    first = _scaled(p, kept)
    for part in pairs.split(max_rows or len(pairs)):
        branch = p[part[:, 0], part[:, 1]]
        second = _scaled(q[part[:, 1]], _kept(q[part[:, 1]], budget, branch))
        inner = (second * levels.table[part[:, 0], part[:, 1]].square()).sum(-1)
        loss = loss.index_add(0, part[:, 0], first[part[:, 0], part[:, 1]] * inner)
    assert e.rows == len(pairs) == outer
    assert seen == ([budget] if max_rows is None else [budget] * 3)
    assert torch.allclose(e.loss, loss)
    for got, wanted in zip(
        torch.autograd.grad(e.objective, levels.leaves), torch.autograd.grad(loss.mean(), levels.leaves), strict=True
    ):
        assert torch.allclose(got, wanted, atol=1e-12)
        assert wanted.abs().max() > 1e-3


def _kept(p: Tensor, count: int, importance: Tensor | None = None) -> Tensor:
    """The best of each row, then the largest of all."""
    best = torch.zeros_like(p, dtype=torch.bool).scatter_(-1, p.argmax(-1, keepdim=True), True)
    rank = p if importance is None else p * importance[:, None]
    rest = torch.where(best, -1.0, rank).flatten().argsort(descending=True)[: count - len(p)]
    return best | torch.zeros(p.numel(), dtype=torch.bool).index_fill(0, rest, True).reshape(p.shape)


def _scaled(p: Tensor, kept: Tensor) -> Tensor:
    p = torch.where(kept, p, 0.0)
    return p / p.sum(-1, keepdim=True)


def test_score_functions_within_each_other_are_unbiased() -> None:
    """Both levels sampled; by the entropy's gradient too."""
    levels = Levels(batch=1)
    n = 30_000
    p1, p2 = ts.softmax(levels.first), ts.softmax(levels.second)
    p = p1[:, :, None] * p2
    exact = torch.autograd.grad(
        (p * levels.table.square()).sum() + 0.2 * (p * p.log()).sum(), [levels.first, levels.second]
    )
    first = levels.first.detach().repeat(n, 1).requires_grad_()
    second = levels.second.detach().expand(n, 4, 5).clone().requires_grad_()

    def of_first(index: Tensor, z: Tensor) -> Tensor:
        of_second = lambda row, y: levels.table[0, z[row], y].square()  # noqa: E731
        return expectation(second[index, z], of_second, ScoreFunction("sample"), entropy_weight=0.2).surrogate

    e = expectation(first, of_first, ScoreFunction("sample"), entropy_weight=0.2)
    for draws, wanted in zip(torch.autograd.grad(e.surrogate.sum(), [first, second]), exact, strict=True):
        draws = draws.reshape(n, -1)
        error = (draws.mean(0) - wanted.flatten()).abs() / (draws.std(0) / n**0.5).clamp_min(1e-12)
        assert error.max() < 4.5
        assert (draws.std(0) / n**0.5).max() < 0.1 * wanted.abs().max()


PROGRAM = """
import gc, sys, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tsallis.latent import *
from tsallis.structured import Bits

rank, address = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)

class Model(nn.Module):
    def __init__(self, estimator, bits):
        super().__init__()
        self.encoder, self.embed, self.decoder = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(4, 1)
        self.estimator, self.bits = estimator, bits

    def forward(self, x, mask):
        scores = self.encoder(x)
        if not self.bits:
            scores = scores.masked_fill(mask, -torch.inf)
        def loss(index, z):
            z = z if z.is_floating_point() else nn.functional.one_hot(z, 6).float()
            return (self.decoder(self.embed(z).tanh())[:, 0] - x[index, 0]).square()
        method = self.estimator if isinstance(self.estimator, str) else self.estimator.given(x)
        return expectation(scores, loss, method, entropy_weight=0.1)

makers = {
    "sparsemax": (lambda: "sparsemax", False), "softmax": (lambda: "softmax", False),
    "frontier": (lambda: Marginal(frontier=5), False), "sfe": (lambda: ScoreFunction("running"), False),
    "sfe+": (lambda: ScoreFunction("sample"), False), "nvil": (lambda: NVIL(nn.Linear(3, 1)), False),
    "gumbel": (lambda: GumbelSoftmax(rate=0.1, every=1), False), "sum": (lambda: SumAndSample(1, "running"), False),
    "mixer": (lambda: SparseMixer(), False), "bits sfe": (lambda: ScoreFunction("running", latent="bits"), True),
    "sparsemap": (lambda: SparseMAP(Bits(6)), True), "top-k": (lambda: TopKSparsemax(3), True),
}
for name, (make, bits) in makers.items():
    torch.manual_seed(0)
    model = DistributedDataParallel(Model(make(), bits))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(10 + rank)
    sizes = []
    for step in range(4):
        x = torch.randn(3 + 4 * rank, 3) * (1 + 5 * rank)
        mask = torch.zeros(len(x), 6, dtype=torch.bool)
        if step == 2 and rank == 1:
            mask[:] = True  # this process has no row at all
        e = model(x, mask)
        sizes.append(e.rows)
        optimizer.zero_grad()
        e.objective.backward()
        optimizer.step()
        if not bits and step == 2 and rank == 1:
            assert e.rows == 1, (name, e.rows)
    mine = torch.cat([t.detach().double().flatten() for t in model.module.state_dict().values()])
    both = [torch.zeros_like(mine) for _ in range(2)]
    distributed.all_gather(both, mine)
    assert torch.equal(both[0], both[1]), name
    assert mine.isfinite().all(), name
    seen = [None, None]
    distributed.all_gather_object(seen, sizes)
    assert seen[0] != seen[1], name

# Parts of a loss differ in number; an estimator in it learns once. A loss that is infinite where nobody asked.
inner = ScoreFunction("running")
scores = torch.zeros(3 + 4 * rank, 4, requires_grad=True)
of_second = lambda row, y: y + float(rank)
of_first = lambda index, z: expectation(torch.zeros(len(z), 3), of_second, inner).surrogate
e = expectation(scores, of_first, "softmax", max_rows=5)
e.objective.backward()
assert inner.running.batches == 1
assert e.calls == 3 + 3 * rank, e.calls
both = [torch.zeros(()) for _ in range(2)]
distributed.all_gather(both, inner.running.mean)
assert both[0] == both[1] > 0
scores = torch.full((2, 4), -torch.inf if rank else 0.0)
e = expectation(scores, lambda index, z: torch.full((len(z),), torch.inf if rank else 1.0))
assert e.objective == 1 - rank
# A model that outlives its group may end the process by an abort, at the very end.
del model, optimizer, e
gc.collect()
distributed.destroy_process_group()
"""


def test_two_processes_with_uneven_supports(tmp_path: Path) -> None:
    run_two(PROGRAM, tmp_path)
