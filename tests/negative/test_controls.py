"""The suite must be able to fail: mappings, losses and backends that are wrong in one place are rejected, and by the
laws that should do it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tsallis.core import dispatch, registry
from tsallis.core.domains import Simplex
from tsallis.core.mapping import Mapping, SeparableMapping, Solved
from tsallis.core.numerics import safe_pow
from tsallis.kernels.reference import rows
from tsallis.mappings.budget import Budget
from tsallis.mappings.entmax import Entmax
from tsallis.mappings.normmax import Normmax
from tsallis.mappings.sparsemax import Sparsemax
from tsallis.testing import LAWS, Setting, check
from tsallis.testing.harness import CheckFailed, settings


def rejected_by(mapping: Mapping) -> set[str]:
    with registry.registered(mapping):
        return {report.law for report in check(mapping, slow=False) if report.failure is not None}


class WrongOmega(Sparsemax):
    """Claims Shannon's regulariser, solves for Gini's."""

    name = "wrong_omega"

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        return torch.special.xlogy(p, p).sum(-1)


class OffByOneSupport(Sparsemax):
    """Leaves out the smallest entry of the support, as a wrong comparison in a sort-based solver does."""

    name = "off_by_one"

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        p = super().solve(z).p
        size = (p > 0).sum(-1, keepdim=True)
        return Sparsemax.solve(self, rows.topk(z, (size - 1).clamp_min(1)))


class DroppedGradient(Sparsemax):
    """Forgets the second term of the Jacobian."""

    name = "dropped_gradient"

    def solve_tangent(self, p: Tensor, v: Tensor, **saved: Tensor) -> Tensor:
        return self.weight(p) * v


class DroppedParameterGradient(Entmax):
    """Gives alpha no gradient."""

    name = "dropped_alpha"

    def grad_omega_param(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        return {"alpha": torch.zeros_like(p) * saved["alpha"]}


class IgnoredArgument(Entmax):
    """Accepts alpha and uses 1.5."""

    name = "ignored_argument"

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        return super().solve(z, alpha=torch.full_like(params["alpha"], 1.5))


class UnstableCurvature(Sparsemax):
    """Right in value and first derivative, but p^0 written so that its derivative at zeros is NaN."""

    name = "unstable"

    def weight(self, p: Tensor, **params: Tensor) -> Tensor:
        return torch.where(p > 0, p.sqrt() / p.sqrt(), 0.0)


@pytest.mark.parametrize(
    ("mapping", "laws"),
    [
        (WrongOmega(), {"beats_random_points", "duality_gap", "loss_bounds"}),
        (OffByOneSupport(), {"beats_random_points", "duality_gap", "ties"}),
        (DroppedGradient(), {"first_derivatives", "jacobian", "sizes"}),
        (DroppedParameterGradient(), {"first_derivatives", "parameters"}),
        (IgnoredArgument(), {"keywords", "beats_random_points", "first_derivatives"}),
        (UnstableCurvature(), {"second_derivatives_at_zeros"}),
    ],
    ids=lambda x: x.name if isinstance(x, Mapping) else "",
)
def test_a_wrong_mapping_is_rejected(mapping: Mapping, laws: set[str]) -> None:
    assert laws <= rejected_by(mapping)


class OverflowingWeights(Entmax):
    """Divides weights by their sum, which for large alpha is inf/inf."""

    name = "overflowing_weights"

    def share(self, p: Tensor, **params: Tensor) -> Tensor:
        return SeparableMapping.share(self, p, **params)


class UnderflowingNorm(Normmax):
    """The norm as it is written down: for large alpha every p^alpha is 0."""

    name = "underflowing_norm"

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        alpha = params["alpha"]
        return (safe_pow(p, alpha).sum(-1, keepdim=True) ** (1 / alpha) - 1).squeeze(-1)


class LostSum(Budget):
    """Loses what the cap cuts off, as rescaling and clamping does."""

    name = "lost_sum"

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        solved = super().solve(z, **params)
        return solved._replace(p=(solved.p * (1 + 1e-12 * params["alpha"])).clamp_max(1))


@pytest.mark.parametrize(
    ("mapping", "law", "message"),
    [
        (OverflowingWeights(), "large_parameters_gradients", "NaN in the gradient"),
        (UnderflowingNorm(), "large_parameters", "linear optimum is better"),
        (LostSum(), "large_parameters", "constraint violated"),
    ],
    ids=lambda x: x.name if isinstance(x, Mapping) else "",
)
def test_faults_at_large_parameters_are_rejected(mapping: Mapping, law: str, message: str) -> None:
    with registry.registered(mapping), pytest.raises(CheckFailed, match=message):
        LAWS[law].check(next(settings(mapping)))


def test_a_wrong_exemption_is_not_silent() -> None:
    """An exempt law is skipped, every other one still runs."""

    class Exempt(WrongOmega):
        name = "exempt"
        exempt = {"duality_gap": "a test"}

    rejected = rejected_by(Exempt())
    assert "duality_gap" not in rejected
    assert "beats_random_points" in rejected


@pytest.mark.parametrize("wrong", ["value", "gradient", "unwritten"])
def test_a_wrong_backend_is_rejected(wrong: str) -> None:
    class Victim(Sparsemax):
        name = "victim"

    def kernel(z: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        p, threshold = dispatch.choose("victim", dispatch.Signature.of(z), "reference")(z)
        if wrong == "value":
            return p * (1 + 1e-5), threshold
        if wrong == "gradient":  # right in value within tolerance, but off in the support the gradient is computed from
            return p + (p == 0) * 1e-13, threshold
        out = torch.empty_like(p)
        out[..., :64] = p[..., :64]  # forgets the tail of long rows
        return out, threshold

    victim = Victim()
    with registry.registered(victim):
        agree = LAWS["backends_agree"].check
        setting = next(settings(victim))
        agree(setting)
        dispatch.add_kernel("victim", dispatch.Kernel("broken", kernel, 1, lambda signature: None))
        with pytest.raises(CheckFailed, match="broken"):
            agree(setting)


def test_vacuous_inputs_are_refused() -> None:
    """A constant mapping has no support and no gradient to check: the laws say so instead of passing."""

    class Constant(Mapping):
        name = "constant"
        summary = latex = ""
        domain = Simplex()

        def omega(self, p: Tensor, **params: Tensor) -> Tensor:
            return p.sum(-1) * 0

        def solve(self, z: Tensor, **params: Tensor) -> Solved:
            return Solved(torch.full_like(z, 1 / z.shape[-1]), z[..., 0])

        def solve_tangent(self, p: Tensor, v: Tensor, **saved: Tensor) -> Tensor:
            return v * 0

    constant = Constant()
    with registry.registered(constant):
        for name in ("first_derivatives", "jacobian", "masks", "feasible"):
            with pytest.raises(CheckFailed, match="vacuous"):
                LAWS[name].check(Setting(constant, {}))
