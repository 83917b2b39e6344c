"""SparseMAP by kernels: what was once wrong with lengths, starts, masks, huge scores, memory and batched gradients."""

from __future__ import annotations

import gc
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tsallis.core.errors import ShapeError
from tsallis.core.status import Outcome
from tsallis.kernels.cpu import numba_missing
from tsallis.structured import Bits, Budget, DependencyTree, Factor, Matching, Sequence, sparsemap

from .structured_cases import close, draw, solved_by

pytestmark = pytest.mark.skipif(numba_missing() is not None, reason="numba is not there")
backends = pytest.mark.parametrize("backend", [None, "reference"])


@pytest.mark.parametrize("factor", [Sequence(5, 3), DependencyTree(5), DependencyTree(5, True)], ids=repr)
def test_lengths_are_integers_of_any_kind_and_stay_as_they_were(factor: Factor) -> None:
    x, _ = draw(factor, 4, 0.4)
    lengths = torch.tensor([5, 3, 1, 0])
    leaf = x.clone().requires_grad_()
    found = sparsemap(factor, leaf, lengths=lengths.clone())
    (expected,) = torch.autograd.grad(found.marginals.square().sum(), leaf)
    for given in (lengths.int(), lengths.to(torch.uint8), torch.stack([lengths, lengths + 9], 1)[:, 0]):
        assert torch.equal(sparsemap(factor, x, lengths=given).marginals, found.marginals)
    of_three = lengths[1:2].expand(4)
    close([sparsemap(factor, x, lengths=of_three).marginals],
          [solved_by("reference", factor, x, lengths=of_three).marginals], 1e-4)  # fmt: skip
    # Somebody writes into them before the backward pass.
    again = sparsemap(factor, leaf, lengths=lengths)
    lengths.fill_(5)
    assert torch.equal(torch.autograd.grad(again.marginals.square().sum(), leaf)[0], expected)


@backends
@pytest.mark.parametrize(
    ("one", "other"),
    [(Budget(5, 4), Budget(5, 2)), (Budget(5, 2), Budget(5, 2, exact=True)), (Bits(5), Bits(5, "onoff")),
     (DependencyTree(4, single_root=False), DependencyTree(4)), (DependencyTree(4), DependencyTree(4, True))],
)  # fmt: skip
def test_a_solution_of_another_factor_of_the_same_shape_is_no_start(
    one: Factor, other: Factor, backend: str | None
) -> None:
    x = draw(one, 3, 1.0)[0]
    with pytest.raises(ShapeError, match="init of"):
        solved_by(backend, other, x, init=sparsemap(one, x))


@backends
def test_a_start_whose_parts_do_not_fit_is_refused(backend: str | None) -> None:
    x = draw(Matching(3), 4, 0.5)[0]
    found = sparsemap(Matching(3), x)
    for part in ({"weights": found.weights.repeat(1, 9)}, {"mask": found.mask[:2]}):
        with pytest.raises(ShapeError, match="init with weights"):
            solved_by(backend, Matching(3), x, init=replace(found, **part))


@backends
@pytest.mark.parametrize("projective", [False, True])
@pytest.mark.parametrize("single_root", [False, True])
def test_masks_leave_trees_of_the_factor_or_none(projective: bool, single_root: bool, backend: str | None) -> None:
    """Where arcs allow nothing but trees with two words on the root, too."""
    factor = DependencyTree(4, projective, single_root)
    x = draw(factor, 40, 1.0)[0]
    x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.45, -torch.inf)
    x[0] = -torch.inf
    x[0, [0, 1, 0, 3], range(4)] = 0.5
    every = factor.enumerate()
    out = (every[None] > 0) & (factor.flat(x).unary[:, None] == -torch.inf)
    possible = ~out.any(-1).all(-1)
    assert bool(possible[0]) is not single_root
    found = solved_by(backend, factor, x)
    assert torch.equal(found.result.codes == Outcome.SUCCESS, possible)
    assert torch.equal(found.result.codes == Outcome.INFEASIBLE, ~possible)
    assert bool((found.vertices[found.mask][:, None] == every).all(-1).any(-1).all())


@pytest.mark.parametrize("factor", [Budget(6, 3, exact=True), Budget(6, 2), Matching(4), Matching(3, 5)], ids=repr)
def test_a_search_ends_whatever_overflows(factor: Factor) -> None:
    x = draw(factor, 40, 1.0)[0].sign() * 1.79e308
    for scores in (x, x.masked_fill(draw(factor, 40, 1.0, 1)[0] < 0, -torch.inf)):
        for init in ("map", "random"):
            found = sparsemap(factor, scores, init=init, generator=torch.Generator().manual_seed(0))
            # NaN is never called a success.
            assert not bool(found.marginals[found.result.codes == Outcome.SUCCESS].isnan().any())


@backends
def test_any_number_of_steps_may_be_allowed(backend: str | None) -> None:
    assert solved_by(backend, Bits(3), torch.rand(2, 3), max_iter=10**30).result.ok


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backward", [False, True])
def test_what_a_call_kept_for_gradients_is_freed(dtype: torch.dtype, backward: bool) -> None:
    leaf = draw(Matching(4), 3, 0.5)[0].to(dtype).requires_grad_()
    found = sparsemap(Matching(4), leaf)
    node: Any = found.marginals.grad_fn
    while node is not None and not hasattr(node, "derived"):
        node = node.next_functions[0][0]
    assert node is not None
    kept = weakref.ref(node.derived)
    if backward:
        (found.marginals.sum() + found.weights.square().sum()).backward()
    del node, found
    gc.collect()
    assert kept() is None


def test_results_may_be_written_into() -> None:
    leaf = draw(Sequence(3, 2), 3, 0.5)[0].requires_grad_()
    found = sparsemap(Sequence(3, 2), leaf)
    for part in (found.marginals, found.pairs, found.weights):
        part.mul_(2.0)
    (slope,) = torch.autograd.grad(found.marginals.square().sum(), leaf)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize("factor", [Budget(70, 9, geometry="onoff"), Sequence(4, 3), Matching(3), DependencyTree(3),
                                    Bits(66)], ids=repr)  # fmt: skip
@pytest.mark.parametrize("what", ["marginals", "pairs", "weights"])
def test_many_gradients_at_once(factor: Factor, what: str) -> None:
    x, pairs = draw(factor, 3, 0.5)
    x[2].view(-1)[1] = torch.nan
    options = {"lengths": torch.tensor([4, 2, 3])} if isinstance(factor, Sequence) else {}
    inputs = [t.requires_grad_() for t in (x, pairs) if t is not None]
    out = getattr(sparsemap(factor, *inputs, **options, tol=1e-13), what)
    g = torch.randn(4, *out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    many = torch.autograd.grad(out, inputs, g, is_grads_batched=True, retain_graph=True)
    for i in range(4):
        close([m[i] for m in many], list(torch.autograd.grad(out, inputs, g[i], retain_graph=True)), 1e-10)
    mapped = torch.func.vmap(lambda v: torch.autograd.grad(out, inputs, v, retain_graph=True))(g)
    close(list(mapped), list(many), 0.0)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_errors_of_the_inverse_do_not_last(scale: float) -> None:
    """Of hundreds of bits, whose structures are all but dependent."""
    x = draw(Bits(1000), 10, scale)[0]
    found = sparsemap(Bits(1000), x)
    assert found.result.ok, str(found.result)
    assert torch.allclose(found.marginals, x.clamp(0, 1), atol=1e-4)


def test_derivatives_on_a_face_are_projections_whatever_its_structures() -> None:
    factor, items = Budget(300, 100), [16, 61, 78, 85]
    leaf, g = (draw(factor, 100, 0.3, seed)[0][items].requires_grad_() for seed in (0, 1))
    found = sparsemap(factor, leaf, tol=1e-13)
    (first,) = torch.autograd.grad(found.marginals, leaf, g, retain_graph=True)
    (second,) = torch.autograd.grad(found.marginals, leaf, first)
    assert torch.allclose(first, second, atol=1e-4)
    assert bool((first.norm(dim=1) <= 1.0001 * g.norm(dim=1)).all())


def test_machine_code_of_something_else_is_not_taken(tmp_path: Path) -> None:
    """Two processes that compile at once may choose the same name for what they keep."""
    from numba.core.caching import IndexDataCacheFile

    from tsallis.kernels.cpu.compiler import _keep_with_keys

    store: Any = IndexDataCacheFile(str(tmp_path), "kernel", 0)
    _keep_with_keys(store)
    store.save(("one",), "first")
    store.save(("other",), "second")
    assert (store.load(("one",)), store.load(("other",))) == ("first", "second")
    shutil.copy(tmp_path / "kernel.2.nbc", tmp_path / "kernel.1.nbc")
    assert store.load(("one",)) is None
    store.save(("one",), "first")
    assert store.load(("one",)) == "first"
