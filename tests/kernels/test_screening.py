"""Candidates from half precision: the support they lead to is that of the full scores, word by word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core import dispatch
from tsallis.core.dispatch import Lists
from tsallis.testing.layers import draw_layer

pytest.importorskip("numba")


def _support_without_screening(hidden: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(starts, places) of lists that are made of all words, with the same products."""
    from tsallis.kernels.output_layer import Kept, OutputLayer

    layer = dispatch.sparse_layer("entmax", hidden, "cpu")
    assert isinstance(layer, OutputLayer)
    n, words = len(hidden), len(weight)
    everything = Kept.nothing(hidden, words, 16)
    everything.places[:] = torch.arange(words + 16)
    everything.counts[:] = words
    index = torch.zeros(n, dtype=torch.int64)
    lists = layer.finished(everything, hidden, weight, None, index, [alpha], 1.0, False, True)
    return lists.starts, lists.places


def _cases(count: int) -> list[tuple[Tensor, Tensor, float]]:
    cases = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        words, width = 2048 + seed % 700, 8 + seed % 60
        hidden, weight, _ = draw_layer(6, width, words, (2, 10, 60, 300)[seed % 4], 1.5, seed)
        kind = seed // 4 % 5
        if kind == 1:
            # Neighbours that half precision cannot tell apart.
            weight[1::2] = weight[: words - words % 2 : 2][: len(weight[1::2])] * (1 + 1e-4)
        elif kind == 2:
            # All words at nearly the distance from the best one where they stop to count.
            weight = weight[:1] * 0.9 + 1e-3 * torch.randn(words, width, generator=generator)
        elif kind == 3:
            weight *= 10.0 ** torch.randint(-3, 3, (words, 1), generator=generator)
            hidden *= 0.1
        elif kind == 4:
            weight[:, 0] += 100.0
            hidden[:, 0] = torch.randn(6, generator=generator)
        cases.append((hidden, weight, (1.3, 1.5, 1.7, 2.0)[seed % 4]))
    return cases


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.full)])
def test_screening_finds_the_support(count: int) -> None:
    """Word by word that of the full scores, but for words whose exact probability is below 1e-12."""
    screened = 0
    for number, (hidden, weight, alpha) in enumerate(_cases(count)):
        layer = dispatch.sparse_layer("entmax", hidden, "cpu")
        assert layer is not None
        index = torch.zeros(len(hidden), dtype=torch.int64)
        found = layer.lists(hidden, weight, None, index, [alpha], 1.0, False, True)
        if not isinstance(found, Lists):
            continue
        screened += 1
        starts, places = _support_without_screening(hidden, weight, alpha)
        if torch.equal(found.starts, starts) and torch.equal(found.places, places):
            continue
        # Solving more entries may round the threshold otherwise: words within that rounding have no say.
        exact = ts.entmax(hidden.double() @ weight.double().t(), alpha, backend="reference")
        for r in range(len(hidden)):
            one = set(found.places[found.starts[r] : found.starts[r + 1] - 1].tolist())
            other = set(places[starts[r] : starts[r + 1] - 1].tolist())
            assert all(float(exact[r, word]) <= 1e-12 for word in one ^ other), number
    assert screened > count / 2
