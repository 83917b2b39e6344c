"""Run folders, as they are read.

A command's folder holds run.yaml and, for each training, a folder with config.yaml, environment.json, metrics.csv,
checkpoints/last.ckpt, model.safetensors, result.json and timing.json. result.json comes last: a training that has one
is finished.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import C, build
from .files import RunError, read_json, read_table, read_yaml
from .plan import FILE

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
        return read_table(self.folder / "metrics.csv", optional=True)


_TYPES = {
    "recipe": str,
    "title": str,
    "row": str,
    "published": dict,
    "seed": int,
    "metric": str,
    "value": (int, float),
    "n": int,
    "split": str,
    "metrics": dict,
}


def read_run(folder: Path) -> Run:
    """A finished run, its files checked."""
    result, timing, config = read_json(folder / RESULT), read_json(folder / TIMING), read_yaml(folder / CONFIG)
    for path, content, types in (
        (folder / RESULT, result, _TYPES),
        (folder / TIMING, timing, {"seconds": (int, float)}),
        (folder / CONFIG, config, {"seed": int}),
    ):
        wrong = [
            k for k, kind in types.items() if not isinstance(content, dict) or not isinstance(content.get(k), kind)
        ]
        if wrong:
            raise RunError(f"{path}: no {', no '.join(wrong)}", "a file written by tsallis run", "Run again")
    return Run(folder, result, config, float(timing["seconds"]))


def read_config(config_class: type[C], folder: Path) -> C:
    """The configuration of a run, checked as if it came from the command line."""
    path = folder / CONFIG
    return build(config_class, read_yaml(path), str(path))


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
