"""Modules: what they hold, how they travel, and that they compute what the functions do."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import tsallis as ts
from tsallis.core import registry
from tsallis.core.errors import ParameterError
from tsallis.nn import module_class
from tsallis.testing.harness import settings


def _all_settings() -> list:
    return [pytest.param(s, id=f"{n}-{s}") for n in registry.names() for s in settings(registry.get(n))]


@pytest.mark.parametrize("setting", _all_settings())
def test_module_equals_function(setting) -> None:
    z = torch.randn(4, 6)
    mask = torch.rand(4, 6) > 0.2
    mask[:, :4] = True
    module = module_class(setting.mapping.name)(**setting.values)
    assert torch.equal(module(z), setting(z))
    assert torch.equal(module(z, mask), setting(z, mask=mask))
    assert torch.equal(module_class(setting.mapping.name)(dim=0, **setting.values)(z), setting(z, 0))


def _travel(module: nn.Module) -> list[nn.Module]:
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    return [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(stream, weights_only=False)]


@pytest.mark.parametrize("kind", ["float", "buffer", "parameter", "alpha"])
def test_every_kind_of_alpha_travels(kind: str) -> None:
    alpha = {
        "float": 1.7,
        "buffer": torch.tensor([[1.2], [1.8]]),
        "parameter": nn.Parameter(torch.tensor([[1.2], [1.8]])),
        "alpha": ts.nn.Alpha(1.7, shape=(2, 1)),
    }[kind]
    module = nn.Sequential(ts.nn.Entmax(alpha=alpha))
    z = torch.randn(2, 5)
    for other in _travel(module):
        assert torch.equal(other(z), module(z))
        assert type(other[0]) is ts.nn.Entmax
        assert [n for n, _ in other.named_parameters()] == [n for n, _ in module.named_parameters()]
    state = module.state_dict()
    assert (
        list(state) == {"float": [], "buffer": ["0.alpha"], "parameter": ["0.alpha"], "alpha": ["0.alpha.theta"]}[kind]
    )
    fresh = copy.deepcopy(module)
    with torch.no_grad():
        for value in fresh.state_dict().values():
            value.add_(0.1)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(z), module(z))
    assert all(t.dtype == torch.float64 for t in module.double().state_dict().values())
    assert all(t.is_meta for t in copy.deepcopy(module).to("meta").state_dict().values())


def test_learning_alpha_changes_it() -> None:
    torch.manual_seed(1)
    module = ts.nn.Entmax(alpha=ts.nn.Alpha(1.3))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.2)
    z = torch.tensor([0.0, 0.4, 1.0])
    first = (module(z) > 0).sum()
    for _ in range(30):
        optimizer.zero_grad()
        (module(z)[0] ** 2 + (module(z)[2] - 0.8) ** 2).backward()
        optimizer.step()
    assert (module(z) > 0).sum() < first
    assert 1.0 < float(module.alpha().detach()) < 2.0


def test_alpha_ends_and_errors() -> None:
    for init in (1.0, 2.0):
        value = float(ts.nn.Alpha(init)().detach())
        assert 0 < abs(value - init) < 2e-4
    assert ts.nn.Alpha(1.5, shape=(4, 1, 1))().shape == (4, 1, 1)
    assert float(ts.nn.Alpha(3.0, low=2.0, high=4.0)().detach()) == pytest.approx(3.0)
    for bad in ({"init": 2.5}, {"low": 2.0, "high": 2.0}, {"low": -1.0}, {"high": float("inf")}):
        with pytest.raises(ParameterError, match="Expected"):
            ts.nn.Alpha(**bad)


def test_errors_name_the_parameter() -> None:
    with pytest.raises(ParameterError, match="k in"):
        ts.nn.Budget()
    for made in (ts.nn.Entmax, lambda **params: ts.nn.FenchelYoungLoss("entmax", **params)):
        with pytest.raises(ParameterError, match="'beta'"):
            made(beta=1.0)
    with pytest.raises(ParameterError, match="k in"):
        ts.nn.FenchelYoungLoss("budget")
    with pytest.raises(ParameterError, match=r"nn\.Parameter"):
        ts.nn.Entmax(alpha=torch.tensor(1.5, requires_grad=True))


def test_loss_modules() -> None:
    z, y = torch.randn(5, 4), torch.tensor([0, 3, 1, -100, 2])
    weight = torch.rand(4)
    module = ts.nn.EntmaxLoss(alpha=ts.nn.Alpha(1.4), weight=weight, label_smoothing=0.1, reduction="sum")
    expected = ts.entmax_loss(z, y, module.alpha(), weight=weight, label_smoothing=0.1, reduction="sum")
    assert torch.equal(module(z, y), expected)
    assert set(module.state_dict()) == {"alpha.theta", "weight"}
    for other in _travel(module):
        assert torch.equal(other(z, y), module(z, y))
    module(z, y).backward()
    assert module.alpha.theta.grad != 0
    t = ts.budget(torch.randn(5, 4), 2.0)
    assert torch.equal(ts.nn.FenchelYoungLoss("budget", k=2.0)(z, t), ts.fenchel_young_loss("budget", z, t, k=2.0))
    assert "alpha=1.2" in repr(ts.nn.EntmaxLoss(1.2))
    assert "normmax" in repr(ts.nn.FenchelYoungLoss("normmax"))
    assert "dim=-1" in repr(ts.nn.Sparsemax())
