"""Generalised cross-entropy: `torch.nn.functional.cross_entropy` at alpha = 1, and what other packages get wrong
elsewhere.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError

D = torch.float64
LOSSES = {
    "softmax": lambda z, y, **k: ts.entmax_loss(z, y, 1.0, **k),
    "entmax 1.3": lambda z, y, **k: ts.entmax_loss(z, y, 1.3, **k),
    "entmax15": ts.entmax15_loss,
    "sparsemax": ts.sparsemax_loss,
}
MAPS = {
    "softmax": ts.softmax,
    "entmax 1.3": lambda z: ts.entmax(z, 1.3),
    "entmax15": ts.entmax15,
    "sparsemax": ts.sparsemax,
}
each = pytest.mark.parametrize("name", LOSSES)


@pytest.mark.parametrize("shape", [(5,), (6, 5), (3, 5, 4), (2, 5, 3, 2)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["index", "probability"])
def test_alpha_one_is_cross_entropy(shape, weighted: bool, smoothing: float, reduction: str, kind: str) -> None:
    z = torch.randn(shape, dtype=D, requires_grad=True)
    batch = shape[:1] + shape[2:] if len(shape) > 1 else ()
    y = torch.rand(shape, dtype=D) if kind == "probability" else torch.randint(5, batch)
    if kind == "index" and len(batch):
        y.view(-1)[0] = -100
    options = {
        "weight": torch.rand(5, dtype=D) if weighted else None,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    ours, theirs = ts.entmax_loss(z, y, 1.0, **options), F.cross_entropy(z, y, **options)
    assert torch.allclose(ours, theirs, atol=1e-13)
    for a, b in zip(torch.autograd.grad(ours.sum(), z), torch.autograd.grad(theirs.sum(), z), strict=True):
        assert torch.allclose(a, b, atol=1e-13)


@each
def test_gradient_is_p_minus_target_and_hessian_is_the_jacobian(name: str) -> None:
    z = 0.3 * torch.randn(4, 5, dtype=D)
    y = torch.tensor([0, 1, 2, 3])
    grad = torch.func.grad(lambda z: LOSSES[name](z, y, reduction="sum"))(z)
    assert torch.allclose(grad, MAPS[name](z) - F.one_hot(y, 5), atol=1e-13)
    hessian = torch.func.hessian(lambda r: LOSSES[name](r, y[0]))(z[0])
    assert torch.allclose(hessian, torch.func.jacrev(MAPS[name])(z[0]), atol=1e-12)
    assert hessian.abs().max() > 1e-3


@each
def test_it_is_the_fenchel_young_loss_for_class_indices(name: str) -> None:
    z, y = torch.randn(6, 5, dtype=D), torch.randint(5, (6,))
    mapping, params = ("entmax", {"alpha": 1.3}) if name == "entmax 1.3" else (name, {})
    expected = ts.fenchel_young_loss(mapping, z, y, reduction="none", **params)
    assert torch.allclose(LOSSES[name](z, y, reduction="none"), expected, atol=1e-13)
    t = torch.softmax(torch.randn(6, 5, dtype=D), -1)
    entropy = LOSSES[name](z, t, reduction="none") - ts.fenchel_young_loss(mapping, z, t, reduction="none", **params)
    assert torch.allclose(
        entropy,
        LOSSES[name](z + 5, t, reduction="none") - ts.fenchel_young_loss(mapping, z + 5, t, reduction="none", **params),
    )
    assert (entropy > 0).all()


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
def test_margin(alpha: float) -> None:
    """The loss is exactly zero from a margin of 1/(alpha - 1) on, and positive just inside."""
    margin = 1 / (alpha - 1)
    for gap, zero in ((margin * 1.001, True), (margin * 0.99, False)):
        loss = ts.entmax_loss(torch.tensor([[0.0, gap, 0.0]], dtype=D), torch.tensor([1]), alpha)
        assert (float(loss) == 0) is zero


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_never_negative(name: str, dtype: torch.dtype) -> None:
    z = (torch.randn(500, 40) * torch.logspace(-3, 2, 500)[:, None]).to(dtype)
    z[:, 3] += torch.linspace(-5, 50, 500).to(dtype)
    loss = LOSSES[name](z, torch.full((500,), 3), reduction="none")
    assert (loss >= 0).all()
    assert loss.dtype == dtype
    assert loss.isfinite().all()


@each
def test_infinite_logits(name: str) -> None:
    z = torch.randn(3, 5, dtype=D)
    z[0, 1] = z[1, 1] = float("-inf")
    z.requires_grad_()
    loss = LOSSES[name](z, torch.tensor([0, 1, 2]), reduction="none")
    assert loss.isfinite().tolist() == [True, False, True]
    assert loss[1] == torch.inf
    (grad,) = torch.autograd.grad(loss[0], z)
    assert grad.isfinite().all()
    assert grad[0, 1] == 0
    smoothed = LOSSES[name](z, torch.tensor([0, 0, 2]), label_smoothing=0.2, reduction="none")
    assert smoothed.isfinite().all()
    alone = LOSSES[name](z[:1, [0, 2, 3, 4]], torch.tensor([0]), label_smoothing=0.2)
    assert torch.allclose(smoothed[0], alone)


@each
@pytest.mark.parametrize("ignore_index", [-100, -1, 3])
def test_ignore_index(name: str, ignore_index: int) -> None:
    z = torch.randn(4, 5, dtype=D)
    z[2] = float("nan")  # the logits of an ignored target are never read
    z.requires_grad_()
    y = torch.tensor([0, 1, ignore_index, 4])
    loss = LOSSES[name](z, y, ignore_index=ignore_index)
    keep = torch.tensor([0, 1, 3])
    assert torch.allclose(loss, LOSSES[name](z.detach()[keep], y[keep]))
    (grad,) = torch.autograd.grad(loss, z)
    assert (grad[2] == 0).all()
    assert grad[keep].abs().sum() > 0
    assert LOSSES[name](z, y, ignore_index=ignore_index, reduction="none")[2] == 0
    everything = LOSSES[name](z, torch.full((4,), ignore_index), ignore_index=ignore_index)
    assert everything.isnan()
    assert LOSSES[name](z, torch.full((4,), ignore_index), ignore_index=ignore_index, reduction="sum") == 0


@each
def test_a_class_that_does_not_exist_spoils_only_its_row(name: str) -> None:
    loss = LOSSES[name](torch.randn(3, 5), torch.tensor([0, 5, -7]), reduction="none")
    assert loss.isnan().tolist() == [False, True, True]


@each
def test_errors(name: str) -> None:
    z, y = torch.randn(3, 5), torch.tensor([0, 1, 2])
    for error, call in {
        "reduction": lambda: LOSSES[name](z, y, reduction="elementwise_mean"),
        "label_smoothing": lambda: LOSSES[name](z, y, label_smoothing=1.5),
        "weight": lambda: LOSSES[name](z, y, weight=torch.rand(4)),
        "Class-index target": lambda: LOSSES[name](z, y[:2]),
        "Probability target": lambda: LOSSES[name](z, torch.rand(3, 4)),
        r"Logits of shape \(\)": lambda: LOSSES[name](torch.tensor(1.0), y[0]),
    }.items():
        with pytest.raises((ParameterError, ShapeError), match=error):
            call()


def test_alpha_per_target_learned_and_refused() -> None:
    z, y = torch.randn(3, 5, dtype=D), torch.tensor([0, 1, 2])
    alpha = torch.tensor([1.0, 1.5, 2.0], dtype=D, requires_grad=True)
    loss = ts.entmax_loss(z, y, alpha, reduction="none")
    apart = torch.stack([ts.entmax_loss(z[i : i + 1], y[i : i + 1], float(a)) for i, a in enumerate(alpha.tolist())])
    assert torch.allclose(loss, apart)
    (grad,) = torch.autograd.grad(loss.sum(), alpha)
    assert grad.shape == (3,)
    assert (grad < 0).all()
    scalar = torch.tensor(1.5, dtype=D, requires_grad=True)
    image = torch.randn(2, 5, 3, 4, dtype=D)
    assert torch.autograd.gradcheck(
        lambda a: ts.entmax_loss(image, torch.ones(2, 3, 4, dtype=torch.long), a), (scalar,)
    )
    assert ts.entmax_loss(image, torch.ones(2, 3, 4, dtype=torch.long), torch.full((2, 3, 4), 1.5)).shape == ()
    with pytest.raises(ShapeError, match="target's shape"):
        ts.entmax_loss(z, y, torch.ones(3, 1))
    for bad in (0, 0.0, -1.0):
        with pytest.raises(ParameterError, match="alpha"):
            ts.entmax_loss(z, y, bad)
    assert ts.entmax_loss(z, y, torch.tensor([1.5, -1.0, 1.5]), reduction="none").isnan().tolist() == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("alpha", [1.0, 1 + 1e-6, 1 + 1e-3])
def test_smooth_at_alpha_one_in_float32(alpha: float) -> None:
    z, y = torch.randn(50, 100), torch.randint(100, (50,))
    reference = F.cross_entropy(z, y)
    slope = float(torch.func.grad(lambda a: ts.entmax_loss(z.double(), y, a))(torch.tensor(1.0, dtype=D)))
    assert float(ts.entmax_loss(z, y, alpha)) == pytest.approx(float(reference) + (alpha - 1) * slope, rel=1e-5)


def test_half_precision_accumulates_in_float32() -> None:
    z, y = torch.randn(64, 32000) * 2, torch.randint(32000, (64,))
    for dtype in (torch.bfloat16, torch.float16):
        exact = ts.entmax15_loss(z.to(dtype).double(), y)
        assert float(ts.entmax15_loss(z.to(dtype), y)) == pytest.approx(float(exact), rel=torch.finfo(dtype).eps)


@pytest.mark.parametrize("kind", ["index", "probability", "smoothed", "weighted"])
def test_second_order_in_everything(kind: str) -> None:
    z = torch.tensor([[0.1, 0.5, -0.2], [0.3, 0.25, 0.6]], dtype=D, requires_grad=True)
    alpha = torch.tensor(1.4, dtype=D, requires_grad=True)
    t = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], dtype=D, requires_grad=True)
    options = {
        "smoothed": {"label_smoothing": 0.2},
        "weighted": {"weight": torch.tensor([1.0, 2.0, 0.5], dtype=D)},
    }.get(kind, {})

    def loss(z: Tensor, alpha: Tensor, t: Tensor) -> Tensor:
        return ts.entmax_loss(z, t if kind == "probability" else torch.tensor([2, 0]), alpha, **options) + 0 * t.sum()

    assert torch.autograd.gradcheck(loss, (z, alpha, t), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, (z, alpha, t))


@pytest.mark.parametrize("kind", ["index", "probability"])
def test_compile(kind: str) -> None:
    torch.compiler.reset()
    z = torch.randn(4, 5, requires_grad=True)
    y = torch.tensor([0, 1, -100, 3]) if kind == "index" else torch.softmax(torch.randn(4, 5), -1)
    alpha = torch.tensor(1.5, requires_grad=True)

    def loss(z: Tensor, alpha: Tensor) -> Tensor:
        return ts.entmax_loss(z, y, alpha, label_smoothing=0.1)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(z, alpha)
    assert torch.allclose(compiled, loss(z, alpha))
    for a, b in zip(
        torch.autograd.grad(compiled, (z, alpha)), torch.autograd.grad(loss(z, alpha), (z, alpha)), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-6)
    torch.compiler.reset()


def test_shapes_of_no_target() -> None:
    z = torch.zeros(0, 5, requires_grad=True)
    y = torch.zeros(0, dtype=torch.long)
    assert ts.entmax_loss(z, y).isnan()
    assert ts.entmax_loss(z, y, reduction="sum") == 0
    assert ts.entmax_loss(z, y, reduction="none").shape == (0,)


def test_fenchel_young_targets() -> None:
    z = torch.randn(3, 4, 5)
    y = torch.randint(4, (3, 5))
    by_index = ts.fenchel_young_loss("normmax", z, y, 1, reduction="none")
    by_point = ts.fenchel_young_loss("normmax", z, F.one_hot(y, 4).movedim(-1, 1).float(), 1, reduction="none")
    assert torch.allclose(by_index, by_point)
    assert by_index.shape == (3, 5)
    for bad in (y[:2], torch.rand(3, 4), y.float()):
        with pytest.raises(ShapeError, match="Target of shape"):
            ts.fenchel_young_loss("normmax", z, bad, 1)
    with pytest.raises(ShapeError, match="domain of budget"):
        ts.fenchel_young_loss("budget", z, y, 1, k=2.0)
    masked = ts.fenchel_young_loss(
        "sparsemax", torch.zeros(2, 3), torch.tensor([0, 1]), mask=torch.tensor([True, False, True]), reduction="none"
    )
    assert masked.tolist() == [0.25, float("inf")]


def test_every_option_matters() -> None:
    z, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    base = ts.entmax_loss(z, y)
    options = [
        {"alpha": 1.2}, {"weight": torch.rand(5)}, {"ignore_index": 1}, {"reduction": "sum"}, {"label_smoothing": 0.1},
    ]  # fmt: skip
    values = [base, *(ts.entmax_loss(z, y, **option) for option in options)]
    for a, b in itertools.combinations(values, 2):
        assert abs(float(a) - float(b)) > 1e-4


def test_narrow_integers_name_the_classes_they_name() -> None:
    z = torch.randn(6, 300)
    target = torch.tensor([0, 40, 100, 156, 200, 255])
    expected = ts.entmax_loss(z, target, reduction="none")
    assert torch.equal(ts.entmax_loss(z, target.to(torch.uint8), reduction="none"), expected)
    few = target[:3]
    assert torch.equal(ts.entmax_loss(z[:3], few.to(torch.int8), reduction="none"), expected[:3])
