"""The protocol of a mapping, and everything that is derived from it.

To add one, subclass `Mapping` (or `SeparableMapping`), declare what is abstract here and pass an instance to
`register`. Forward, both derivatives, double backward, entropy, conjugate, Fenchel-Young loss, ``nn`` module, operator,
documentation row and tests follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from . import dispatch, fused, implicit
from .domains import Domain
from .errors import ParameterError
from .guard import debugging, row_outcomes
from .inputs import HALF, check_dim, check_scores, checked_mask, masked
from .numerics import shares
from .params import Param, as_number_or_rows, as_rows
from .settings import DEBUG
from .status import Outcome, Result, Solution


class Solved(NamedTuple):
    """What `Mapping.solve` returns: p (..., n), the threshold (...) if the domain has one, and the declared residuals,
    each (..., n).
    """

    p: Tensor
    threshold: Tensor | None = None
    residuals: tuple[Tensor, ...] = ()


class Mapping(ABC):
    """`p(z) = argmax over p in C of <p, z> - Omega(p)`.

    Attributes:
        name: the registered name, a Python identifier.
        summary: one sentence for the documentation.
        latex: the regulariser Omega as shown there.
        domain: C.
        params: what Omega or C depend on.
        residuals: names of tensors like p that `solve` returns because `solve_tangent` needs them.
        exempt: laws of `tsallis.testing` that do not hold, each with its reason; printed in the documentation.
        reference: key of docs/references.bib.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    latex: ClassVar[str]
    domain: ClassVar[Domain]
    params: ClassVar[tuple[Param, ...]] = ()
    residuals: ClassVar[tuple[str, ...]] = ()
    exempt: ClassVar[dict[str, str]] = {}
    reference: ClassVar[str] = ""

    # --- declared -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        """Omega of each row, shape (...), differentiable in p and in parameters of role omega."""

    def omega_among(self, p: Tensor, kept: Tensor, **params: Tensor) -> Tensor:
        """The same where entries not kept, which are zero, are no part of the row: for Omegas that know of places."""
        return self.omega(p, **params)

    @abstractmethod
    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        """The reference solution. Rows are in the last dimension, in compute precision, with a finite entry and
        admissible parameters.
        """

    @abstractmethod
    def solve_tangent(self, p: Tensor, v: Tensor, **saved: Tensor) -> Tensor:
        """J v with J = dp/dz (symmetric), from p, the parameters and the residuals; differentiable in all of them."""

    def grad_omega_param(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        """For each parameter of role omega: its derivative of grad Omega(p) at fixed p, shape (..., n)."""
        return {}

    def domain_tangent(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        """For each parameter of role domain: dp/dparameter at fixed z, shape (..., n)."""
        return {}

    def tau(self, threshold: Tensor, **params: Tensor) -> Tensor | None:
        """The threshold in the mapping's other convention, if it has one; all arguments (...)."""
        return None

    def certify(self, z: Tensor, solution: Tensor, threshold: Tensor, **params: Tensor) -> Tensor:
        """Whether each solved row is the optimum of the un-approximated problem; True unless the mapping approximates
        one.
        """
        return torch.ones_like(threshold, dtype=torch.bool)

    # --- derived ------------------------------------------------------------------------------------------------------

    def named(self, values: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Parameters by name."""
        return {param.name: value for param, value in zip(self.params, values, strict=True)}

    def run(self, z: Tensor, params: tuple[Tensor, ...], backend: str | None = None) -> tuple[Tensor, ...]:
        """(p, threshold, *residuals) without derivatives."""
        return dispatch.choose(self.name, dispatch.Signature.of(z, *params), backend)(z, *params)

    def prepare(
        self, z: Tensor, dim: int, mask: Tensor | None, params: dict[str, object], *, loss: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Checked scores with `dim` moved last, masked entries at -inf, in at least float32, and parameters aligned
        with them; those admissible in a loss if it is for one.
        """
        z, dim = check_scores(z), check_dim(dim, z)
        self.check_names(params)
        known = tuple(p.for_losses() for p in self.params) if loss else self.params
        values = tuple(as_rows(p, params.get(p.name, p.default), z, dim) for p in known)
        if mask is not None:
            z = masked(z, mask)
        if z.dtype in HALF:
            # Half precision is computed, and p saved for the backward pass, in float32.
            z = z.float()
        return z.movedim(dim, -1), values

    def check_names(self, params: Collection[str]) -> None:
        """Raise unless these are names of parameters, and all that are required."""
        if unknown := set(params) - {p.name for p in self.params}:
            known = ", ".join(p.name for p in self.params) or "none"
            raise ParameterError(
                f"Parameter {sorted(unknown)[0]!r} for {self.name}", f"one of: {known}", "Remove or rename it"
            )
        for param in self.params:
            if param.default is None and param.name not in params:
                raise ParameterError(
                    f"{self.name} without {param.name}", f"{param.name} in {param.interval}", f"Pass {param.name}="
                )

    def __call__(
        self, z: Tensor, dim: int = -1, *, mask: Tensor | None = None, backend: str | None = None, **params: object
    ) -> Tensor:
        """p, of the shape and dtype of z (integers: of the default dtype)."""
        if (short := self._short_way(z, dim, mask, backend, params)) is not None:
            return short
        rows, values = self.prepare(z, dim, mask, params)
        p = implicit.call(self, rows, values, backend)[0]
        if debugging(rows):
            Result(row_outcomes(self.params, rows, values).squeeze(-1)).raise_if_failed()
        return p.movedim(-1, dim).to(z.dtype if z.is_floating_point() else p.dtype)

    def _short_way(
        self, z: Tensor, dim: int, mask: Tensor | None, backend: str | None, params: dict[str, object]
    ) -> Tensor | None:
        """The result of a plain eager call by a fused kernel; None if that is not what this is."""
        if type(dim) is not int or not isinstance(z, Tensor) or not fused.is_plain(z) or DEBUG.value:
            return None
        size = z.dim()
        if not -size <= dim < size or not z.numel():
            return None
        x, kernel = z, dispatch.fused(self.name, z, backend)
        if kernel is None and z.dtype in HALF:
            # Not computed in half precision by any kernel of this device, or only by the reference.
            x = z.float()
            kernel = dispatch.fused(self.name, x, backend)
        if kernel is None:
            return None
        values: list[float | Tensor] = []
        if params or self.params:
            self.check_names(params)
            values = [as_number_or_rows(p, params.get(p.name, p.default), z, dim) for p in self.params]
        p = fused.call(self, kernel, x, dim % size, None if mask is None else checked_mask(z, mask), values)
        return p.to(z.dtype) if x is not z else p

    def solution(
        self, z: Tensor, dim: int = -1, *, mask: Tensor | None = None, backend: str | None = None, **params: object
    ) -> Solution:
        """p with its threshold, support size, residual, certificate and outcome per row."""
        rows, values = self.prepare(z, dim, mask, params)
        p, threshold, *_ = implicit.call(self, rows, values, backend)
        given = p.movedim(-1, dim).to(z.dtype if z.is_floating_point() else p.dtype)
        with torch.no_grad():
            columns = self.named(tuple(v.to(p.dtype).expand(*p.shape[:-1], 1) for v in values))
            code = row_outcomes(self.params, rows, values).squeeze(-1)
            residual = self.domain.violation(p, **columns) if p.shape[-1] else torch.zeros_like(threshold)
            size = self.domain.total(p, **columns).expand_as(p[..., :1]).squeeze(-1) if p.shape[-1] else residual
            limit = 64 * torch.finfo(p.dtype).eps * p.shape[-1] ** 0.5 * size.clamp_min(1)
            code = torch.where((code == Outcome.SUCCESS) & (residual > limit), Outcome.INACCURATE, code).to(torch.int8)
            usable = code <= Outcome.FULLY_MASKED
            residual = torch.where(code == Outcome.FULLY_MASKED, 0.0, torch.where(usable, residual, torch.nan))
            flat = {name: column.squeeze(-1) for name, column in columns.items()}
            fixed_sum = self.domain.fixed_sum
            return Solution(
                p=given,
                threshold=threshold if fixed_sum else None,
                tau=self.tau(threshold, **flat) if fixed_sum else None,
                support_size=(p > 0).sum(-1),
                residual=residual,
                exact=usable & self.certify(rows, p, threshold, **columns),
                result=Result(code),
            )

    def __repr__(self) -> str:
        return f"<mapping {self.name}>"


class SeparableMapping(Mapping):
    """A mapping whose Omega is a sum over coordinates: its Jacobian is a diagonal, projected on the domain's tangent
    space.
    """

    @abstractmethod
    def weight(self, p: Tensor, **params: Tensor) -> Tensor:
        """The diagonal 1/Omega''(p_i) on free coordinates, 0 on those at a bound; differentiable."""

    def share(self, p: Tensor, **params: Tensor) -> Tensor:
        """`weight` over its sum in each row. Override where weights may overflow: their quotients need not."""
        return shares(self.weight(p, **params))

    def solve_tangent(self, p: Tensor, v: Tensor, **saved: Tensor) -> Tensor:
        return self.domain.project_tangent(self.weight(p, **saved), self.share(p, **saved), v)


class Special(SeparableMapping):
    """A mapping with its parameters fixed: ``base`` at ``constants``."""

    base: ClassVar[SeparableMapping]
    constants: ClassVar[dict[str, float]]

    def _fixed(self, like: Tensor) -> dict[str, Tensor]:
        return {name: like.new_full((), value) for name, value in self.constants.items()}

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        return self.base.omega(p, **self._fixed(p), **params)

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        return self.base.solve(z, **self._fixed(z), **params)

    def weight(self, p: Tensor, **params: Tensor) -> Tensor:
        return self.base.weight(p, **self._fixed(p), **params)

    def share(self, p: Tensor, **params: Tensor) -> Tensor:
        return self.base.share(p, **self._fixed(p), **params)

    def tau(self, threshold: Tensor, **params: Tensor) -> Tensor | None:
        return self.base.tau(threshold, **self._fixed(threshold), **params)
