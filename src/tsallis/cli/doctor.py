"""``tsallis doctor``: versions, devices, and the table of backend decisions."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import __version__
from ..core import registry
from ..core.api import explain_backend
from ..kernels import cpu, triton

OPTIONAL = ("numba", "triton", "lightning", "transformers", "captum", "gradio")


def describe(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    print(
        f"tsallis {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    print(f"threads: {torch.get_num_threads()}; TSALLIS_BACKEND: {os.environ.get('TSALLIS_BACKEND') or 'not set'}")
    print("optional packages: " + ", ".join(f"{name} {_version(name)}" for name in OPTIONAL))
    print("\n".join((*_cpu_kernels(), _gpu_kernels())))
    print("\nBackends (chosen: ->), by static facts of a call:")
    for device in _devices():
        for dtype in (torch.float32, torch.float64):
            if device == "mps" and dtype == torch.float64:
                continue
            z = torch.empty(2, 64, device=device, dtype=dtype)
            for name in registry.names():
                print(f"\n{name}, {device}, {str(dtype).removeprefix('torch.')}\n{explain_backend(name, z)}")
    return 0


def _cpu_kernels() -> list[str]:
    if (reason := cpu.numba_missing()) is not None:
        return [f"CPU kernels: none, the reference serves: {reason}"]
    from ..kernels.cpu.report import report

    return report()


def _gpu_kernels() -> str:
    if (reason := triton.triton_missing()) is not None:
        return f"GPU kernels: none, the reference serves: {reason}"
    if not torch.cuda.is_available():
        return f"GPU kernels: triton {_version('triton')}, for which there is no CUDA device"
    return f"GPU kernels: triton {_version('triton')}, compiled when first used"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    return [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]
