"""CPU kernels among threads, processes and files: each in a process of its own."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tsallis

pytest.importorskip("numba")


def _python(code: str, **environment: str) -> str:
    """Output of a program; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_64_threads_a_thousand_calls_each() -> None:
    _python("""
import threading, torch, tsallis as ts
torch.set_num_threads(2)
inputs = [torch.randn(2, 60), torch.randn(300, 40), torch.randn(3, 5000)]
calls = [lambda z: ts.entmax15(z), lambda z: ts.sparsemax(z), lambda z: ts.entmax(z, 1.3)]
expected = [[call(z) for call in calls] for z in inputs]
wrong = []
def work(i):
    for j in range(1000):
        a, b = (i + j) % 3, 0 if (i + j) % 50 else 1 + j % 2
        if not torch.equal(calls[a](inputs[b]), expected[b][a]):
            wrong.append((i, j))
threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not wrong, wrong[:3]
""")


def test_the_number_of_threads_may_change_and_changes_nothing() -> None:
    _python("""
import torch, tsallis as ts
z = torch.randn(64, 700, requires_grad=True)
results = []
for threads in (2, 1, 3, 8, 2):
    torch.set_num_threads(threads)
    p = ts.entmax(z, 1.3)
    results.append((p.detach(), torch.autograd.grad(p.square().sum(), z)[0]))
assert all(torch.equal(a, b) for r in results for a, b in zip(r, results[0]))
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork_after_first_use_and_loader_workers() -> None:
    _python("""
import os, signal, torch, tsallis as ts
from tsallis.kernels.cpu import threads
torch.set_num_threads(2)
z = torch.randn(512, 600)
expected = ts.entmax15(z)
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    p = ts.entmax15(z)
    torch.set_num_threads(1)  # torch's own operations would hang on threads that are gone
    fine = torch.equal(p, expected) and "forked" in threads.reason_against()
    os._exit(0 if fine else 1)
assert os.waitpid(pid, 0)[1] == 0
class Data(torch.utils.data.Dataset):
    def __len__(self): return 16
    def __getitem__(self, i): return ts.entmax15(z + 0 * i)
loader = torch.utils.data.DataLoader(Data(), num_workers=4, batch_size=None, timeout=100)
assert all(torch.equal(p, expected) for p in loader)
assert torch.equal(ts.entmax15(z), expected)
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork_before_first_use() -> None:
    """The parent has used torch's threads, but no kernel."""
    _python("""
import os, signal, torch, tsallis as ts
torch.set_num_threads(2)
z = torch.randn(64, 1000)
torch.randn(2000000).exp().sum()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    ts.sparsemax(z)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
""")


def test_numba_told_not_to_compile() -> None:
    out = _python(
        "import torch, tsallis as ts; print(ts.sparsemax(torch.tensor([0.0, 3.0])));"
        "print(ts.explain_backend('sparsemax', torch.zeros(3)))",
        NUMBA_DISABLE_JIT="1",
    )
    assert "NUMBA_DISABLE_JIT" in out


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
"""


def test_without_numba_the_reference_serves_and_says_why() -> None:
    out = _python(
        BLOCKED
        + """
import torch, tsallis as ts
from tsallis.cli.main import main
z = torch.randn(3, 5)
p, q = ts.entmax15(z), ts.entmax15(z, backend="reference")
assert torch.equal(p, q)
try:
    ts.entmax15(z, backend="cpu")
except ts.core.errors.BackendError as error:
    assert "numba is not installed" in str(error)
else:
    raise AssertionError("backend='cpu' without numba")
main(["doctor"])
"""
    )
    assert "numba is not installed: pip install numba" in out
    assert "-> reference" in out


NO_PLACE = """
import numba.core.caching as caching
def refuse(self): raise OSError("read-only")
for locator in caching.CacheImpl._locator_classes:
    locator.ensure_cache_path = refuse
"""


def test_without_a_writable_cache_kernels_are_compiled_anew_and_doctor_says_so() -> None:
    out = _python(
        NO_PLACE
        + """
import torch, tsallis as ts
from tsallis.cli.main import main
z = torch.randn(3, 5)
assert torch.allclose(ts.sparsemax(z, backend="cpu"), ts.sparsemax(z, backend="reference"))
main(["doctor"])
"""
    )
    assert "machine code: not kept" in out
    assert "-> cpu" in out


def test_editing_any_file_of_a_kernel_leaves_no_old_machine_code(tmp_path: Path) -> None:
    """Also an edit that leaves size and time of the edited file as they were, and files that are inlined elsewhere."""
    package = tmp_path / "tsallis"
    shutil.copytree(Path(tsallis.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import torch, tsallis as ts; print(ts.entmax15(torch.tensor([0.0, 1.0]), backend='cpu').tolist())"
    environment = {
        "PYTHONPATH": str(tmp_path),
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    before = _python(code, **environment)
    kept = {p.name for p in (tmp_path / "cache").rglob("*.nbc")}
    assert kept
    assert before == _python(code, **environment)
    assert kept == {p.name for p in (tmp_path / "cache").rglob("*.nbc")}, "the second process compiled again"
    edited = package / "kernels" / "members.py"
    text, times = edited.read_text(), edited.stat()
    assert "u = greater(0.5 * z - tau - rest, 0.0)" in text
    edited.write_text(text.replace("u = greater(0.5 * z - tau - rest, 0.0)", "u = greater(0.4 * z - tau - rest, 0.0)"))
    os.utime(edited, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert _python(code, **environment) != before


def test_machine_code_has_the_same_name_in_every_process() -> None:
    """Of every kernel: closures hold functions, whose own names hold random numbers."""
    code = """
from tsallis.kernels.cpu import attention, compiler, gradients, losses, pairs, screening, selection, simplex
from tsallis.kernels.cpu.structured import entries
made = [simplex.kernel(k, s) for k in range(4) for s in (False, True)]
made += [selection.kernel(0), selection.kernel(1), gradients.gradient(0), screening.screen(0, False), attention.count()]
made += [entries.solver(k) for k in entries.KINDS] + [entries.products(c) for c in (False, True)]
made += [entries.vectors(True)]
class Codegen:
    def magic_tuple(self):
        return ()
keys = [(e.serial.__module__, e.serial.__qualname__, e.serial._cache._index_key((), Codegen())) for e in made]
assert len(set(keys)) == len(keys), "two kernels have one name"
# Of all they are made of, too: code of one name is taken for the other's where several processes have kept it.
def parts(function):
    for cell in function.__closure__ or ():
        part = getattr(cell.cell_contents, "py_func", None)
        if part is not None:
            yield (part.__module__, part.__qualname__), compiler._described(part)
            yield from parts(part)
found = {}
for e in made:
    for name, is_of in parts(e.serial.py_func):
        assert found.setdefault(name, is_of) == is_of, name
assert len(found) > len({name.rpartition("_")[0] for _, name in found}), "nothing is made twice"
print(keys, sorted(found))
"""
    assert _python(code) == _python(code)


def test_doctor_says_where_machine_code_and_threads_come_from() -> None:
    out = _python("from tsallis.cli.main import main; main(['doctor'])")
    assert "machine code: kept in" in out
    assert "threads: shared with torch" in out or "one thread serves" in out


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names a processor of that family")
def test_machines_without_avx512() -> None:
    """The same code for narrower vectors, with entries packed one by one."""
    features = "+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+lzcnt,+sse4.2,+f16c"
    _python(
        """
import torch, tsallis as ts
from tsallis.kernels.cpu.compiler import PACKS
from tsallis.testing import draw
assert not PACKS
for name, values in (("entmax15", {}), ("entmax", {"alpha": 1.3})):
    for n in (20, 300, 5000):
        for family in ("normal", "near_uniform", "cluster"):
            z = draw(family, 20, n).requires_grad_()
            weights = torch.arange(n).cos()
            results = []
            for backend in ("cpu", "reference"):
                p = getattr(ts, name)(z, backend=backend, **values)
                results.append((p, torch.autograd.grad((p * weights).sum(), z)[0]))
            assert all(float((a - b).abs().max()) < 1e-11 for a, b in zip(*results)), (name, n, family)
""",
        NUMBA_CPU_NAME="haswell",
        NUMBA_CPU_FEATURES=features,
    )


def test_memory_beyond_the_results_is_a_few_rows_per_thread() -> None:
    """The high-water mark of the process above its size before the call. Rows of 8192: 64 MB of scores, and 5 MB are
    what 2 threads need for vectors in use, packed rows, and rows fetched sixteen at a time.
    """
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not let a process reset its high-water mark")
    _python("""
import torch, tsallis as ts
torch.set_num_threads(2)
def highest():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
def taken(call):
    call()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = highest()
    kept = call()
    return highest() - before
z = torch.randn(2048, 8192)
g, x = torch.randn_like(z), torch.randn_like(z).requires_grad_()
size = z.numel() * 4
mask = torch.rand(z.shape) < 0.9
calls = {
    "sparsemax": ts.sparsemax, "entmax15": ts.entmax15, "entmax 1.3": lambda z: ts.entmax(z, 1.3),
    "entmax 2.5": lambda z: ts.entmax(z, 2.5), "normmax": ts.normmax, "budget": lambda z: ts.budget(z, 3.0),
    "topk": lambda z: ts.topk_sparsemax(z, 20), "masked": lambda z: ts.entmax15(z, mask=mask),
}
for name, call in calls.items():
    once = taken(lambda: call(z))
    both = taken(lambda: torch.autograd.grad(call(x), x, g))
    assert once <= size + 5e6 and both <= 2 * size + 5e6, (name, once / size, both / size)
""")
