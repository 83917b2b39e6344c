"""What surrounds a call: inductor, threads, fork, DataLoader workers, autocast, annotations, unsupported scripting."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import tsallis as ts
from tsallis.core import registry
from tsallis.testing.harness import settings


@pytest.mark.parametrize("name", registry.names())
def test_inductor(name: str) -> None:
    """The default compiler, not only its front end."""
    torch.compiler.reset()
    setting = next(settings(registry.get(name)))
    z = torch.randn(4, 6, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = torch.compile(lambda z: setting(z * 2).square(), fullgraph=True)(z)
        (grad,) = torch.autograd.grad(out.sum(), z)
    expected = setting(z * 2).square()
    assert torch.allclose(out, expected, atol=1e-6)
    assert torch.allclose(grad, torch.autograd.grad(expected.sum(), z)[0], atol=1e-6)
    torch.compiler.reset()


def test_a_float_alpha_under_compile() -> None:
    """A Python number that varies becomes a symbol after its second value; it is not compiled again for every value."""
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lambda z, alpha: ts.entmax(z, alpha), fullgraph=True, backend=counter)
    z = torch.randn(3, 4)
    for alpha in (1.2, 1.3, 1.4, 1.5, 1.6):
        assert torch.allclose(compiled(z, alpha), ts.entmax(z, alpha))
    assert counter.frame_count <= 2
    torch.compiler.reset()


def test_threads_share_nothing() -> None:
    z = torch.randn(8, 200)
    expected = ts.entmax(z, 1.3)

    def work(i: int) -> bool:
        leaf = z.clone().requires_grad_()
        p = ts.entmax(leaf, 1.3)
        p.square().sum().backward()
        return torch.equal(p, expected) and bool(leaf.grad.isfinite().all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork_and_loader_workers() -> None:
    code = """
import os, torch, tsallis as ts
ts.entmax(torch.randn(64, 64), 1.3)
torch.set_num_threads(1)
pid = os.fork()
if pid == 0:
    ts.entmax(torch.randn(64, 64), 1.3)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return ts.entmax(torch.arange(5.0) * i, 1.5)
if __name__ == "__main__":
    out = torch.stack(list(torch.utils.data.DataLoader(Data(), num_workers=2, batch_size=None)))
    assert out.shape == (4, 5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_autocast_keeps_the_dtype_it_is_given() -> None:
    layer = torch.nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(torch.randn(4, 8))
        p = ts.entmax15(z)
    assert z.dtype == p.dtype == torch.bfloat16
    p.float().square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore")
def test_scripting_is_refused_not_wrong() -> None:
    """torch.jit.script is not supported (documented); export is."""
    with pytest.raises((RuntimeError, torch.jit.frontend.NotSupportedError)):
        torch.jit.script(ts.sparsemax)


def test_annotations_hold() -> None:
    """Public annotations, checked by beartype at run time: calls that fit pass, one that does not is caught."""
    from beartype import BeartypeConf, beartype
    from beartype.roar import BeartypeCallHintViolation
    from jaxtyping import jaxtyped

    def checked(function):
        return jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))(function)

    z, y = torch.randn(3, 5), torch.tensor([0, 1, 2])
    for name in registry.names():
        setting = next(settings(registry.get(name)))
        values = {
            p.name: int(v) if p.role == "selection" else v
            for p, v in zip(setting.mapping.params, setting.values.values(), strict=True)
        }
        checked(getattr(ts, name))(z, **values)
        checked(getattr(ts, name))(torch.tensor([1, 2, 3]), **values)
    for loss in (ts.entmax_loss, ts.sparsemax_loss, ts.entmax15_loss):
        checked(loss)(z, y)
        checked(loss)(z, torch.softmax(z, -1), reduction="none")
    checked(ts.fenchel_young_loss)("normmax", z, y)
    with pytest.raises((BeartypeCallHintViolation, TypeError)):
        checked(ts.sparsemax)([1.0, 2.0])


def test_error_messages_have_three_parts() -> None:
    import pickle

    with pytest.raises(ts.core.errors.TsallisError) as caught:
        ts.entmax(torch.zeros(3), -1.0)
    error = caught.value
    assert all([error.given, error.expected, error.advice])
    assert str(error) == f"{error.given}. Expected {error.expected}. {error.advice}."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
