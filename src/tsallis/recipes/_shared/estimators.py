"""Estimators of `tsallis.latent` by the names that options and tables give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core import registry
from ...core.domains import Simplex
from ...latent import (
    NVIL,
    Estimator,
    Expectation,
    GumbelSoftmax,
    Marginal,
    ScoreFunction,
    SparseMAP,
    SparseMixer,
    SumAndSample,
    TopKSparsemax,
    expectation,
)  # fmt: skip
from ...latent.latents import Kind
from ...structured import Bits, Budget


@dataclass(frozen=True)
class Choice:
    """What estimators are made from; each takes what it needs.

    Attributes:
        kind: of latent variable.
        inputs: width of the examples that a learned baseline sees.
        rate: at which the temperature of a relaxation falls.
        k: how many values are summed exactly, or bit vectors looked at.
        bits: how many there are.
        init: where SparseMAP starts.
    """

    kind: Kind
    inputs: int = 0
    rate: float = 0.0
    k: int = 1
    bits: int = 0
    init: Literal["map", "random"] = "map"


def _network(choice: Choice) -> nn.Module:
    widths = [choice.inputs, 512, 512, 512]
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], 1))


_BOTH: dict[str, Callable[[Choice], Estimator]] = {
    "sfe": lambda c: ScoreFunction("running", latent=c.kind),
    "sfe+": lambda c: ScoreFunction("sample", latent=c.kind),
    "rloo": lambda c: ScoreFunction("leave-one-out", latent=c.kind),
    "nvil": lambda c: NVIL(_network(c), latent=c.kind),
    "gumbel": lambda c: GumbelSoftmax(rate=c.rate, latent=c.kind),
    "st-gumbel": lambda c: GumbelSoftmax(True, rate=c.rate, latent=c.kind),
}
_OWN: dict[Kind, dict[str, Callable[[Choice], Estimator]]] = {
    "categories": {"sum-and-sample": lambda c: SumAndSample(c.k), "sparsemixer": lambda c: SparseMixer()},
    "bits": {
        "st-map": lambda c: GumbelSoftmax("map", rate=c.rate, latent=c.kind),
        "topk-sparsemax": lambda c: TopKSparsemax(c.k, grow=False),
        "sparsemap": lambda c: SparseMAP(Bits(c.bits, geometry="onoff"), init=c.init),
        "sparsemap-budget": lambda c: SparseMAP(Budget(c.bits, c.bits // 2, geometry="onoff"), init=c.init),
    },
}


def names(kind: Kind) -> list[str]:
    """All estimators for this kind of latent variable; mappings onto the simplex stand for exact marginalization."""
    own = [*_BOTH, *_OWN[kind]]
    if kind == "bits":
        return own
    known = [registry.get(name) for name in registry.names()]
    simplex = [m.name for m in known if isinstance(m.domain, Simplex) and all(p.default is not None for p in m.params)]
    return [*simplex, *own]


def distribution(name: str, kind: Kind) -> str:
    """The mapping from scores of categories to the distribution in use: one that samples does so from softmax."""
    return "softmax" if name in {**_BOTH, **_OWN[kind]} else name


class Named(nn.Module):
    """An estimator by name, as a part of a model: what it learns is saved with it.

    Random starts of SparseMAP are drawn from a generator that is seeded by torch's own, so that a run which is resumed
    draws what it would have drawn.
    """

    def __init__(self, name: str, choice: Choice) -> None:
        super().__init__()
        made = {**_BOTH, **_OWN[choice.kind]}
        self.method: Estimator = made[name](choice) if name in made else Marginal(name)
        self._random = isinstance(self.method, SparseMAP) and self.method.init == "random"

    def forward(self, scores: Tensor, loss_fn: Any, *, x: Tensor | None = None, **options: Any) -> Expectation:
        """`expectation` with this estimator, for the examples x."""
        method = self.method if x is None else self.method.given(x)
        if self._random:
            options["generator"] = torch.Generator(scores.device).manual_seed(int(torch.randint(2**62, ())))
        return expectation(scores, loss_fn, method, **options)
