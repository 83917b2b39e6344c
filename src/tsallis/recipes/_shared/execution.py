"""Training what a plan asks for, in a folder that one command at a time works in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout

from .config import MACHINE, plain
from .environment import record, threads
from .files import RunError, explained, first_process, read_yaml, write_json, write_yaml
from .plan import FILE, Member, Plan
from .runs import CONFIG, ENVIRONMENT, RESULT, TIMING, Result, Run, read_run

# Where a process that was launched for another device finds the run of the process that launched it.
FOLDER = "TSALLIS_RUN_FOLDER"


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


def discard(folder: Path) -> None:
    """Remove a new folder if nothing was trained in it, so that a corrected command finds its place free."""
    content = [p for p in folder.rglob("*") if p.is_file()]
    if not first_process() or any(p.name not in (FILE, CONFIG, ENVIRONMENT, ".lock") for p in content):
        return
    with suppress(OSError):
        for path in content:
            path.unlink()
        for path in (*(p for p in folder.iterdir() if p.is_dir()), folder):
            path.rmdir()


def execute(recipe: ModuleType, plan: Plan, folder: Path, report: Callable[[str], None]) -> list[Run]:
    """Train what is not finished in the folder; returns all runs of the plan."""
    with _alone(folder):
        for number, member in enumerate(plan.members, 1):
            place, label = folder / member.name, f"[{number}/{len(plan.members)}] {member.name}"
            _same_experiment(place / CONFIG, member)
            if (place / RESULT).exists():
                report(f"{label}: finished before")
                continue
            write_yaml(place / CONFIG, plain(member.config))
            if note := record(place / ENVIRONMENT, member.config):
                report(f"{label}: {note}")
            # Also for what follows the training itself.
            with threads(member.config):
                result: Result = recipe.train(member.config, place)
            _finish(plan, member, result, place)
            report(f"{label}: {result.metric} {result.value:.4f}, {result.seconds:.0f} s")
    return [read_run(folder / member.name) for member in plan.members] if first_process() else []


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other commands out; processes that this one launches for other devices find the folder in FOLDER."""
    if not first_process():
        yield
        return
    lock = FileLock(folder / ".lock")
    with explained(folder):
        try:
            # The system lifts the lock when a process dies, also by kill -9.
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{folder} is in use by another process", "one process at a time", "Wait for it, or stop it"
            ) from None
    os.environ[FOLDER] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ[FOLDER]
        lock.release()


def _same_experiment(path: Path, member: Member) -> None:
    if not path.exists():
        return
    before, now = read_yaml(path), plain(member.config)
    if not isinstance(before, dict):
        raise RunError(f"{path} holds no configuration", "a file written by tsallis run", "Start a new run")
    changed = [k for k, v in now.items() if k not in MACHINE and before.get(k) != v]
    if changed:
        raise RunError(
            f"{path.parent} was begun with other values of {', '.join(changed)}",
            "the configuration it was begun with",
            "Start a new run",
        )


def _finish(plan: Plan, member: Member, result: Result, place: Path) -> None:
    measured = asdict(result)
    write_json(place / TIMING, {"seconds": measured.pop("seconds")})
    origin = {"recipe": plan.recipe, "preset": plan.preset, "title": plan.title}
    row = {"row": member.row, "published": member.published, "seed": member.config.seed}
    write_json(place / RESULT, {**origin, **row, **measured})
