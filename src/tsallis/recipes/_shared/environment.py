"""What a run was computed with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .config import RunConfig
from .files import read_json, write_json


def record(path: Path, config: RunConfig) -> str:
    """Write environment.json; says what changed since the run was started, as results may then differ."""
    packages = ("tsallis", "torch", "numpy", "lightning")
    now: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "commit": _commit(),
        "platform": platform.platform(),
        "threads": config.threads or torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "accelerator": config.accelerator,
        "seed": config.seed,
    }
    before = read_json(path) if path.exists() else now
    write_json(path, now)
    changed = [f"{key} {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value]
    return f"goes on with other {', '.join(changed)}; the result may differ from one in one go" if changed else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the source in use, if it is a checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
