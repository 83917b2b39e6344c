"""Recipes are tested as users run them: as command lines, in a folder of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tsallis.recipes._shared.plan import Member
    from tsallis.recipes._shared.runs import Result, Run

pytest.importorskip("lightning", reason="the extra `recipes` is not installed")

# What third-party packages warn of while they are imported or used; nothing of ours can prevent it.
THIRD_PARTY = (
    "ignore::DeprecationWarning:lightning.*",
    "ignore::DeprecationWarning:jsonargparse.*",
    "ignore::FutureWarning:lightning.*",
    "ignore:.*isinstance.treespec, LeafSpec.*",
)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """Shells have background jobs ignore the signal, and their children with them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for line in THIRD_PARTY:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes of the folder `toys` are found beside those of the library."""
    from tsallis import recipes

    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(TOYS)])


def train_watched(recipe: ModuleType, members: Sequence[Member], folder: Path) -> tuple[dict[str, Result], set[str]]:
    """Results by row, trained in this process, and the fields of the configuration that the recipe read."""
    read: set[str] = set()

    class Watched(recipe.Config):
        def __getattribute__(self, name: str):
            caller = sys._getframe(1).f_globals["__name__"]
            if caller.startswith("tsallis.recipes") and not caller.endswith(("config", "runs", "plan")):
                read.add(name)
            return super().__getattribute__(name)

    results = {}
    for member in members:
        config = Watched(**{f.name: getattr(member.config, f.name) for f in fields(recipe.Config)})
        results[member.row] = recipe.train(config, folder / member.name)
    return results, read


def train_interrupted(recipe: ModuleType, task: type, config: Any, folder: Path, at: int) -> tuple[Result, list[int]]:
    """The result of a training that stopped before its step number ``at`` and went on from its checkpoint; and
    the numbers, each in its epoch, of the steps that were begun.
    """
    step, begun = task.training_step, []

    def stopping(self, batch, number):
        begun.append(number)
        if len(begun) == at:
            raise KeyboardInterrupt
        return step(self, batch, number)

    config = replace(config, checkpoint_minutes=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "training_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            recipe.train(config, folder)
        return recipe.train(config, folder), begun


def finished_runs(members: Sequence[Member], results: dict[str, Result], folder: Path) -> list[Run]:
    """Members that `train_watched` trained, as a report reads them."""
    from tsallis.recipes._shared.config import plain
    from tsallis.recipes._shared.runs import Run

    runs = []
    for member in members:
        found = results[member.row]
        result = {"row": member.row, "seed": 0, **{k: getattr(found, k) for k in ("metric", "value", "metrics")}}
        runs.append(Run(folder / member.name, result, plain(member.config), 1.0))
    return runs


TOYS = Path(__file__).parent / "toys"
COMMAND = [sys.executable, "-m", "tsallis.cli.main"]
SHORT = ("run", "ssvae", "--preset", "smoke", "--estimator", "sparsemax", "--warm-epochs", "3", "--epochs", "4")
# A checkpoint after every batch, so that a training is interrupted in the middle of an epoch.
OFTEN = ("--checkpoint-minutes", "0")
Tsallis = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `tsallis WORDS` in tmp_path on one thread."""

    def popen(*words: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *map(str, words)],
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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*COMMAND, *SHORT, *OFTEN, "--out", "run"], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "sparse" in done.stdout
    assert "decoder" in done.stdout
    assert "tsallis report run" in done.stderr
    return folder / "run"
