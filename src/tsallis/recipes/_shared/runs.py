"""Run folders: trained, resumed, read.

A command's folder holds run.yaml and, for each training, a folder with config.yaml, environment.json, metrics.csv,
checkpoints/last.ckpt, model.safetensors, result.json and timing.json. result.json comes last: a training that has one
is finished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from .config import plain
from .environment import record
from .files import RunError, explained, read_json, read_table, read_yaml, write_json, write_yaml
from .plan import FILE, Member, Plan

RESULT, TIMING, ENVIRONMENT, CONFIG = "result.json", "timing.json", "environment.json", "config.yaml"


@dataclass(frozen=True)
class Result:
    """What a training returns.

    Args:
        metric: name of the measure a recipe is about.
        value: what was measured.
        n: number of examples it was measured on.
        split: hash of the indices of the data split.
        metrics: everything else, by name.
        seconds: of training, resumes included; kept apart from the result, which two runs with one seed share.
    """

    metric: str
    value: float
    n: int
    split: str
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """A finished training, as read from its folder."""

    folder: Path
    result: dict[str, Any]
    config: dict[str, Any]
    seconds: float

    @property
    def row(self) -> str:
        """The row of the table it belongs to."""
        return self.result["row"]

    @property
    def metrics(self) -> dict[str, float]:
        """All measures by name."""
        return {self.result["metric"]: self.result["value"], **self.result["metrics"]}

    def history(self) -> list[dict[str, float]]:
        """Means of every epoch."""
        return read_table(self.folder / "metrics.csv")


def new_folder(out: Path | None, name: str) -> Path:
    """The folder for a command's runs: the one asked for, which must be new or empty, or the next free one."""
    if out is not None:
        with explained(out):
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise RunError(
                    f"{out} exists", "a folder that is new or empty", "Choose another --out, or go on with --resume"
                )
            out.mkdir(parents=True, exist_ok=True)
        return out
    for number in range(1, 10_000):
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        with explained(folder):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not folder.parent.is_dir():
                    raise
                continue
        return folder
    raise RunError(f"runs/{name} and its successors exist", "a free name", "Choose a place with --out")


def execute(recipe: ModuleType, plan: Plan, folder: Path, report: Callable[[str], None]) -> list[Run]:
    """Train what is not finished in the folder; returns all runs of the plan."""
    with explained(folder):
        lock = FileLock(folder / ".lock")
        try:
            # The system lifts the lock when a process dies, also by kill -9.
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{folder} is in use by another process", "one process at a time", "Wait for it, or stop it"
            ) from None
    with lock:
        for number, member in enumerate(plan.members, 1):
            place, label = folder / member.name, f"[{number}/{len(plan.members)}] {member.name}"
            if (place / RESULT).exists():
                report(f"{label}: finished before")
                continue
            write_yaml(place / CONFIG, plain(member.config))
            if note := record(place / ENVIRONMENT, member.config):
                report(f"{label}: {note}")
            result: Result = recipe.train(member.config, place)
            _finish(plan, member, result, place)
            report(f"{label}: {result.metric} {result.value:.4f}, {result.seconds:.0f} s")
    return [read_run(folder / member.name) for member in plan.members]


def _finish(plan: Plan, member: Member, result: Result, place: Path) -> None:
    write_json(place / TIMING, {"seconds": result.seconds})
    write_json(
        place / RESULT,
        {
            "recipe": plan.recipe,
            "preset": plan.preset,
            "title": plan.title,
            "row": member.row,
            "published": member.published,
            "seed": member.config.seed,
            "metric": result.metric,
            "value": result.value,
            "n": result.n,
            "split": result.split,
            "metrics": result.metrics,
        },
    )


def read_run(folder: Path) -> Run:
    """A finished run."""
    result, timing = read_json(folder / RESULT), read_json(folder / TIMING)
    try:
        if not isinstance(result["metrics"], dict):
            raise TypeError("metrics")
        for key in ("recipe", "title", "row", "published", "seed", "metric", "value", "n", "split"):
            result[key]
        return Run(folder, result, read_yaml(folder / CONFIG), float(timing["seconds"]))
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / RESULT}: {error!r}", "a file written by tsallis run", "Run again") from error


def members(folder: Path) -> tuple[list[Run], list[str]]:
    """The finished runs in a command's folder (or the folder of one run), and the names of unfinished ones."""
    if (folder / RESULT).exists():
        return [read_run(folder)], []
    content = read_yaml(folder / FILE)
    try:
        places = [folder / m["name"] for m in content["members"]]
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / FILE}: {error!r}", "a file written by tsallis run", "Run again") from error
    done = [p for p in places if (p / RESULT).exists()]
    return [read_run(p) for p in done], [p.name for p in places if p not in done]
