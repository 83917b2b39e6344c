"""Laws of the public door: what is not an input is refused in three parts, and rows without a result are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import losses
from ..core.domains import Simplex
from ..core.errors import NumericalError, ParameterError, ShapeError
from ..core.settings import debug_checks
from .harness import Setting, law, require, require_close, require_raises
from .inputs import draw

ROWS, N = 3, 6


def _doors(setting: Setting, z: Tensor) -> dict[str, Callable[..., Tensor]]:
    """The mapping and its loss, both called with scores first."""
    target = setting(z).detach()

    def loss(z: Tensor, dim: int = -1, **keywords: object) -> Tensor:
        options = {**setting.values, **keywords}
        return losses.fenchel_young_loss(setting.mapping, z, target, dim, reduction="none", **options)

    return {"mapping": setting, "loss": loss}


@law(every_setting=False)
def foreign_arguments(setting: Setting) -> None:
    """Lists, text, complex numbers and tuples are refused with a message, never by an exception of somebody else;
    scalars of numpy are numbers.
    """
    z = draw("normal", ROWS, N)
    for where, door in _doors(setting, z).items():
        for what, scores in {"a list": z.tolist(), "None": None, "complex scores": z + 0j}.items():
            require_raises(lambda d=door, s=scores: d(s), ShapeError, f"{where}: {what}")
        for dim in (None, 1.0, (1,), "1", True):
            require_raises(lambda d=door, dim=dim: d(z, dim), ShapeError, f"{where}: dim={dim!r}")
        require_raises(lambda d=door: d(z, mask=[True] * N), ShapeError, f"{where}: a list as mask")
        for param in setting.mapping.params:
            value = setting.values[param.name]
            for strange in (str(value), [value], None, complex(value), torch.tensor(value) + 0j):
                require_raises(
                    lambda d=door, p=param.name, v=strange: d(z, **{p: v}),
                    ParameterError,
                    f"{where}: {param.name}={strange!r}",
                )
            for kind in (np.float32, np.float64, *([np.int64] if value == int(value) else [])):
                native = door(z, **{param.name: float(kind(value))})
                require_close(door(z, **{param.name: kind(value)}), native, 0.0, f"{where}: {param.name} of {kind}")
    foreign: tuple[Any, ...] = (setting(z).tolist(), setting(z) + 0j)
    for target in foreign:
        require_raises(
            lambda t=target: losses.fenchel_young_loss(setting.mapping, z, t, **setting.values), ShapeError, "target"
        )


@law(every_setting=False)
def spoilt_losses(setting: Setting) -> None:
    """A row that has no loss is NaN alone, in value and gradient: a NaN score, a parameter out of range, a class that
    does not exist. Rows without classes are refused.
    """
    z = draw("flat", ROWS, N)
    t = setting(draw("normal", ROWS, N)).detach()

    def check(z: Tensor, t: Tensor, what: str, **keywords: object) -> None:
        leaf = z.clone().requires_grad_()
        options = {**setting.values, **keywords}
        loss = losses.fenchel_young_loss(setting.mapping, leaf, t, reduction="none", **options)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        require(loss.isnan() == torch.tensor([False, True, False]), f"{what}: NaN in other rows than that")
        require(grad[1].isnan(), f"{what}: the gradient hides the NaN")
        require(grad[[0, 2]].isfinite(), f"{what}: gradient of other rows")
        with debug_checks(True):
            arguments = (setting.mapping, z, t)
            require_raises(lambda: losses.fenchel_young_loss(*arguments, **options), NumericalError, what)
            # Inside transforms nothing can be read: the check steps aside.
            torch.vmap(lambda row: losses.fenchel_young_loss(setting.mapping, row, t[0], **setting.values))(z)

    dirty = z.clone()
    dirty[1, 2] = float("nan")
    check(dirty, t, "a NaN score")
    if isinstance(setting.mapping.domain, Simplex):
        for missing in (N, -1, -100):
            check(z, torch.tensor([0, missing, 1]), f"class {missing} of {N}")
    for param in setting.mapping.params:
        seen = param.for_losses()
        outside = seen.low if seen.low_open else seen.low - 0.5
        column = torch.full((ROWS, 1), float(setting.values[param.name]), dtype=z.dtype)
        column[1] = outside
        check(z, t, f"{param.name}={outside}", **{param.name: column})
        options: dict[str, Any] = {**setting.values, param.name: outside}
        require_raises(
            lambda o=options: losses.fenchel_young_loss(setting.mapping, z, t, **o), ParameterError, f"{options}"
        )
    empty = torch.zeros(ROWS, 0)
    require_raises(
        lambda: losses.fenchel_young_loss(setting.mapping, empty, empty, **setting.values),
        (ShapeError, ParameterError),
        "no class",
    )


@law(every_setting=False)
def debugging(setting: Setting) -> None:
    """`debug_checks` raises where a row has no result, is silent where each has one, and steps aside in transforms."""
    z = draw("normal", ROWS, N)
    dirty = z.clone()
    dirty[1, 2] = float("nan")
    with debug_checks(True):
        require_close(setting(z), setting(z), 0.0, "with checks")
        require_raises(lambda: setting(dirty), NumericalError, "a NaN score")
        require_close(
            torch.vmap(setting)(dirty), torch.stack([_unchecked(setting, row) for row in dirty]), 1e-14, "vmap"
        )
        require_close(torch.func.jacrev(setting)(z[0]), torch.func.jacfwd(setting)(z[0]), 1e-12, "jacrev")
    require(setting(dirty)[1].isnan(), "the switch stays on after the block")


def _unchecked(setting: Setting, z: Tensor) -> Tensor:
    with debug_checks(False):
        return setting(z)


@law(every_setting=False)
def meta_tensors(setting: Setting) -> None:
    """On the meta device shapes and dtypes come out, of values, gradients and losses, without computing anything."""
    z = torch.zeros(ROWS, N, device="meta", requires_grad=True)
    p = setting(z)
    require(p.is_meta and p.shape == z.shape and p.dtype == z.dtype, "the result on the meta device")
    loss = losses.fenchel_young_loss(setting.mapping, z, p.detach(), **setting.values)
    (grad,) = torch.autograd.grad(loss + p.sum(), z)
    require(loss.shape == () and grad.is_meta and grad.shape == z.shape, "the gradient on the meta device")
