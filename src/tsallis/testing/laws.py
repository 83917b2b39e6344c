"""Laws of the value: p is feasible, optimal, and moves with z as a gradient of a convex function does."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.fenchel_young import inner
from .harness import CheckFailed, Setting, law, require, require_close
from .inputs import FAMILIES, draw

ROWS, N = 4, 6


def columns(setting: Setting, z: Tensor) -> dict[str, Tensor]:
    """The parameters' values beside rows of z."""
    return {name: value.reshape(1, 1) for name, value in setting.tensors(z).items()}


def objective(setting: Setting, z: Tensor, p: Tensor) -> Tensor:
    """<p, z> - Omega(p) of each row."""
    return inner(p, z) - setting.mapping.omega(p, **setting.tensors(z))


@law()
def feasible(setting: Setting) -> None:
    """p lies in the domain, on every family of inputs, at sizes 1 to 1000, in float64 and float32."""
    nontrivial = False
    for name in FAMILIES:
        for n in (N, 65, 1000):
            for dtype in (torch.float64, torch.float32):
                z = draw(name, ROWS, n, dtype=dtype)
                p = setting(z)
                tolerance = 16 * torch.finfo(dtype).eps * n**0.5 * max(1.0, float(p.detach().sum(-1).max()))
                excess = setting.mapping.domain.violation(p.double(), **columns(setting, z.double()))
                require(p.dtype == dtype, f"{name}: dtype {p.dtype} for {dtype}")
                require(
                    excess <= tolerance, f"{name}, n={n}, {dtype}: constraint violated by {float(excess.max()):.3g}"
                )
                nontrivial |= bool(((p > 0) & (p < p.amax(-1, keepdim=True))).any())
    require(nontrivial, "no input gave two different positive values: the check would be vacuous")


@law()
def beats_random_points(setting: Setting) -> None:
    """No random feasible point, and none between it and p, has a larger objective than p."""
    generator = torch.Generator().manual_seed(1)
    for name in FAMILIES:
        z = draw(name, ROWS, N)
        p = setting(z)
        best = objective(setting, z, p)
        for step in (1.0, 0.1, 1e-3):
            for _ in range(8):
                q = setting.mapping.domain.sample(z, generator, **columns(setting, z))
                if step < 1 and "duality_gap" in setting.mapping.exempt:
                    continue  # not convex: the segment leaves the domain
                other = objective(setting, z, p + step * (q - p))
                require(
                    other <= best + 1e-12 * (1 + best.abs()),
                    f"{name}: a feasible point is better by {float((other - best).max()):.3g}",
                )


@law()
def duality_gap(setting: Setting) -> None:
    """The first-order certificate: max over q in C of <z - grad Omega(p), q - p> is zero to rounding."""
    for name in FAMILIES:
        z = draw(name, ROWS, N)
        p = setting(z).detach().requires_grad_()
        (slope,) = torch.autograd.grad(setting.mapping.omega(p, **setting.tensors(z)).sum(), p)
        p = p.detach()
        g = z - slope
        gap = setting.mapping.domain.support_function(g, **columns(setting, z)) - inner(p, g)
        require(gap <= 1e-9 * (1 + g.abs().amax(-1)), f"{name}: duality gap {float(gap.max()):.3g}")


@law()
def shift(setting: Setting) -> None:
    """Where the domain fixes the sum, adding a constant to a row changes nothing."""
    if not setting.mapping.domain.fixed_sum:
        return
    z = draw("normal", ROWS, N)
    require_close(setting(z + 64), setting(z), 1e-12, "z + 64")
    # A shift that float32 represents exactly must be invisible there too.
    coarse = (draw("normal", ROWS, N) * 64).round() / 64
    require_close(setting((coarse - 1000).float()), setting(coarse.float()), 1e-6, "z - 1000 in float32")


@law()
def permutation(setting: Setting) -> None:
    """Permuting the scores permutes p."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    for name in FAMILIES:
        z = draw(name, ROWS, N)
        require_close(setting(z[:, order]), setting(z)[:, order], 1e-12, name)


@law()
def ties(setting: Setting) -> None:
    """Equal scores get equal values."""
    z = draw("ties", 64, N)
    p = setting(z)
    equal = z.unsqueeze(-1) == z.unsqueeze(-2)
    gap = (p.unsqueeze(-1) - p.unsqueeze(-2)).abs().masked_fill(~equal, 0)
    require(bool(equal.sum() > 64 * N), "the inputs have no ties: the check would be vacuous")
    require(gap <= 1e-12, f"equal scores differ by {float(gap.max()):.3g}")


@law()
def monotone(setting: Setting) -> None:
    """p is the gradient of a convex function: <p(z) - p(z'), z - z'> >= 0; so <p(t z), z> grows with t."""
    for name in FAMILIES:
        z, other = draw(name, ROWS, N), draw(name, ROWS, N, seed=3)
        p, q = setting(z), setting(other)
        require(((p - q) * (z - other)).sum(-1) >= -1e-10, f"{name}: not monotone")
        along = torch.stack([(setting(t * z) * z).sum(-1) for t in (0.0, 0.5, 1.0, 2.0, 8.0)])
        require(along.diff(dim=0) >= -1e-10, f"{name}: scaling the scores up lowered <p, z>")


@law()
def large_scores(setting: Setting) -> None:
    """Scores scaled by 1e4 to 1e20 give finite, feasible results, and approach the linear optimum."""
    for dtype in (torch.float64, torch.float32):
        for scale in (1e4, 1e6, 1e8, 1e20):
            z = (draw("normal", ROWS, N) * scale).to(dtype)
            p = setting(z)
            require(p.isfinite(), f"scale {scale:g}, {dtype}: not finite")
            beside = columns(setting, z.double())
            excess = setting.mapping.domain.violation(p.double(), **beside)
            require(
                excess <= 64 * torch.finfo(dtype).eps,
                f"scale {scale:g}, {dtype}: constraint violated by {float(excess.max()):.3g}",
            )
            if scale >= 1e6 and "duality_gap" not in setting.mapping.exempt:
                # Where Omega is negligible, <p, z> is the maximum of a linear function over the domain (dense mappings
                # with heavy tails, alpha < 1, approach it polynomially: their shortfall stays below a constant that
                # does not grow with the scale).
                shortfall = setting.mapping.domain.support_function(z.double(), **beside) - (
                    p.double() * z.double()
                ).sum(-1)
                require(
                    shortfall <= 1e-5 * scale,
                    f"scale {scale:g}, {dtype}: short of the linear optimum by {float(shortfall.max()):.3g}",
                )


@law()
def certificate(setting: Setting) -> None:
    """`solve` agrees with the mapping in value and gradient and describes it: support, residual, outcome, and p rebuilt
    from the threshold's sum.
    """
    z = torch.cat([draw(name, ROWS, N) for name in FAMILIES])
    solution = setting.mapping.solution(z, **setting.values)
    p = setting(z)
    require_close(solution.p, p, 0.0, "p")
    leaf, weights = z.clone().requires_grad_(), torch.linspace(-1, 1, z.shape[-1], dtype=z.dtype)
    slopes = [
        torch.autograd.grad((q * weights).sum(), leaf, allow_unused=True)[0]
        for q in (setting.mapping.solution(leaf, **setting.values).p, setting(leaf))
    ]
    if slopes[0] is None or slopes[1] is None:
        raise CheckFailed("p of a solution has no gradient")
    # By the formula there, by a kernel here: equal but for rounding.
    require_close(slopes[0], slopes[1], 1e-12, "the gradient of a solution's p")
    require(solution.support_size == (p > 0).sum(-1), "support_size is not the number of non-zeros")
    require(solution.residual <= 1e-12, f"residual {float(solution.residual.max()):.3g}")
    require(solution.result.ok, f"result: {solution.result}")
    if (solution.threshold is None) == setting.mapping.domain.fixed_sum:
        raise CheckFailed("a threshold must exist exactly where the domain fixes the sum")
    if solution.threshold is not None:
        require(solution.threshold.isfinite(), "threshold not finite")
        moved = setting.mapping.solution(z + 3, **setting.values).threshold
        require_close(
            moved if moved is not None else z, solution.threshold + 3, 1e-9, "the threshold moves with the scores"
        )
