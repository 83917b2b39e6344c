"""Public functions that work with any registered mapping, by name."""

from __future__ import annotations

from torch import Tensor

from . import dispatch
from .mapping import Mapping
from .registry import get
from .status import Solution


def solve(
    mapping: str | Mapping,
    z: Tensor,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
    **params: object,
) -> Solution:
    """A mapping's result together with everything that certifies it.

    Args:
        mapping: a registered name, or a mapping.
        z: scores, (..., n) with n at `dim`.
        dim: the dimension the mapping works along.
        mask: boolean, broadcastable to z, True = keep.
        backend: name of the backend to use; None chooses.
        **params: the mapping's parameters.

    Returns:
        `Solution` with p, threshold, tau, support_size, residual, exact and result; all but p have the shape of z
        without `dim`.

    Raises:
        RegistryError: an unknown name.
        ParameterError, ShapeError: as the mapping itself.

    Differentiability:
        p as the mapping; the other fields are constants.

    Complexity:
        the mapping's, plus two passes.

    Example:
        >>> import torch, tsallis as ts
        >>> s = ts.solve("entmax", torch.tensor([-1.0, 0.0, 0.5, 1.2]), alpha=2.0)
        >>> s.p, s.threshold, s.support_size
        (tensor([0.0000, 0.0000, 0.1500, 0.8500]), tensor(1.3500), tensor(2))
        >>> print(s.result)
        1 rows: solved
    """
    return get(mapping).solution(z, dim, mask=mask, backend=backend, **params)


class Explanation(tuple[dispatch.Decision, ...]):
    """The table of decisions; prints as one line per backend."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(f"{'->' if d.chosen else '  '} {d.backend:<12} {d.reason}" for d in self)


def explain_backend(
    mapping: str | Mapping,
    z: Tensor,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
    **params: object,
) -> Explanation:
    """Which backend would serve this call, and why each of the others would not.

    Arguments as in `solve`; a parameter without a default may be left out.

    Example:
        >>> import torch, tsallis as ts
        >>> print(ts.explain_backend("softmax", torch.zeros(3)))
        -> torch        highest priority that supports the call
           reference    torch comes first
    """
    found = get(mapping)
    stand_ins = {p.name: p.stand_in for p in found.params if p.default is None} | params
    rows, values = found.prepare(z, dim, mask, stand_ins)
    _, table = dispatch.decide(found.name, dispatch.Signature.of(rows, *values), backend)
    return Explanation(table)
