"""Structured attention against a quadratic program over all alignments, with padding, and as modules."""

from __future__ import annotations

import copy
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.autograd import gradcheck

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.core.status import Outcome
from tsallis.nn import MatchingAttention, SequenceAttention


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def marginals(values: np.ndarray, structures: np.ndarray) -> np.ndarray:
    """argmax of <values, p> - |sum p M|^2 / 2 over distributions on structures (K, ...), by SLSQP."""
    flat = structures.reshape(len(structures), -1)

    def objective(p: np.ndarray) -> tuple[float, np.ndarray]:
        mu = p @ flat
        return mu @ mu / 2 - p @ values, flat @ mu - values

    size = len(flat)
    found = minimize(
        objective, np.full(size, 1 / size), jac=True, method="SLSQP", bounds=[(0, 1)] * size,
        options={"ftol": 1e-14, "maxiter": 500}, constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
    )  # fmt: skip
    return (found.x @ flat).reshape(structures.shape[1:])


def matchings(L: int, S: int) -> np.ndarray:
    if L > S:
        return matchings(S, L).transpose(0, 2, 1)
    return np.array([np.eye(S)[list(columns)] for columns in permutations(range(S), L)])


def paths(L: int, S: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    found = list(product(range(S), repeat=L))
    return found, np.array([np.eye(S)[list(path)] for path in found])


@pytest.mark.parametrize(("L", "S"), [(1, 1), (1, 3), (3, 3), (2, 4), (4, 2), (3, 1)])
def test_matchings_are_enumerated(L: int, S: int) -> None:
    scores = 0.7 * random(3, L, S)
    found = MatchingAttention().align(scores)
    structures = matchings(L, S)
    for i in range(3):
        values = (structures * scores[i].numpy()).sum((1, 2))
        assert np.abs(found.weights[i].numpy() - marginals(values, structures)).max() < 1e-5
    check(found)


@pytest.mark.parametrize(("L", "S"), [(1, 3), (3, 1), (3, 3), (4, 2)])
def test_paths_are_enumerated(L: int, S: int) -> None:
    layer = SequenceAttention(reach=1).double()
    with torch.no_grad():
        layer.transitions.copy_(torch.tensor([-0.3, 0.2, 0.5, 0.9, 0.1]))
    scores = random(3, L, S, seed=1)
    found = layer.align(scores)
    indices, structures = paths(L, S)
    score = {-2: -0.3, -1: 0.2, 0: 0.5, 1: 0.9, 2: 0.1}
    steps = np.array([sum(score[b - a] for a, b in pairwise(path)) for path in indices])
    for i in range(3):
        values = (structures * scores[i].numpy()).sum((1, 2)) + steps
        assert np.abs(found.weights[i].detach().numpy() - marginals(values, structures)).max() < 1e-5
    check(found)


def check(found: ts.nn.Alignment) -> None:
    """The support makes the weights, and the gap is closed."""
    made = torch.einsum("...k,...kls->...ls", found.probabilities, found.vertices)
    assert torch.allclose(made, found.weights, atol=1e-7)
    assert found.result.ok
    assert (found.gap <= 1e-8).all()
    assert (found.iterations >= 1).all()


def test_a_longer_contiguity_keeps_to_neighbours() -> None:
    scores = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.4, 0.6], [0.0, 0.0, 2.0]])
    free, held = (SequenceAttention(contiguity=c).align(scores).weights[1] for c in (0.0, 2.0))
    assert torch.allclose(free, torch.tensor([0.0, 0.4, 0.6]))
    assert not torch.allclose(held, free, atol=0.05)


LAYERS = [MatchingAttention, SequenceAttention]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("junk", [7.0, float("nan"), float("inf")])
def test_padding_does_not_leak(kind: type[ts.nn.StructuredAttention], junk: float) -> None:
    """Items of all sizes in one batch, masked in the middle too, are what they are alone, in value and gradients."""
    layer = kind().double()
    q, k, v = random(5, 4, 3), random(5, 4, 3, seed=1), random(5, 4, 2, seed=2)
    queries = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]]).bool()
    keys = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    dirty = [x.masked_fill(~m[..., None], junk).requires_grad_() for x, m in ((q, queries), (k, keys), (v, keys))]
    out, found = layer(*dirty, queries, keys)
    slopes = torch.autograd.grad((out * torch.arange(2)).sum() + found.weights.square().sum(), dirty)
    seen = 0.0
    for i in range(5):
        clean = [x[i, m[i]].clone().requires_grad_() for x, m in ((q, queries), (k, keys), (v, keys))]
        if not queries[i].any() or not keys[i].any():
            assert found.result.codes[i] == Outcome.FULLY_MASKED
            assert (out[i] == 0).all()
            assert (found.weights[i] == 0).all()
            assert all((s[i] == 0).all() for s in slopes)
            continue
        alone, other = layer(*clean)
        assert torch.allclose(out[i, queries[i]], alone, atol=1e-9)
        assert (out[i, ~queries[i]] == 0).all()
        assert torch.allclose(found.weights[i][queries[i]][:, keys[i]], other.weights, atol=1e-9)
        assert found.result.codes[i] == Outcome.SUCCESS
        expected = torch.autograd.grad((alone * torch.arange(2)).sum() + other.weights.square().sum(), clean)
        for slope, wanted, mask in zip(slopes, expected, (queries, keys, keys), strict=True):
            assert torch.allclose(slope[i, mask[i]], wanted, atol=1e-8)
            assert (slope[i, ~mask[i]] == 0).all()
        seen = max(seen, float(expected[0].abs().max()))
    assert seen > 0.01


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_by_finite_differences(kind: type[ts.nn.StructuredAttention]) -> None:
    layer = kind().double()
    q, k, v = ((0.6 * random(2, 3, d, seed=s)).requires_grad_() for s, d in ((4, 2), (5, 2), (6, 1)))
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    mask = torch.tensor([[True, True, True], [True, True, False]])

    def function(q: Tensor, k: Tensor, v: Tensor, *given: Tensor) -> Tensor:
        parameters = dict(zip(names, given, strict=True))
        return torch.func.functional_call(layer, parameters, (q, k, v, mask, mask))[0]

    out = function(q, k, v, *values)
    # Columns of matchings of all keys sum to one: queries have to count differently.
    slopes = torch.autograd.grad((out * torch.arange(3)[:, None]).sum(), (q, k, v, *values))
    assert all(s.abs().max() > 1e-2 for s in slopes)
    assert gradcheck(function, (q, k, v, *values))


@pytest.mark.parametrize("kind", LAYERS)
def test_shapes_dtypes_and_scores(kind: type[ts.nn.StructuredAttention]) -> None:
    layer = kind()
    q, k, v = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5), torch.randn(2, 3, 6, 7)
    out, found = layer(q, k, v)
    assert out.shape == (2, 3, 4, 7)
    assert found.weights.shape == (2, 3, 4, 6)
    assert found.gap.shape == found.iterations.shape == found.result.codes.shape == (2, 3)
    assert found.vertices.shape == (*found.probabilities.shape, 4, 6)
    assert torch.allclose(found.weights.sum(-1), torch.ones(2, 3, 4), atol=1e-6)
    assert torch.allclose(out, layer.align(q @ k.mT / 5**0.5).weights @ v, atol=1e-6)
    assert torch.allclose(layer(q[0, 0], k[0, 0], v[0, 0])[0], out[0, 0], atol=1e-6)
    key_mask = torch.arange(6) < 5
    assert torch.equal(layer(q, k, v, key_mask=key_mask)[1].weights[..., 5], torch.zeros(2, 3, 4))
    half = layer.to(torch.bfloat16)(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert half[0].dtype == torch.bfloat16
    assert half[1].weights.dtype == torch.float32
    layer.float()
    assert (kind(scale=0.0)(q, k, v)[1].weights - found.weights).abs().max() > 0.05
    # A pair is ruled out by -inf where others are possible; where none is, the item is NaN and others are not.
    scores = torch.zeros(2, 2, 2)
    scores[0, 0, 0] = scores[1] = -torch.inf
    ruled = layer.align(scores)
    assert ruled.weights[0, 0].tolist() == [0.0, 1.0]
    assert ruled.weights[1].isnan().all()
    assert ruled.result.codes.tolist() == [Outcome.SUCCESS, Outcome.INFEASIBLE]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_precision_are_made_in_float32(
    kind: type[ts.nn.StructuredAttention], dtype: torch.dtype
) -> None:
    """Sums of products beyond the range of float16, and differences below its rounding, stay what they are."""
    q, k, v = (scale * random(2, 3, 64, seed=s) for s, scale in enumerate((99.0, 99.0, 1.0)))
    # Keys in pairs that differ little, against sums that are large.
    k[:, 1] = k[:, 0] + 1e-2 * random(2, 64, seed=3)
    q, k, v = (x.to(dtype).requires_grad_() for x in (q, k, v))
    assert (q @ k.mT).isinf().any() or dtype == torch.bfloat16
    layer = kind(scale=1 / 64**2)
    out, found = layer(q, k, v)
    exact, expected = kind(scale=1 / 64**2).double()(*(x.double() for x in (q, k, v)))
    assert torch.allclose(found.weights.double(), expected.weights, atol=1e-5)
    assert out.dtype == dtype
    assert torch.allclose(out.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(layer(*(x.float() for x in (q, k, v)))[1].weights, found.weights)
    out.float().square().sum().backward()
    assert all(x.grad is not None and x.grad.dtype == dtype and x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_nothing_to_align(kind: type[ts.nn.StructuredAttention], shape: tuple[int, int, int]) -> None:
    batch, L, S = shape
    q, k, v = (torch.zeros(batch, n, 4, requires_grad=True) for n in (L, S, S))
    out, found = kind()(q, k, v)
    assert out.shape == (batch, L, 4)
    assert (out == 0).all()
    assert found.weights.shape == shape
    assert found.result.codes.tolist() == [Outcome.FULLY_MASKED] * batch
    out.sum().backward()


@pytest.mark.parametrize("kind", LAYERS)
def test_modules_are_modules(kind: type[ts.nn.StructuredAttention]) -> None:
    layer = kind(max_iter=1)
    assert "max_iter=1" in repr(layer)
    q, k, v = torch.randn(4, 5, 3), torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    early = layer(q, k, v)[1]
    assert (early.result.codes == Outcome.GAP_LEFT).any()
    assert early.gap.max() > 1e-3
    layer = kind()
    expected = layer(q, k, v)[0]
    assert torch.equal(copy.deepcopy(layer)(q, k, v)[0], expected)
    fresh = kind()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(q, k, v)[0], expected)
    assert set(layer.state_dict()) == ({"transitions"} if kind is SequenceAttention else set())


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: SequenceAttention(reach=0), ParameterError),
        (lambda: MatchingAttention().align(torch.zeros(3)), ShapeError),
        (lambda: MatchingAttention().align(torch.zeros(2, 3), torch.ones(3, dtype=torch.bool)), ShapeError),
        (lambda: MatchingAttention().align(torch.zeros(2, 3), key_mask=torch.ones(3)), ShapeError),
        (lambda: MatchingAttention()(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3)), ShapeError),
        (lambda: MatchingAttention()(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 3)), ShapeError),
        (lambda: MatchingAttention()([[1.0]], torch.zeros(2, 3), torch.zeros(3, 3)), ShapeError),
        (lambda: MatchingAttention(max_iter=0).align(torch.zeros(2, 3)), ParameterError),
    ],
)
def test_what_is_refused(call, error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected"):
        call()
