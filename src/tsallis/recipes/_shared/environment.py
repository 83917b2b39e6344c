"""What a run was computed with."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .config import RunConfig
from .files import read_json, write_json


def record(path: Path, config: RunConfig) -> str:
    """Add what computes now to the list in environment.json; says what differs from before: results may differ too."""
    packages = ("tsallis", "torch", "numpy", "lightning")
    now: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "commit": _commit(),
        "platform": platform.platform(),
        "threads": config.threads or torch.get_num_threads(),
        "device": _device(config),
        "devices": config.devices,
        "seed": config.seed,
    }
    before: list[dict[str, Any]] = read_json(path) if path.exists() else []
    if not before:
        write_json(path, [now])
        return ""
    changed = [f"{key} {before[-1].get(key)} -> {value}" for key, value in now.items() if before[-1].get(key) != value]
    if not changed:
        return ""
    write_json(path, [*before, now])
    return f"goes on with other {', '.join(changed)}; the result may differ from one in one go"


@contextmanager
def threads(config: RunConfig) -> Iterator[None]:
    """As many threads as a run asks for, afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(config: RunConfig) -> str:
    if config.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{config.accelerator}, {platform.machine()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the source in use, if git tracks it."""
    source = Path(__file__)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words],
            cwd=source.parent, capture_output=True, text=True, timeout=10, check=True, env=environment,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
