"""The loss of pixels, against cross-entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tsallis.recipes.bitvector_vae import pixels
from tsallis.recipes.bitvector_vae.pixels import pixel_loss


def _pixels(rows: int, dtype: torch.dtype = torch.float64, scale: float = 1.0):
    torch.manual_seed(2)
    a, w, c = (torch.randn(s, dtype=torch.float64).mul(scale).to(dtype) for s in ((rows, 7, 3), (9, 3), (9,)))
    return [t.requires_grad_() for t in (a, w, c)], torch.randint(0, 9, (rows, 7))


@pytest.mark.parametrize("chunk", [1, 8 * 7 * 9 * 2, 2**21])  # a row, two, all of them
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_loss_of_pixels_is_cross_entropy(chunk: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "CHUNK", chunk)
    leaves, x = _pixels(5, scale=scale)
    g = torch.tensor([0.3, -1.0, 0.0, 2.0, 1.0], dtype=torch.float64)
    losses = pixel_loss(*leaves, x)
    scores = F.linear(*leaves)
    wanted = F.cross_entropy(scores.flatten(0, 1), x.flatten(), reduction="none").reshape(5, 7).sum(1)
    assert torch.allclose(losses, wanted, rtol=1e-9, atol=1e-9)
    for got, right in zip(
        torch.autograd.grad(losses @ g, leaves), torch.autograd.grad(wanted @ g, leaves), strict=True
    ):
        assert torch.allclose(got, right, rtol=1e-9, atol=1e-9)
        assert right.abs().max() > 0.1
    with torch.no_grad():
        assert torch.allclose(pixel_loss(*leaves, x), losses, rtol=1e-12)
    # Some of the three, others fixed.
    fixed = [leaves[0].detach(), leaves[1], leaves[2].detach()]
    (alone,) = torch.autograd.grad(pixel_loss(*fixed, x) @ g, leaves[1])
    assert torch.allclose(alone, torch.autograd.grad(pixel_loss(*leaves, x) @ g, leaves[1])[0])


def test_the_loss_of_pixels_in_other_dtypes_and_of_no_row() -> None:
    leaves, x = _pixels(4)
    exact = pixel_loss(*leaves, x)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-1)):
        low = pixel_loss(*(t.detach().to(dtype) for t in leaves), x)
        assert low.dtype == torch.float32
        assert torch.allclose(low.double(), exact, rtol=tolerance)
    single = [t.detach().float().requires_grad_() for t in leaves]
    outside = pixel_loss(*single, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pixel_loss(*single, x), outside)
    nothing, x = _pixels(0)
    losses = pixel_loss(*nothing, x)
    assert losses.shape == (0,)
    assert all(not bool(g.any()) for g in torch.autograd.grad(losses.sum(), nothing))


def test_the_loss_of_pixels_twice() -> None:
    leaves, x = _pixels(3)

    def penalty(losses: torch.Tensor) -> torch.Tensor:
        slopes = torch.autograd.grad(losses.square().sum(), leaves, create_graph=True)
        return sum((slope.square().sum() for slope in slopes), losses.sum())

    wanted = F.cross_entropy(F.linear(*leaves).flatten(0, 1), x.flatten(), reduction="none").reshape(3, 7).sum(1)
    right = torch.autograd.grad(penalty(wanted), leaves)
    for got, expected in zip(torch.autograd.grad(penalty(pixel_loss(*leaves, x)), leaves), right, strict=True):
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_a_row_that_is_not_finite_is_alone() -> None:
    leaves, x = _pixels(3)
    a = leaves[0].detach().clone()
    a[1, 2] = torch.nan
    losses = pixel_loss(a, *leaves[1:], x)
    assert losses.isnan().tolist() == [False, True, False]
    assert torch.allclose(losses[::2], pixel_loss(*leaves, x)[::2])
