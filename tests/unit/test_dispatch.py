"""Choosing a kernel: order, reasons, no silent fallback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core import dispatch, registry
from tsallis.core.errors import BackendError
from tsallis.core.settings import BACKEND_FROM_ENVIRONMENT
from tsallis.mappings.sparsemax import Sparsemax


class Two(Sparsemax):
    name = "two"


def _kernel(value: float):
    def kernel(z: Tensor) -> tuple[Tensor, ...]:
        return torch.full_like(z, value), z.new_zeros(z.shape[:-1])

    return kernel


@pytest.fixture(autouse=True)
def _two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(BACKEND_FROM_ENVIRONMENT, "value", None)
    with registry.registered(Two()):
        short = lambda s: None if s.shape[-1] <= 4 else "rows longer than 4"  # noqa: E731
        dispatch.add_kernel("two", dispatch.Kernel("fast", _kernel(7.0), 10, short))
        yield


def _p(n: int = 3, **keywords: object) -> float:
    return float(registry.get("two")(torch.zeros(n), **keywords)[0])


def test_priority_then_support() -> None:
    assert _p(3) == 7
    assert _p(5) == pytest.approx(0.2)


def test_order_argument_setting_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKEND_FROM_ENVIRONMENT, "value", "reference")
    assert _p() == pytest.approx(1 / 3)
    with ts.use_backend("fast"):
        assert _p() == 7
        assert _p(backend="reference") == pytest.approx(1 / 3)
        with ts.use_backend(None):
            assert _p() == pytest.approx(1 / 3)
    assert _p() == pytest.approx(1 / 3)


def test_the_environment_is_read_at_import() -> None:
    code = "import torch, tsallis as ts; print(ts.explain_backend('entmax', torch.zeros(2, 3)))"
    environment = os.environ | {"TSALLIS_BACKEND": "reference"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "-> reference    asked for by TSALLIS_BACKEND" in done.stdout


def test_a_named_backend_works_or_raises_with_every_reason() -> None:
    with pytest.raises(BackendError, match=r"fast: rows longer than 4.*reference: 'fast' was asked for by backend="):
        _p(5, backend="fast")
    with ts.use_backend("fast"), pytest.raises(BackendError, match="use_backend"):
        _p(5)


def test_explain() -> None:
    table = ts.explain_backend("two", torch.zeros(5))
    assert [(d.backend, d.chosen) for d in table] == [("fast", False), ("reference", True)]
    assert "rows longer than 4" in str(table)
    assert "-> reference" in str(table)
    assert "reference comes first" not in str(table)
    assert "fast comes first" in str(ts.explain_backend("two", torch.zeros(3)))


def test_a_setting_holds_inside_compiled_code() -> None:
    torch.compiler.reset()
    compiled = torch.compile(registry.get("two"), fullgraph=True, backend="aot_eager")
    z = torch.zeros(3)
    assert float(compiled(z)[0]) == 7
    with ts.use_backend("reference"):
        assert float(compiled(z)[0]) == pytest.approx(1 / 3)
    torch.compiler.reset()


def test_debug_checks() -> None:
    bad = torch.tensor([[0.0, float("nan")], [1.0, 0.0]])
    with ts.debug_checks(True), pytest.raises(ts.core.errors.NumericalError, match="1 rows: a kept score is NaN"):
        ts.sparsemax(bad)
    assert ts.sparsemax(bad)[1].tolist() == [1.0, 0.0]
