"""Dropout by 16 random bits an entry."""

from __future__ import annotations

import math

import pytest
import torch

import tsallis as ts
from tsallis.core.dropping import dropped, factors
from tsallis.nn.dropout import Dropout


@pytest.fixture
def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_share_is_dropped_and_the_mean_stays(p, dtype, draws) -> None:
    n = 200_003
    found = factors(torch.empty(n, dtype=dtype), p, draws)
    kept = found != 0
    # Also of each of the four numbers that come from one of 64 bits.
    for part in (kept, *(kept[i::4] for i in range(4))):
        deviation = math.sqrt(p * (1 - p) / len(part))
        assert abs(part.double().mean() - (1 - p)) < 5 * deviation
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / (1 - p)), rtol=1e-2, atol=0)


def test_entries_are_dropped_independently(draws) -> None:
    kept = (factors(torch.empty(100_000, 4), 0.5, draws) != 0).double()
    for shifted in (kept.roll(1, 0), kept.roll(1, 1), kept.roll(2, 1)):
        assert abs(((kept - 0.5) * (shifted - 0.5)).mean()) < 5 * 0.25 / math.sqrt(kept.numel())


def test_ends() -> None:
    x = torch.randn(3, 5)
    assert torch.equal(dropped(x, 0.0), x)
    assert not dropped(x, 1.0).any()
    # Nearer to 1 or 0 than a half of 2^-16 is 1 or 0: nothing is infinite.
    assert not dropped(x, 1 - 1e-9).any()
    assert torch.equal(dropped(x, 1e-9), x)
    assert dropped(torch.empty(0, 3), 0.5).shape == (0, 3)
    assert dropped(torch.tensor(2.0), 0.5) in (0.0, 4.0)


@pytest.mark.parametrize("lost", [2.6, 3.4])
def test_what_is_kept_is_divided_by_the_rounded_share(lost: float, draws) -> None:
    found = factors(torch.empty(500_000, dtype=torch.float64), 1 - lost / 2**16, draws)
    assert found.unique().tolist() == [0, 2**16 / 3]


def test_a_default_device_is_not_where_numbers_are_drawn() -> None:
    x = torch.ones(10)
    q = torch.ones(1, 1, 3, 8)
    with torch.device("meta"):
        assert dropped(x, 0.5).device == x.device
        assert ts.entmax_attention(q, q, q, dropout_p=0.5).device == x.device


@pytest.mark.parametrize("kind", [ts.nn.TransformerEncoderLayer, ts.nn.TransformerDecoderLayer])
def test_layers_drop_their_share(kind) -> None:
    names = [name for name, _ in kind(8, 2, 16, 0.3).named_children() if name.startswith("dropout")]
    layer = kind(8, 2, 16, 0.3)
    assert len(names) == (3 if kind is ts.nn.TransformerEncoderLayer else 4)
    assert all(isinstance(getattr(layer, name), Dropout) and getattr(layer, name).p == 0.3 for name in names)


def test_the_same_seed_drops_the_same() -> None:
    x = torch.randn(1001)
    first, second = (dropped(x, 0.5) for _ in range(2) if torch.manual_seed(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, dropped(x, 0.5))


def test_gradients_are_those_of_what_was_kept() -> None:
    x = torch.randn(7, 9, dtype=torch.float64, requires_grad=True)
    y = dropped(x, 0.4) ** 3
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    factor = torch.where(y == 0, 0.0, (y.detach() / x.detach() ** 3) ** (1 / 3))
    torch.testing.assert_close(g, 3 * factor**3 * x**2)
    (h,) = torch.autograd.grad(g.sum(), x)
    torch.testing.assert_close(h, 6 * factor**3 * x)


def test_the_module_drops_in_training_only() -> None:
    layer, x = Dropout(0.5), torch.ones(100)
    assert set(layer(x).tolist()) == {0.0, 2.0}
    assert layer.eval()(x) is x


def test_the_module_is_otherwise_that_of_pytorch() -> None:
    x = torch.ones(100)
    assert Dropout(0.5, inplace=True)(x) is x
    assert set(x.tolist()) == {0.0, 2.0}
    layer = Dropout(0.5)
    layer.p = 1.5
    with pytest.raises(ValueError, match="between 0 and 1"):
        layer(x)


def test_in_transforms_and_in_compiled_programs() -> None:
    x = torch.ones(4, 50)
    mapped = torch.vmap(lambda row: dropped(row, 0.5), randomness="different")(x)
    made = torch.compile(lambda x: dropped(x, 0.5), backend="aot_eager", fullgraph=True)(x)
    for found in (mapped, made):
        assert set(found.flatten().tolist()) == {0.0, 2.0}
