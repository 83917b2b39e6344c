"""Distributions on the simplex that give probability to every face."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import kl_divergence

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.latent.distributions.mixed_dirichlet import faces

from .sampled import agree, face_counts, mean_is, slopes

D = torch.float64
LOC = torch.tensor([0.7, 0.1, 0.4], dtype=D)
SCALE = torch.tensor([0.5, 0.9, 0.3], dtype=D)
ALPHA = torch.tensor([0.7, 1.5, 3.0], dtype=D)
SCORES = torch.tensor([0.5, -0.4, 0.2], dtype=D)


def gauss_legendre(count: int, low: float = 0.0, high: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    x, w = np.polynomial.legendre.leggauss(count)
    return torch.tensor((high - low) * (x + 1) / 2 + low), torch.tensor(w * (high - low) / 2)


def edge(i: int, j: int, t: torch.Tensor) -> torch.Tensor:
    """Points of the edge between two of three vertices, t of them at i."""
    y = torch.zeros(*t.shape, 3, dtype=D)
    y[..., i], y[..., j] = t, 1 - t
    return y


def face_masses(d) -> torch.Tensor:
    """Of the seven faces of a distribution on three vertices, by integrating its density."""
    t, w = gauss_legendre(60)
    masses = []
    for face in faces(3).tolist():
        on = [i for i in range(3) if face[i]]
        if len(on) == 1:
            masses.append(d.log_prob(torch.eye(3, dtype=D)[on[0]]).exp())
        elif len(on) == 2:
            masses.append((w * d.log_prob(edge(*on, t)).exp()).sum())
        else:
            first, rest = t[:, None].expand(60, 60), t[None].expand(60, 60)
            y = torch.stack([first, (1 - first) * rest, (1 - first) * (1 - rest)], -1)
            masses.append((w[:, None] * w * (1 - first) * d.log_prob(y).exp()).sum())
    return torch.stack(masses)


# --- Gaussian-sparsemax -----------------------------------------------------------------------------------------------


def test_two_coordinates_have_the_known_probabilities():
    d = ts.latent.GaussianSparsemax(torch.tensor([0.3, 0.0], dtype=D), 0.7)
    ends = d.log_prob(torch.eye(2, dtype=D)).exp()
    assert ends.tolist() == pytest.approx([0.23975006109347674, 0.09455806701054431], rel=1e-13)
    assert d.mean.sum() == 1


def test_the_closed_form_is_the_integral_for_two():
    loc, scale = torch.randn(30, 2, dtype=D), torch.rand(30, 2, dtype=D) + 0.1
    d = ts.latent.GaussianSparsemax(loc, scale)
    y = torch.cat([d.sample((5,)), torch.eye(2, dtype=D)[:, None].expand(2, 30, 2)])
    assert torch.allclose(d.log_prob(y), d.log_density_of_face(y), rtol=1e-12)


def reference(y, loc, scale):
    """log density by adaptive quadrature over the threshold."""
    on = y > 0

    def h(t):
        z = (np.asarray(t)[..., None] - loc + on * y) / scale
        return np.where(on, -0.5 * z**2 - np.log(scale * math.sqrt(2 * math.pi)), special.log_ndtr(z)).sum(-1)

    widths = [*scale, (1 / scale[on] ** 2).sum() ** -0.5]
    t = np.unique(np.concatenate([np.linspace(-10, 10, 400) * w + c for w in widths for c in loc - y]))
    values = h(t)
    t = t[values > values.max() - 45]
    cuts = np.quantile(t, np.linspace(0, 1, 25))
    top = values.max()
    parts = [integrate.quad(lambda x: math.exp(h(x) - top), a, b, epsrel=1e-12)[0] for a, b in itertools.pairwise(cuts)]
    return math.log(sum(parts)) + top + math.log(on.sum())


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e5])
def test_log_prob_is_that_of_adaptive_quadrature(ratio):
    random = np.random.default_rng(3)
    for _ in range(4):
        size = int(random.integers(3, 6))
        loc, scale = random.normal(size=size), ratio ** random.uniform(-0.5, 0.5, size=size)
        y = np.maximum(random.normal(size=size), 0)
        here = random.integers(size)
        y[here], y[here - 1] = y[here] + 0.3, 0.0
        y /= y.sum()
        assert (y == 0).any()
        d = ts.latent.GaussianSparsemax(torch.tensor(loc), torch.tensor(scale))
        assert d.log_prob(torch.tensor(y)).item() == pytest.approx(reference(y, loc, scale), rel=1e-10, abs=1e-11)


def test_log_prob_where_many_coordinates_are_dropped():
    # They move the maximum of the integrand far beyond what the face alone would have it at.
    d = ts.latent.GaussianSparsemax(torch.zeros(2000, dtype=D), 1.0)
    vertex = torch.eye(2000, dtype=D)[0]
    expected = integrate.quad(lambda t: stats.norm.pdf(t + 1) * stats.norm.cdf(t) ** 1999, 0, 12, epsabs=0)[0]
    assert d.log_prob(vertex).exp().item() == pytest.approx(expected, rel=1e-9, abs=0)


def test_densities_of_all_faces_sum_to_one_and_are_those_of_samples():
    d = ts.latent.GaussianSparsemax(LOC, SCALE)
    masses = face_masses(d)
    assert masses.sum().item() == pytest.approx(1, abs=1e-7)
    assert (masses > 0.004).all()
    y = d.sample((40000,))
    assert agree(face_counts(y), masses / masses.sum())
    # Where on an edge, and where in the interior.
    cuts = torch.linspace(0, 1, 9, dtype=D)
    cells = []
    for a, b in itertools.pairwise(cuts.tolist()):
        t, w = gauss_legendre(20, a, b)
        cells.append((w * d.log_prob(edge(0, 2, t)).exp()).sum())
    on_edge = y[(y[:, 1] == 0) & (y > 0)[:, 0] & (y > 0)[:, 2], 0]
    assert agree(np.histogram(on_edge, cuts)[0], torch.stack(cells) / sum(cells))


def test_vertices_of_many_coordinates():
    loc = torch.tensor([1.0, 0.5, 0.2, 0.0, -0.3, 0.4], dtype=D)
    d = ts.latent.GaussianSparsemax(loc, 0.8)
    y = d.sample((20000,))
    assert mean_is((y == 1).double(), d.log_prob(torch.eye(6, dtype=D)).exp())


def test_entropy_and_kl_of_two():
    d = ts.latent.GaussianSparsemax(torch.tensor([0.4, -0.1], dtype=D), torch.tensor([0.5, 0.8], dtype=D))
    e = ts.latent.KDHardConcrete(torch.tensor([0.3, 0.2], dtype=D), 0.7)
    for p, q in [(d, e), (e, d)]:
        y = p.sample((20000,))
        assert mean_is(-p.log_prob(y), p.entropy())
        assert mean_is(p.log_prob(y) - q.log_prob(y), kl_divergence(p, q))
        assert mean_is(y, p.mean)
        assert kl_divergence(p, q) > 0.01
        assert kl_divergence(p, p) == 0


def test_log_prob_has_derivatives():
    y = torch.tensor([[0.3, 0.7, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.4]], dtype=D)
    x = torch.randn(3, 4, dtype=D, requires_grad=True), (0.3 + torch.rand(3, 4, dtype=D)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: ts.latent.GaussianSparsemax(*x).log_prob(y), x)

    def along(t, *x):  # on the face of the first row
        moved = y + t * torch.tensor([[1.0, -1, 0, 0], [0, 0, 0, 0], [0, 1, 0, -1]], dtype=D)
        return ts.latent.GaussianSparsemax(*x).log_prob(moved)

    assert torch.autograd.gradcheck(along, (torch.zeros((), dtype=D, requires_grad=True), *x))
    x = tuple(t[0].detach().requires_grad_() for t in x)
    assert torch.autograd.gradgradcheck(lambda *x: ts.latent.GaussianSparsemax(*x).log_prob(y[0]), x)


def test_samples_have_the_derivatives_of_the_expectation():
    def mean(loc, scale):
        torch.manual_seed(5)
        y = ts.latent.GaussianSparsemax(loc, scale).rsample((3000,))
        return (y.square() @ torch.tensor([1.0, -2, 0.5], dtype=D)).mean()

    x = [LOC.clone().requires_grad_(), SCALE.clone().requires_grad_()]
    exact = torch.autograd.grad(mean(*x), x)
    for found, expected in zip(exact, slopes(mean, LOC, SCALE), strict=True):
        assert expected.abs().max() > 0.01
        assert torch.allclose(found, expected, atol=1e-4)

    def logits(scores, temperature):
        torch.manual_seed(5)
        y = ts.latent.KDHardConcrete(scores, temperature).rsample((3000,))
        return (y.square() @ torch.tensor([1.0, -2, 0.5], dtype=D)).mean()

    x = [LOC.clone().requires_grad_(), torch.tensor(0.7, dtype=D, requires_grad=True)]
    exact = torch.autograd.grad(logits(*x), x)
    for found, expected in zip(exact, slopes(logits, LOC, x[1].detach()), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_corners_have_no_nan(dtype):
    y = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0.2, 0.3, 0.5]], dtype=dtype)[:, None]
    loc = torch.tensor([[0.0, 0, 0], [1e3, -1e3, 0], [0.3, 0.2, 0.5], [-1e6, 0, 1e6]], dtype=dtype, requires_grad=True)
    for scale in (1e-6, 1e-2, 1.0, 1e8, [1e-5, 1.0, 1e4]):
        s = torch.tensor(scale, dtype=dtype).expand(3).clone().requires_grad_()
        d = ts.latent.GaussianSparsemax(loc, s)
        log_p = d.log_prob(y)
        assert log_p.isfinite().all()
        assert d.log_prob(d.rsample((10,))).isfinite().all()
        for slope in torch.autograd.grad((log_p / log_p.detach().abs().clamp_min(1)).sum(), (loc, s)):
            assert slope.isfinite().all()


def test_what_has_no_formula_is_refused():
    for d in (ts.latent.GaussianSparsemax(LOC, SCALE), ts.latent.KDHardConcrete(LOC, 0.5)):
        for what in (d.entropy, lambda d=d: kl_divergence(d, d), lambda d=d: d.mean):
            with pytest.raises(ts.latent.FormulaError, match="K = 2"):
                what()
        with pytest.raises(ParameterError, match="sum 1"):
            d.log_prob(torch.tensor([0.5, 0.6, 0.1]))
        with pytest.raises(ParameterError, match="sum 1"):
            d.log_prob(torch.tensor([0.5, math.nan, 0.5]))
    with pytest.raises(NotImplementedError, match="with zeros"):
        ts.latent.KDHardConcrete(LOC, 0.5).log_prob(torch.tensor([1.0, 0, 0], dtype=D))
    with pytest.raises(ShapeError):
        ts.latent.GaussianSparsemax(torch.tensor(1.0), 1.0)
    with pytest.raises(ShapeError):
        ts.latent.GaussianSparsemax(torch.zeros(3), torch.ones(2))
    for stretch in (1.0, 0.5, math.nan, None):
        with pytest.raises(ParameterError, match="stretch"):
            ts.latent.KDHardConcrete(LOC, 0.5, stretch)


def test_numbers_have_the_precision_of_the_tensors():
    d = ts.latent.KDHardConcrete(LOC, 0.7)
    assert d.temperature.dtype == D
    assert d.temperature.item() == 0.7
    assert ts.latent.GaussianSparsemax(LOC, 0.7).scale[0].item() == 0.7
    assert ts.latent.GaussianSparsemax(torch.tensor([1, 0]), 0.5).scale.tolist() == [0.5, 0.5]
    assert ts.latent.GaussianSparsemaxBit(torch.tensor(1), 0.5).scale.item() == 0.5
    assert ts.latent.GaussianSparsemaxBit(torch.tensor(1, dtype=D), np.float32(0.5)).scale.dtype == D


def test_values_and_distributions_of_another_size_are_refused():
    d = ts.latent.GaussianSparsemax(LOC, SCALE)
    for wrong in (torch.tensor([0.5, 0.5]), torch.tensor([1.0]), torch.tensor(1.0)):
        with pytest.raises(ShapeError, match="value of shape"):
            d.log_prob(wrong)
    with pytest.raises(ShapeError, match="value of shape"):
        d.expand((4,)).log_prob(torch.eye(3))
    with pytest.raises(ShapeError, match="same shape"):
        kl_divergence(d, ts.latent.KDHardConcrete(LOC[:2], 0.5))
    with pytest.raises(ShapeError, match="Batches"):
        kl_divergence(d.expand((2,)), d.expand((3,)))
    assert d.log_prob(torch.tensor([1, 0, 0])) == d.log_prob(torch.eye(3, dtype=D)[0])
    free = ts.latent.MixedDirichlet(ALPHA, SCORES, validate_args=False), d.expand(())
    free[1]._validate_args = False
    for e in free:
        assert e.log_prob(torch.zeros(3)).isnan()
        assert e.log_prob(torch.tensor([math.nan, 1, 0])).isnan()


def test_one_coordinate_is_certain():
    one = torch.ones(4, 1, dtype=D)
    for d in (ts.latent.GaussianSparsemax(one, 0.3), ts.latent.KDHardConcrete(one, 0.3)):
        assert torch.equal(d.sample(), one)
        assert torch.allclose(d.log_prob(one), torch.zeros(4, dtype=D), atol=1e-12)


# --- hard concrete ----------------------------------------------------------------------------------------------------


def test_hard_concrete_of_two():
    d = ts.latent.KDHardConcrete(torch.tensor([0.5, 0.1], dtype=D), 0.4, stretch=1.3)
    y = d.sample((20000,))
    assert mean_is((y == 1).double(), d.log_prob(torch.eye(2, dtype=D)).exp())
    inside = y[(y > 0).all(-1), 0]
    b = d.binary()
    low, high = b.zero_probability, 1 - b.one_probability
    assert stats.kstest(inside, lambda x: ((b.cdf(torch.tensor(x)) - low) / (high - low)).numpy()).pvalue > 1e-4


def test_hard_concrete_inside_the_simplex():
    d = ts.latent.KDHardConcrete(torch.tensor([0.5, 0.1, -0.3], dtype=D), 1.2, stretch=1.1)
    t, w = gauss_legendre(80)
    first, rest = t[:, None].expand(80, 80), t[None].expand(80, 80)
    y = torch.stack([first, (1 - first) * rest, (1 - first) * (1 - rest)], -1)
    density = w[:, None] * w * (1 - first) * d.log_prob(y).exp()
    samples = d.sample((20000,))
    full = (samples > 0).all(-1)
    assert mean_is(full.double(), density.sum())
    assert mean_is(torch.where(full[:, None], samples, 0.0), (density[..., None] * y).sum((0, 1)))
    x = torch.randn(2, 3, dtype=D, requires_grad=True), torch.tensor([0.4, 2.0], dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: ts.latent.KDHardConcrete(*x).log_prob(y[3, :7, None]), x)


def test_shapes_and_expansion():
    for d in (
        ts.latent.GaussianSparsemax(torch.randn(4, 1, 3), torch.rand(5, 1) + 0.1),
        ts.latent.KDHardConcrete(torch.randn(4, 1, 3), torch.rand(5) + 0.1),
        ts.latent.MixedDirichlet(torch.rand(4, 1, 3) + 0.1, torch.randn(5, 3)),
    ):
        assert d.batch_shape == (4, 5)
        assert d.event_shape == (3,)
        y = d.sample((6,))
        assert y.shape == (6, 4, 5, 3)
        assert y.dtype == torch.float32
        assert d.support.check(y).all()
        e = d.expand((2, 4, 5))
        assert e.sample((6,)).shape == (6, 2, 4, 5, 3)
        full = y.clamp_min(0.01) / y.clamp_min(0.01).sum(-1, keepdim=True)
        assert d.log_prob(full).shape == (6, 4, 5)
        assert torch.equal(e.log_prob(full[:, None])[:, 1], d.log_prob(full))
    binary = ts.latent.GaussianSparsemax(torch.randn(4, 2), 0.5)
    assert binary.entropy().shape == (4,)
    assert binary.entropy().dtype == torch.float32
    with pytest.raises(ValueError, match="constraint"):
        ts.latent.GaussianSparsemax(torch.randn(4, 2), torch.tensor([0.5, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    loc = torch.randn(3).to(dtype)
    for d in (
        ts.latent.GaussianSparsemax(loc, 0.5),
        ts.latent.GaussianSparsemax(loc[:2], 0.5),
        ts.latent.KDHardConcrete(loc[:2], 0.5),
        ts.latent.MixedDirichlet(loc.abs() + 0.1, loc),
        ts.latent.HardKuma(loc.abs() + 0.1, 1.0),
    ):
        y = d.sample((300,))
        assert y.dtype == d.log_prob(y).dtype == dtype
        assert d.log_prob(y).isfinite().all()
        # No more is lost than by rounding the result: formulas are evaluated in double precision.
        if not isinstance(d, ts.latent.MixedDirichlet):
            wide = type(d)(*(getattr(d, name).double() for name in d.tensors), validate_args=False)
            rounding = torch.finfo(dtype).eps
            assert torch.allclose(d.log_prob(y).double(), wide.log_prob(y.double()), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_round_to_another_face(dtype):
    # A sample that rounds to 1 would make the point's frequency too high, by 1 % here.
    half = torch.tensor(0.5, dtype=dtype)
    for d in (ts.latent.GaussianSparsemaxBit(half, 0.5), ts.latent.HardConcrete(half), ts.latent.HardKuma(half, half)):
        y = d.sample((400000,))
        wide = type(d)(*(getattr(d, name).double() for name in d.tensors))
        for end in (0.0, 1.0):
            assert mean_is((y == end).double(), wide.log_prob(torch.tensor(end, dtype=D)).exp())
    near = torch.tensor([-0.5, 0.0, 1e-9, 0.5, 1 - 1e-9, 1.0, 1.5], dtype=D, requires_grad=True)
    y = d.clamped(near)
    assert torch.equal((y > 0) & (y < 1), (near > 0) & (near < 1))
    (slope,) = torch.autograd.grad(y.sum(), near)
    assert slope[[0, 2, 3, 4, 6]].tolist() == [0, 1, 1, 1, 0]


def test_a_face_is_known_by_its_zeros():
    # Also where the other coordinate is rounded: of two coordinates as of three.
    for tiny in (0.0, -0.0, 1e-300, 2.0**-60, 2.0**-53):
        for two, three in ([1.0, tiny], [1.0, tiny, 0.0]), ([tiny, 1.0], [tiny, 1.0, 0.0]):
            d = ts.latent.GaussianSparsemax(torch.tensor([0.3, 0.0], dtype=D), 0.7)
            e = ts.latent.GaussianSparsemax(torch.tensor([0.3, 0.0, -60.0], dtype=D), 0.7)
            found = d.log_prob(torch.tensor(two, dtype=D))
            assert torch.allclose(found, e.log_prob(torch.tensor(three, dtype=D)), rtol=1e-12)
            assert (found == d.log_prob(torch.tensor([1.0 - round(two[1]), round(two[1])], dtype=D))) == (tiny == 0)
    free = ts.latent.GaussianSparsemax(torch.zeros(2), 1.0, validate_args=False)
    for value in ([math.nan, 1.0], [1.0, math.nan], [0.0, math.nan], [math.nan, 0.0]):
        assert free.log_prob(torch.tensor(value)).isnan()


def test_noise_that_rounds_to_zero_in_half_precision(monkeypatch):
    # Exponential variables of 2^-26, which are zero there, would be an infinite score.
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda x, **options: x.fill_(2.0**-26))
    y = ts.latent.KDHardConcrete(torch.zeros(3, dtype=torch.float16), 0.5).sample((4,))
    assert y.dtype == torch.float16
    assert torch.allclose(y, torch.full_like(y, 1 / 3), atol=1e-3)


def test_empty_batches():
    for d in (
        ts.latent.HardKuma(torch.ones(0), 1.0),
        ts.latent.GaussianSparsemax(torch.zeros(0, 3), 1.0),
        ts.latent.GaussianSparsemax(torch.zeros(0, 2), 1.0),
        ts.latent.MixedDirichlet(torch.ones(0, 3), torch.zeros(0, 3)),
        ts.latent.SparseBitVector(torch.zeros(0, 2, 3), torch.ones(0, 2)),
    ):
        y = d.sample((2,))
        assert y.shape == (2, 0, *d.event_shape)
        assert d.log_prob(y).shape == (2, 0)
