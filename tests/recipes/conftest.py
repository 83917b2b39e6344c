"""Recipes are tested as users run them: as command lines, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="the extra `recipes` is not installed")

# What third-party packages warn of while they are imported or used; nothing of ours can prevent it.
THIRD_PARTY = (
    "ignore::DeprecationWarning:lightning.*",
    "ignore::DeprecationWarning:jsonargparse.*",
    "ignore::FutureWarning:lightning.*",
    "ignore:.*isinstance.treespec, LeafSpec.*",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for line in THIRD_PARTY:
                item.add_marker(pytest.mark.filterwarnings(line))


Tsallis = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `tsallis WORDS` in tmp_path on one thread."""

    def popen(*words: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tsallis.cli.main", *map(str, words)],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip

    return popen


@pytest.fixture
def tsallis(start: Callable[..., subprocess.Popen[str]]) -> Tsallis:
    """Runs `tsallis WORDS` to its end."""

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        process = start(*words, **environment)
        out, err = process.communicate(timeout=280)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run
