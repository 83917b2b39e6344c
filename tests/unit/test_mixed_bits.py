"""Distributions over [0, 1] with probability at the ends: density, samples, entropy and KL tell the same story."""

import itertools
import math
import pickle

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Independent, kl_divergence

import tsallis as ts
from tsallis.core.errors import ParameterError

from .sampled import agree, mean_is, slopes

D = torch.float64
FAMILIES = {
    "gaussian": ts.latent.GaussianSparsemaxBit,
    "concrete": ts.latent.HardConcrete,
    "kuma": ts.latent.HardKuma,
}
# Of each family: moderate, most of it at the ends, narrow in the middle.
POINTS = {
    "gaussian": [(0.3, 0.7), (0.8, 5.0), (0.4, 0.01)],
    "concrete": [(0.4, 2 / 3), (-1.0, 0.1), (2.0, 30.0)],
    "kuma": [(0.7, 1.3), (0.1, 0.2), (30.0, 5e5)],
}
CASES = [(family, point) for family, points in POINTS.items() for point in points]


def made(family, point, dtype=D):
    return FAMILIES[family](*(torch.tensor(x, dtype=dtype) for x in point))


def density(d):
    return lambda y: d.log_prob(torch.tensor(y, dtype=D)).exp().item()


def integral(f, d, low=0.0, high=1.0):
    """Of f over [low, high], split where the distribution is."""
    cuts = d.icdf(torch.linspace(0.001, 0.999, 5, dtype=D)).tolist()
    ends = [low, *sorted({c for c in cuts if low + 1e-9 < c < high - 1e-9}), high]
    return sum(integrate.quad(f, a, b, epsabs=1e-13, epsrel=1e-11, limit=200)[0] for a, b in itertools.pairwise(ends))


@pytest.mark.parametrize(
    ("loc", "scale", "expected"),
    [(0.3, 1.0, 1.0778968477486124), (0.3, 0.7, 0.9982054234889461), (0.8, 0.5, 0.799802711648925)],
)
def test_gaussian_entropy_is_that_of_the_formula(loc, scale, expected):
    d = ts.latent.GaussianSparsemaxBit(torch.tensor(loc, dtype=D), scale)
    assert d.entropy().item() == pytest.approx(expected, rel=1e-14)


def test_gaussian_samples_have_the_variance_of_the_density():
    # Noise on both the score and its complement would halve it: 0.272 at 0 instead of 0.334.
    d = ts.latent.GaussianSparsemaxBit(torch.tensor(0.3, dtype=D), 0.7)
    assert d.zero_probability.item() == pytest.approx(0.3341175708976246, rel=1e-14)
    assert d.one_probability.item() == pytest.approx(0.15865525393145707, rel=1e-14)
    y = d.sample((20000,))
    assert mean_is((y == 0).double(), d.zero_probability)
    assert mean_is((y == 1).double(), d.one_probability)


@pytest.mark.parametrize(("family", "point"), CASES)
def test_density_cdf_and_samples_agree(family, point):
    d = made(family, point)
    zero, one = d.log_prob(torch.tensor([0.0, 1.0], dtype=D)).exp().tolist()
    assert integral(density(d), d) == pytest.approx(1 - zero - one, abs=1e-9)
    cuts = np.unique(np.clip(d.icdf(torch.linspace(0.02, 0.98, 15, dtype=D)).numpy(), 0.0, 1.0))
    edges = np.unique(np.concatenate([[0.0], cuts, [1.0]]))
    cells = [integral(density(d), d, a, b) for a, b in itertools.pairwise(edges)]
    y = d.sample((20000,)).numpy()
    inside = y[(y > 0) & (y < 1)]
    assert agree([(y == 0).sum(), *np.histogram(inside, edges)[0], (y == 1).sum()], [zero, *cells, one])
    middle = torch.tensor(edges[1:-1], dtype=D)
    assert torch.allclose(d.cdf(middle), torch.tensor(zero + np.cumsum(cells)[:-1], dtype=D), atol=1e-9)
    assert d.cdf(torch.ones((), dtype=D)) == 1
    assert d.cdf(torch.zeros((), dtype=D)) == d.zero_probability
    if len(inside) > 100:
        low, width = zero, 1 - zero - one
        assert stats.kstest(inside, lambda x: (d.cdf(torch.tensor(x)).numpy() - low) / width).pvalue > 1e-4
    u = torch.linspace(0.01, 0.99, 21, dtype=D)
    again = d.cdf(d.icdf(u))
    within = (u > zero) & (u < 1 - one)
    assert torch.allclose(again[within], u[within], atol=1e-9)
    assert d.icdf(torch.tensor([0.0, 1.0], dtype=D)).tolist() == [0, 1]


@pytest.mark.parametrize(("family", "point"), CASES)
def test_entropy_and_moments_by_quadrature(family, point):
    d = made(family, point)
    p, (zero, one) = density(d), d.log_prob(torch.tensor([0.0, 1.0], dtype=D)).exp().tolist()
    inside = integral(lambda y: -p(y) * math.log(p(y)) if p(y) else 0.0, d)
    points = -sum(x * math.log(x) for x in (zero, one) if x)
    assert d.entropy().item() == pytest.approx(points + inside, abs=1e-8)
    mean = one + integral(lambda y: y * p(y), d)
    square = one + integral(lambda y: y * y * p(y), d)
    assert d.mean.item() == pytest.approx(mean, abs=1e-9)
    assert d.variance.item() == pytest.approx(square - mean**2, abs=1e-9)
    y = d.sample((20000,))
    assert mean_is(-d.log_prob(y), d.entropy())


@pytest.mark.parametrize("families", list(itertools.product(FAMILIES, FAMILIES)))
def test_kl_by_quadrature(families):
    d, e = made(families[0], POINTS[families[0]][0]), made(families[1], POINTS[families[1]][1])
    ends = torch.tensor([0.0, 1.0], dtype=D)
    points = (d.log_prob(ends).exp() * (d.log_prob(ends) - e.log_prob(ends))).sum().item()
    p, q = density(d), density(e)
    kl = kl_divergence(d, e).item()
    assert kl == pytest.approx(points + integral(lambda y: p(y) * math.log(p(y) / q(y)), d), rel=1e-8)
    assert kl > 0.01
    y = d.sample((20000,))
    assert mean_is(d.log_prob(y) - e.log_prob(y), kl_divergence(d, e))
    assert kl_divergence(d, d) == 0


def test_kl_is_not_negative_next_to_zero():
    loc = torch.linspace(-2, 2, 41, dtype=D)
    for family in FAMILIES.values():
        first, second = loc.exp(), (0.3 + loc.abs())
        kl = kl_divergence(family(first, second), family(first * (1 + 1e-5), second))
        assert (kl > -1e-15).all()
        assert kl.max() < 1e-8


def test_quadrature_is_the_closed_form():
    loc, scale = torch.tensor([0.3, -1.0, 0.5, 3.0], dtype=D), torch.tensor([0.7, 2.0, 1e-3, 0.5], dtype=D)
    d, e = ts.latent.GaussianSparsemaxBit(loc, scale), ts.latent.GaussianSparsemaxBit(loc.flip(0), 0.9 + scale)
    assert torch.allclose(ts.latent.Rectified.cross_inside(d, e), d.cross_inside(e), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [10.0, 10.1, 1e2, 1e6, 1e12, 1e18])
def test_kl_of_a_wide_gaussian_is_that_of_quadrature(scale):
    # Differences of the normal distribution's moments leave nothing here, and are multiplied by scale^2 / scale_q^2.
    d = ts.latent.GaussianSparsemaxBit(torch.tensor(0.3, dtype=D), scale)
    e = ts.latent.GaussianSparsemaxBit(torch.tensor(0.4, dtype=D), 0.01)
    inside = integrate.quad(lambda x: stats.norm.pdf(x, 0.3, scale) * -stats.norm.logpdf(x, 0.4, 0.01), 0, 1, epsabs=0)
    assert d.cross_inside(e).item() == pytest.approx(inside[0], rel=1e-10, abs=0)
    points = sum(
        math.exp(p) * (p - q)
        for p, q in [
            (stats.norm.logcdf(0, 0.3, scale), stats.norm.logcdf(0, 0.4, 0.01)),
            (stats.norm.logsf(1, 0.3, scale), stats.norm.logsf(1, 0.4, 0.01)),
        ]
    )
    own = integrate.quad(lambda x: stats.norm.pdf(x, 0.3, scale) * stats.norm.logpdf(x, 0.3, scale), 0, 1, epsabs=0)
    assert kl_divergence(d, e).item() == pytest.approx(points + own[0] + inside[0], rel=1e-10)


def test_the_mean_of_what_is_hardly_ever_positive():
    # P(X <= 1) - P(X <= 0) would be 0.
    d = ts.latent.GaussianSparsemaxBit(torch.tensor(-10.0, dtype=D), 1.0)
    expected = integrate.quad(lambda x: stats.norm.sf(x, -10.0), 0, 1, epsabs=0)[0]
    assert d.mean.item() == pytest.approx(expected, rel=1e-10, abs=0)


def test_hard_concrete_penalty_is_the_published_formula():
    loc, temperature = torch.linspace(-5, 5, 11, dtype=D), 0.6
    d = ts.latent.HardConcrete(loc, temperature, low=-0.2, high=1.3)
    assert torch.allclose(d.nonzero_probability, torch.sigmoid(loc - temperature * math.log(0.2 / 1.3)), rtol=1e-13)


def test_hard_kuma_points_are_the_published_formula():
    a, b = torch.tensor([0.5, 2.0], dtype=D), torch.tensor([0.7, 3.0], dtype=D)
    d = ts.latent.HardKuma(a, b)
    assert torch.allclose(d.zero_probability, 1 - (1 - (0.1 / 1.2) ** a) ** b, rtol=1e-13)
    assert torch.allclose(d.one_probability, (1 - (1.1 / 1.2) ** a) ** b, rtol=1e-13)
    assert torch.allclose(d.nonzero_probability, 1 - d.zero_probability, rtol=1e-13)


def test_probabilities_that_underflow_keep_their_logarithm():
    ends = torch.tensor([0.0, 1.0], dtype=D)
    gaussian = ts.latent.GaussianSparsemaxBit(torch.tensor(50.0, dtype=D), 1.0).log_prob(ends)
    assert gaussian[0].item() == pytest.approx(float(mpmath.log(mpmath.ncdf(-50))), rel=1e-13)
    concrete = ts.latent.HardConcrete(torch.tensor(-2000.0, dtype=D), 0.5).log_prob(ends)
    assert concrete[1].item() == pytest.approx(-2000 - 0.5 * math.log(11), rel=1e-13)
    mpmath.mp.dps = 60
    for a, b in [(400.0, 3.0), (4.0, 2.0), (4.0, 1e-6), (5e4, 1e3), (0.01, 1e3), (1e-3, 2e3)]:
        d = ts.latent.HardKuma(torch.tensor(a, dtype=D), torch.tensor(b, dtype=D)).log_prob(ends)
        low, high = mpmath.mpf(-0.1), mpmath.mpf(1.1)
        t = [-low / (high - low), (1 - low) / (high - low)]
        zero = mpmath.log(-mpmath.expm1(b * mpmath.log1p(-(t[0] ** a))))
        one = b * mpmath.log1p(-(t[1] ** a))
        assert d[0].item() == pytest.approx(float(zero), rel=1e-12, abs=1e-300)
        assert d[1].item() == pytest.approx(float(one), rel=1e-11)


@pytest.mark.parametrize(("family", "point"), [(f, POINTS[f][0]) for f in FAMILIES])
def test_derivatives(family, point):
    x = tuple(torch.tensor([p, 1.3 * p], dtype=D, requires_grad=True) for p in point)
    values = torch.tensor([[0.0], [0.2], [0.9], [1.0]], dtype=D)
    cls = FAMILIES[family]
    other = ts.latent.HardConcrete(torch.tensor(0.1, dtype=D))
    for f in (
        lambda *x: cls(*x).log_prob(values),
        lambda *x: cls(*x).entropy(),
        lambda *x: cls(*x).mean + cls(*x).variance,
        lambda *x: kl_divergence(cls(*x), other),
        lambda *x: kl_divergence(other, cls(*x)),
        lambda *x: kl_divergence(cls(*x), cls(0.5 + 0 * x[0], 0.8 + 0 * x[0])),
        lambda *x: cls(*x).cdf(values),
        lambda *x: cls(*x).icdf(torch.tensor([[0.4], [0.55]], dtype=D)),
    ):
        assert torch.autograd.gradcheck(f, x, atol=1e-7, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *x: cls(*x).entropy(), x, atol=1e-6)
    y = torch.tensor([0.3, 0.7], dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: cls(*x).log_prob(y), y)


@pytest.mark.parametrize(("family", "point"), [(f, p) for f in FAMILIES for p in POINTS[f][:2]])
def test_samples_have_the_derivatives_of_the_expectation(family, point):
    x = [torch.full((20000,), p, dtype=D, requires_grad=True) for p in point]
    y = FAMILIES[family](*x).rsample()
    pathwise = torch.autograd.grad(((2 * y).sin() + y.square()).sum(), x)

    def expected(*x):
        d = FAMILIES[family](*x)
        nodes, weights = d.inside()
        return math.sin(2) * d.log_one.exp() + d.log_one.exp() + (weights * ((2 * nodes).sin() + nodes**2)).sum()

    for samples, slope in zip(pathwise, slopes(expected, *(t[0].detach() for t in x)), strict=True):
        assert slope.abs() > 1e-4
        assert mean_is(samples, slope)


EXTREME = {
    "gaussian": list(itertools.product([-1e4, 0.0, 0.5, 1e4], [1e-18, 1e-3, 1e4, 1e18])),
    "concrete": list(itertools.product([-1e4, -50.0, 0.0, 1e4], [1e-12, 1e-2, 1e2, 1e6])),
    "kuma": list(itertools.product([1e-12, 1e-3, 50.0, 1e6], [1e-12, 1e-3, 50.0, 1e6])),
}


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("family", FAMILIES)
def test_corners_have_no_nan(family, dtype):
    # In single precision derivatives such as 1e4 / (1e-18)^2 are beyond its range.
    kept = [p for p in EXTREME[family] if dtype == D or family != "gaussian" or p[1] > 1e-4]
    x = [torch.tensor(column, dtype=dtype, requires_grad=True) for column in zip(*kept, strict=True)]
    d = FAMILIES[family](*x)
    ends = torch.tensor([[0.0], [1.0]], dtype=dtype)
    found = [
        d.log_prob(ends),
        d.log_prob(ends * 0.6 + 0.2),
        d.entropy(),
        d.rsample((50,)),
        d.mean,
        d.variance,
        d.cdf(ends),
    ]
    found += [kl_divergence(d, FAMILIES[family](*(t.detach().flip(0) for t in x)))]
    for value in found:
        assert not value.isnan().any()
        finite = torch.where(value.isfinite(), value, 0.0)
        for slope in torch.autograd.grad(finite.sum(), x, retain_graph=True):
            assert not slope.isnan().any()
            assert slope.isfinite().all()
    assert (d.variance >= 0).all()
    assert ((d.mean >= 0) & (d.mean <= 1)).all()
    assert d.entropy().isfinite().all()
    total = d.zero_probability.double() + d.one_probability.double() + d.inside()[1].sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6 if dtype != D else 1e-9)


@pytest.mark.parametrize(("family", "point"), CASES)
def test_single_precision(family, point):
    d, e = made(family, point, torch.float32), made(family, point)
    y = torch.tensor([0.0, 0.25, 0.5, 1.0])
    for narrow, wide in [(d.log_prob(y), e.log_prob(y.double())), (d.entropy(), e.entropy()), (d.mean, e.mean)]:
        assert narrow.dtype == torch.float32
        assert torch.allclose(narrow.double(), wide, rtol=1e-4)
    assert d.rsample((3,)).dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_validation_and_expansion(family):
    cls = FAMILIES[family]
    d = cls(torch.full((4, 1), 0.5), torch.tensor([0.5, 1.0, 2.0]))
    assert d.batch_shape == (4, 3)
    assert d.event_shape == ()
    assert d.rsample((5,)).shape == (5, 4, 3)
    for value in (d.entropy(), d.mean, d.variance, d.zero_probability, d.nonzero_probability, kl_divergence(d, d)):
        assert value.shape == (4, 3)
    e = d.expand((2, 4, 3))
    assert e.batch_shape == (2, 4, 3)
    assert torch.equal(e.entropy()[1], d.entropy())
    assert e.log_prob(torch.zeros(())).shape == (2, 4, 3)
    assert d.support.check(d.sample((10,))).all()
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ParameterError, match=r"\[0, 1\]"):
            d.log_prob(torch.tensor(wrong))
    free = cls(torch.tensor(0.5), torch.tensor(0.5), validate_args=False)
    assert free.log_prob(torch.tensor([-0.1, 1.1])).tolist() == [-math.inf, -math.inf]
    assert free.log_prob(torch.tensor(math.nan)).isnan()
    x = torch.tensor([0.5, 0.7], requires_grad=True)
    (slope,) = torch.autograd.grad(cls(*x, validate_args=False).log_prob(torch.tensor([-0.5, 0.3, 1.5]))[1], x)
    assert slope.isfinite().all()
    for wrong in (-1.0, 0.0, math.nan):
        with pytest.raises(ValueError, match="constraint"):
            cls(torch.tensor(0.5), torch.tensor(wrong))
    assert cls(1, 2).entropy().dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_independent_bits_and_copies(family):
    d = FAMILIES[family](torch.full((2, 3), 0.5), torch.tensor([0.5, 1.0, 2.0]))
    several = Independent(d, 1)
    y = several.rsample((4,))
    assert torch.equal(several.log_prob(y), d.log_prob(y).sum(-1))
    assert torch.equal(several.entropy(), d.entropy().sum(-1))
    assert kl_divergence(several, several).shape == (2,)
    again = pickle.loads(pickle.dumps(d))
    assert torch.equal(again.log_prob(y), d.log_prob(y))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.1), (-0.1, 1.0), (-math.inf, 2.0), (math.nan, 2.0), (None, 2.0)])
def test_ends_that_leave_no_probability_at_a_point_are_refused(low, high):
    for cls in (ts.latent.HardConcrete, ts.latent.HardKuma):
        with pytest.raises(ParameterError, match="low < 0"):
            cls(torch.tensor(1.0), torch.tensor(1.0), low, high)
