"""Every mapping file is registered, exported and importable; importing tsallis stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tsallis as ts
from tsallis.core import registry
from tsallis.core.domains import Simplex
from tsallis.core.errors import RegistryError
from tsallis.core.implicit import operator

MAPPINGS = Path(ts.__file__).parent / "mappings"
FILES = sorted(path.stem for path in MAPPINGS.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", FILES)
def test_file_is_registered_and_exported(name: str) -> None:
    assert name in registry.names()
    assert name in ts.__all__
    assert callable(getattr(ts, name))
    module = "".join(part.capitalize() for part in name.split("_"))
    assert module in dir(ts.nn)
    assert operator(name) is not None


@pytest.mark.parametrize("name", FILES)
def test_a_mapping_file_is_small(name: str) -> None:
    assert len((MAPPINGS / f"{name}.py").read_text().splitlines()) <= 150


def test_all_files_are_small() -> None:
    for root in (Path(ts.__file__).parent, Path(__file__).parents[1]):
        for path in root.rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path


def test_init_only_re_exports() -> None:
    tree = ast.parse(Path(ts.__file__).read_text())
    assert all(isinstance(node, ast.ImportFrom | ast.Assign | ast.Expr) for node in tree.body)


def test_import_is_light() -> None:
    heavy = (
        "numba",
        "triton",
        "lightning",
        "transformers",
        "matplotlib",
        "scipy",
        "entmax",
        "torch._inductor",
        "torch._dynamo.convert_frame",
    )
    code = f"import sys, tsallis; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_and_attributes() -> None:
    with pytest.raises(RegistryError, match="one of: budget, entmax"):
        ts.solve("entmaxx", torch.zeros(3))
    with pytest.raises(AttributeError, match="Entmax"):
        _ = ts.nn.Entmaxx
    with pytest.raises(RegistryError, match="identifier"):
        registry.register(type("Bad", (type(registry.get("sparsemax")),), {"name": "a b"})())


def test_unregistering_leaves_no_trace() -> None:
    mapping = type("Passing", (type(registry.get("sparsemax")),), {"name": "passing", "domain": Simplex()})()
    for _ in range(2):
        with registry.registered(mapping):
            assert torch.equal(operator("passing")(torch.zeros(2))[0], torch.full((2,), 0.5))
        with pytest.raises(AttributeError):
            operator("passing")
