"""The same in other packages, for `tsallis bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..testing import Setting


def peers(setting: Setting, z: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """The same mapping in other packages, once for each way they offer to compute it; none if they have none."""
    name, values, found = setting.mapping.name, setting.values, []
    alpha = {"sparsemax": 2.0, "entmax15": 1.5, "entmax": values.get("alpha")}.get(name)
    if z.is_cuda and alpha is not None:
        found += _adasplash(alpha)
    try:
        import entmax as package
    except ImportError:
        return found
    partial_sorts = [None, *(k for k in (100, 500) if k < z.shape[-1])]
    known: dict[str, list[Callable[[Tensor], Tensor]]] = {
        "sparsemax": [lambda z, k=k: package.sparsemax(z, -1, k) for k in partial_sorts],
        "entmax15": [lambda z, k=k: package.entmax15(z, -1, k) for k in partial_sorts],
        "entmax": [lambda z: package.entmax_bisect(z, values["alpha"])],
        "normmax": [lambda z: package.normmax_bisect(z, values["alpha"])],
        "budget": [lambda z: package.budget_bisect(z, values["k"])] if values.get("alpha") == 2 else [],
    }
    return found + known.get(name, [])


@cache
def _adasplash(alpha: float) -> list[Callable[[Tensor], Tensor]]:
    """Its kernel, where that is right to 1e-3 in each row's sum on two strong scores over a flat background."""
    try:
        from adasplash import triton_entmax  # pyright: ignore[reportMissingImports]
    except ImportError:
        return []
    from ..testing import draw

    def call(steps: int) -> Callable[[Tensor], Tensor]:
        return lambda z: triton_entmax(z, alpha=alpha, n_iter=steps)

    z = draw("two_level", 16, 4096, dtype=torch.float32).cuda()
    good = [steps for steps in (2, 3, 5, 10, 20) if float((call(steps)(z).double().sum(-1) - 1).abs().max()) <= 1e-3]
    return [call(steps) for steps in good[:1]]


def runs(action: Callable[[], object]) -> bool:
    """Whether a package's way works here: some fail in half precision, or with other versions of Triton."""
    try:
        action()
    except Exception:  # noqa: BLE001 - anything may be wrong with what is not ours
        return False
    return True


def linear_peers(hidden: Tensor, weight: Tensor, target: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Fused output layers with cross-entropy in other packages, for GPUs."""
    if not hidden.is_cuda:
        return
    with suppress(ImportError):
        from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
            LigerFusedLinearCrossEntropyLoss,
        )

        liger = LigerFusedLinearCrossEntropyLoss()
        yield "Liger-Kernel", lambda: liger(weight, hidden, target)
    with suppress(ImportError):
        from cut_cross_entropy import linear_cross_entropy  # pyright: ignore[reportMissingImports]

        yield "cut-cross-entropy", lambda: linear_cross_entropy(hidden, weight, target)
