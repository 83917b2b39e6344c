"""Rows without a loss, logits of -inf, arguments that are none, and export: mostly of the generalised cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tsallis as ts
from tsallis.core.errors import NumericalError, ParameterError, ShapeError

INF, NAN = float("inf"), float("nan")
Z = torch.tensor([[0.3, -0.2, 1.0, 0.1], [0.5, 0.4, -1.0, 0.2], [1.5, 0.0, 0.2, -0.7]], dtype=torch.float64)
Y = torch.tensor([0, 1, 2])
ALPHAS = (0.5, 1.0, 1.5, 2.0, 3.0)
each_alpha = pytest.mark.parametrize("alpha", ALPHAS)


def _row_is_spoilt(z: torch.Tensor, y: torch.Tensor, alpha: object, **options: object) -> None:
    leaf = z.clone().requires_grad_()
    loss = ts.entmax_loss(leaf, y, alpha, reduction="none", **options)
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    assert loss.isnan().tolist() == [False, True, False]
    assert grad[1].isnan().all()
    assert grad[[0, 2]].isfinite().all()
    assert ts.entmax_loss(z, y, alpha, **options).isnan()
    with ts.debug_checks(True), pytest.raises(NumericalError, match="Expected"):
        ts.entmax_loss(z, y, alpha, **options)


@each_alpha
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": torch.rand(4, dtype=torch.float64)}])
def test_rows_without_a_loss(alpha: float, options: dict) -> None:
    nan, empty = Z.clone(), Z.clone()
    nan[1, 2] = NAN
    empty[1] = -INF
    _row_is_spoilt(nan, Y, alpha, **options)
    _row_is_spoilt(empty, Y, alpha, **options)
    _row_is_spoilt(Z, torch.tensor([0, 4, 2]), alpha, **options)
    _row_is_spoilt(Z, torch.tensor([0, -1, 2]), alpha, **options)
    _row_is_spoilt(Z, Y, torch.tensor([alpha, 0.0, alpha], dtype=torch.float64), **options)
    _row_is_spoilt(Z, Y, torch.tensor([alpha, NAN, alpha], dtype=torch.float64), **options)


def test_nothing_but_minus_infinity_is_nan_in_torch_too() -> None:
    z = Z.clone()
    z[1] = -INF
    assert F.cross_entropy(z, Y, reduction="none").isnan().tolist() == [False, True, False]
    for target in (Y, F.one_hot(Y, 4).double()):
        assert ts.entmax_loss(z, target, 1.0, reduction="none").isnan().tolist() == [False, True, False]
    # An ignored target does not read its logits, whatever they are.
    assert ts.entmax_loss(z, torch.tensor([0, -100, 2])).isfinite()


@each_alpha
def test_zero_alpha_in_a_tensor(alpha: float) -> None:
    assert ts.entmax_loss(Z, Y, torch.tensor(0.0)).isnan()
    alphas = torch.tensor([alpha, 0.0, alpha], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(ts.entmax_loss(Z, Y, alphas, reduction="sum"), alphas)
    assert grad.isnan().tolist() == [False, True, False]
    for mapping, t in (("entmax", Y), ("budget", torch.eye(3, 4, dtype=torch.float64))):
        k = {"k": 1.0} if mapping == "budget" else {}
        with pytest.raises(ParameterError, match="no finite entropy"):
            ts.fenchel_young_loss(mapping, Z, t, alpha=0, **k)
        loss = ts.fenchel_young_loss(mapping, Z, t, alpha=torch.tensor([[1.5], [0.0], [1.5]]), reduction="none", **k)
        assert loss.isnan().tolist() == [False, True, False]
    assert ts.entmax(Z, 0).isfinite().all()


@each_alpha
@pytest.mark.parametrize("amount", [0.3, 1.0])
def test_smoothing_with_an_impossible_class(alpha: float, amount: float) -> None:
    """An index target and the same one-hot target have the same smoothed loss, also where the index weighs nothing."""
    z = Z.clone()
    z[0, 0] = z[1, 3] = -INF
    by_index = ts.entmax_loss(z, Y, alpha, label_smoothing=amount, reduction="none")
    by_point = ts.entmax_loss(z, F.one_hot(Y, 4).double(), alpha, label_smoothing=amount, reduction="none")
    assert torch.allclose(by_index, by_point)
    assert by_index.isinf().tolist() == [amount < 1, False, False]
    if amount == 1:
        leaf = z.clone().requires_grad_()
        (grad,) = torch.autograd.grad(ts.entmax_loss(leaf, Y, alpha, label_smoothing=amount, reduction="sum"), leaf)
        assert grad.isfinite().all()


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ShapeError, lambda: ts.entmax_loss(torch.zeros(3, 0), Y)),
        (ShapeError, lambda: ts.entmax_loss(torch.zeros(0, 0), Y[:0])),
        (ShapeError, lambda: ts.entmax_loss(Z.tolist(), Y)),
        (ShapeError, lambda: ts.entmax_loss(Z + 0j, Y)),
        (ShapeError, lambda: ts.entmax_loss(Z, Y.tolist())),
        (ShapeError, lambda: ts.entmax_loss(Z, Z + 0j)),
        (ShapeError, lambda: ts.entmax_loss(Z, Y, weight=[1.0, 2.0, 3.0, 4.0])),
        (ParameterError, lambda: ts.entmax_loss(Z, Y, "1.5")),
        (ParameterError, lambda: ts.entmax_loss(Z, Y, [1.5])),
        (ParameterError, lambda: ts.entmax_loss(Z, Y, 0)),
        (ParameterError, lambda: ts.entmax_loss(Z, Y, torch.tensor(1.5 + 0j))),
        (ParameterError, lambda: ts.entmax_loss(Z, Y, label_smoothing="a")),
        (ParameterError, lambda: ts.entmax_loss(Z, Y, label_smoothing=NAN)),
        (ParameterError, lambda: ts.entmax_loss(Z, Y, ignore_index=None)),
    ],
)
def test_foreign_arguments(error: type[Exception], call) -> None:
    with pytest.raises(error, match="Expected"):
        call()


def test_scalars_of_numpy_are_numbers() -> None:
    native = ts.entmax_loss(Z, Y, 1.5, label_smoothing=0.25)
    assert ts.entmax_loss(Z, Y, np.float32(1.5), label_smoothing=np.float64(0.25)) == native
    assert ts.entmax_loss(Z, Y, np.int64(2)) == ts.sparsemax_loss(Z, Y)
    assert torch.equal(ts.budget(Z, np.int64(2), dim=np.int64(0)), ts.budget(Z, 2, dim=0))


@pytest.mark.parametrize("missing", [4, 9, -1, -100])
def test_fenchel_young_classes_that_do_not_exist(missing: int) -> None:
    """Also -100: there is no ignore_index here."""
    y = torch.tensor([0, missing, 2])
    for loss in (
        ts.fenchel_young_loss("entmax", Z, y, reduction="none"),
        ts.nn.FenchelYoungLoss("normmax", reduction="none")(Z, y),
    ):
        assert loss.isnan().tolist() == [False, True, False]


def test_checks_step_aside_in_transforms_and_compiled_code() -> None:
    y = torch.tensor([0, 9, 2])
    with ts.debug_checks(True):
        assert torch.vmap(ts.entmax_loss)(Z, y).isnan().tolist() == [False, True, False]
        assert torch.func.grad(lambda z: ts.entmax_loss(z, y))(Z)[1].isnan().all()
        torch.compiler.reset()
        assert torch.compile(ts.entmax_loss, fullgraph=True, backend="eager")(Z, y).isnan()
        torch.compiler.reset()
        assert ts.entmax_loss(Z, torch.tensor([0, -100, 2])).isfinite()


@pytest.mark.parametrize("alpha", [1.5, ts.nn.Alpha(1.5)], ids=["number", "learned"])
@pytest.mark.parametrize("strict", [False, True])
def test_export(alpha: object, strict: bool) -> None:
    """The exported loss has the value and the gradients of the eager one, down to a learned alpha."""
    z, y = Z.float(), Y
    for module in (ts.nn.EntmaxLoss(alpha, label_smoothing=0.1), ts.nn.FenchelYoungLoss("entmax", alpha=alpha)):
        leaf = z.clone().requires_grad_()
        program = torch.export.export(module, (leaf, y), strict=strict).module()
        leaves = (leaf, *module.parameters())
        expected = torch.autograd.grad(module(leaf, y), leaves)
        got = torch.autograd.grad(program(leaf, y), (leaf, *program.parameters()))
        for a, b in zip(got, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
            assert a.abs().max() > 1e-3
