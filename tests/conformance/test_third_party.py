"""A mapping written by the public protocol in one file: everything else is derived from its registration."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core import registry
from tsallis.core.domains import Box
from tsallis.core.mapping import SeparableMapping, Solved
from tsallis.core.params import Param
from tsallis.testing import LAWS, check
from tsallis.testing.harness import settings


class BoxProjection(SeparableMapping):
    name = "box_projection"
    summary = "Projection onto the unit box, entry by entry."
    latex = r"\tfrac12 \|p\|_2^2"
    domain = Box()

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        return p.square().sum(-1) / 2

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        return Solved(z.clamp(0, 1))

    def weight(self, p: Tensor, **params: Tensor) -> Tensor:
        return ((p > 0) & (p < 1)).to(p.dtype)


class ScaledBox(BoxProjection):
    """The same with a temperature in Omega, and with a Jacobian that needs what only the solver knows."""

    name = "scaled_box"
    latex = r"\tfrac{s}{2} \|p\|_2^2"
    params = (Param("s", 1.0, low=0.0, low_open=True, meaning="curvature"),)
    residuals = ("inside",)

    def omega(self, p: Tensor, **params: Tensor) -> Tensor:
        return (params["s"] * p.square() / 2).sum(-1)

    def solve(self, z: Tensor, **params: Tensor) -> Solved:
        p = z / params["s"]
        return Solved(p.clamp(0, 1), None, (((p > 0) & (p < 1)).to(z.dtype),))

    def weight(self, p: Tensor, **saved: Tensor) -> Tensor:
        return saved["inside"] / saved["s"]

    def grad_omega_param(self, p: Tensor, **saved: Tensor) -> dict[str, Tensor]:
        return {"s": p}


@pytest.fixture(params=[BoxProjection, ScaledBox], ids=lambda c: c.name)
def mapping(request: pytest.FixtureRequest) -> Iterator[SeparableMapping]:
    with registry.registered(request.param()) as registered:
        yield registered


def test_it_passes_the_whole_suite(mapping: SeparableMapping) -> None:
    reports = list(check(mapping))
    assert {r.law for r in reports} == set(LAWS)
    assert [r for r in reports if r.failure is not None] == []


def test_its_loss_appears(mapping: SeparableMapping) -> None:
    z = torch.randn(3, 4, requires_grad=True)
    target = torch.rand(3, 4)
    loss = ts.fenchel_young_loss(mapping.name, z, target)
    loss.backward()
    assert torch.allclose(z.grad, (z.detach().clamp(0, 1) - target) / 3, atol=1e-6)


def test_its_module_appears(mapping: SeparableMapping) -> None:
    module = getattr(ts.nn, "".join(word.capitalize() for word in mapping.name.split("_")))()
    z = torch.randn(3, 4)
    assert torch.equal(pickle.loads(pickle.dumps(module))(z), z.clamp(0, 1))


def test_its_documentation_row_appears(mapping: SeparableMapping) -> None:
    from docs.gen_mappings import page

    assert mapping.name in page()
    assert mapping.summary in page()


def test_its_benchmark_appears(mapping: SeparableMapping, capsys: pytest.CaptureFixture[str]) -> None:
    from tsallis.cli.main import main

    assert main(["bench", "mappings", "--mapping", mapping.name, "--shape", "8x8", "--seconds", "0"]) == 0
    assert mapping.name in capsys.readouterr().out


def test_registration_is_the_only_line() -> None:
    with pytest.raises(ts.core.errors.RegistryError, match="box_projection"):
        registry.get("box_projection")
    with registry.registered(BoxProjection()):
        with pytest.raises(ts.core.errors.RegistryError, match="twice"):
            registry.register(BoxProjection())
        assert next(settings(registry.get("box_projection"))).values == {}
    assert "box_projection" not in registry.names()
    assert (
        subprocess.run(
            [sys.executable, "-c", "import tsallis; tsallis.nn.BoxProjection"], capture_output=True
        ).returncode
        == 1
    )
