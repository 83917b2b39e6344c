"""Nested function transforms of every order and direction, eager, on the operator, and inside compiled code."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core import registry
from tsallis.core.implicit import operator
from tsallis.testing.gradients import smooth_scores
from tsallis.testing.harness import settings

MODES = {"reverse": torch.func.jacrev, "forward": torch.func.jacfwd}
W = torch.tensor([1.0, -0.5, 0.3, 2.0, -1.0], dtype=torch.float64)


def _functions(name: str) -> dict:
    setting = next(settings(registry.get(name)))
    values = {k: torch.tensor(v, dtype=torch.float64) for k, v in setting.values.items()}
    names = list(values)

    def eager(z: Tensor, *rest: Tensor) -> Tensor:
        return (setting(z, **dict(zip(names, rest, strict=True))).square() * W).sum()

    def op(z: Tensor, *rest: Tensor) -> Tensor:
        return (operator(name)(z, *rest)[0].square() * W).sum()

    def loss(z: Tensor, *rest: Tensor) -> Tensor:
        t = W.softmax(-1) * setting(z.detach()).sum()
        return ts.fenchel_young_loss(name, z, t, **dict(zip(names, rest, strict=True))).square()

    # Second derivatives with respect to a selection do not exist; it stays a constant.
    differentiable = tuple(range(1 + len(names))) if setting.differentiable() == names else (0,)
    return {
        "eager": eager,
        "operator": op,
        "loss": loss,
        "at": (smooth_scores(setting, 1)[0], *values.values()),
        "argnums": differentiable,
    }


@pytest.mark.parametrize("kind", ["eager", "operator", "loss"])
@pytest.mark.parametrize("name", registry.names())
def test_second_order_in_every_direction(name: str, kind: str) -> None:
    made = _functions(name)
    z, argnums = made["at"], made["argnums"]
    results = []
    for outer, inner in itertools.product(MODES.values(), repeat=2):
        nested = outer(inner(made[kind], argnums=argnums), argnums=argnums)(*z)
        results.append(torch.cat([x.reshape(-1) for row in nested for x in row]))
    assert results[0].abs().max() > 1e-3
    for result in results[1:]:
        assert torch.allclose(result, results[0], atol=1e-11)


@pytest.mark.parametrize("kind", ["eager", "operator", "loss"])
def test_third_order_in_every_direction(kind: str) -> None:
    made = _functions("entmax")
    results = [a(b(c(made[kind])))(*made["at"]) for a, b, c in itertools.product(MODES.values(), repeat=3)]
    assert results[0].abs().max() > 1e-3
    for result in results[1:]:
        assert torch.allclose(result, results[0], atol=1e-11)


TRANSFORMS = {
    "jvp": lambda f: lambda z: torch.func.jvp(f, (z,), (W.expand_as(z),))[1],
    "grad": lambda f: torch.func.grad(lambda z: f(z).sum()),
    "jacrev": torch.func.jacrev,
    "jacfwd": torch.func.jacfwd,
    "hessian": lambda f: torch.func.hessian(lambda z: f(z).square().sum()),
    "vmap": torch.vmap,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "function", [ts.entmax15, lambda z: ts.entmax(z, torch.tensor(1.3, dtype=z.dtype))], ids=["entmax15", "entmax"]
)
def test_transforms_inside_compiled_code(function, transform: str) -> None:
    """What torch traces must equal eager, or raise: a dropped derivative would be silent."""
    torch.compiler.reset()
    z = torch.randn(3, 5, dtype=torch.float64) * 0.3
    work = TRANSFORMS[transform](function)
    assert torch.allclose(torch.compile(work, fullgraph=True, backend="aot_eager")(z), work(z), atol=1e-12)
    torch.compiler.reset()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_loss_transforms_inside_compiled_code(transform: str) -> None:
    """Dynamo refuses some transforms of an autograd.Function. It may: what it may not is drop a derivative silently."""
    torch.compiler.reset()
    z = torch.randn(3, 5, dtype=torch.float64) * 0.3
    t = torch.softmax(torch.randn(5, dtype=torch.float64), -1)
    work = TRANSFORMS[transform](lambda z: ts.fenchel_young_loss("entmax15", z, t.expand_as(z), reduction="none"))
    try:
        compiled = torch.compile(work, fullgraph=True, backend="aot_eager")(z)
    except (RuntimeError, TypeError, AttributeError):
        assert transform != "grad"
    else:
        assert torch.allclose(compiled, work(z), atol=1e-12)
    torch.compiler.reset()


def test_vmap_over_losses() -> None:
    z, y = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    together = ts.entmax_loss(z, y, 1.4, reduction="none")
    assert torch.allclose(torch.vmap(lambda z, y: ts.entmax_loss(z, y, 1.4))(z, y), together)
    alpha = torch.tensor([1.1, 1.4, 1.7, 2.0], dtype=torch.float64)
    per_row = torch.vmap(lambda z, y, a: ts.entmax_loss(z, y, a))(z, y, alpha)
    assert torch.allclose(per_row, ts.entmax_loss(z, y, alpha, reduction="none"))
    grads = torch.vmap(torch.func.grad(lambda z, y, a: ts.entmax_loss(z, y, a), argnums=(0, 2)))(z, y, alpha)
    assert torch.allclose(grads[0], torch.vmap(ts.entmax)(z, alpha) - torch.nn.functional.one_hot(y, 6))
    assert (grads[1] < 0).all()
