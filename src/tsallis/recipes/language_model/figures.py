"""Plots of the language model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from .._shared.clock import SECONDS
from .._shared.files import read_table
from .._shared.runs import Run
from .._shared.tables import rows_of

Series = Callable[[Run], dict[float, float]]


def seconds_per_step(run: Run) -> list[tuple[int, float]]:
    """Median of each epoch."""
    return [(int(row["epoch"]), row["seconds"]) for row in read_table(run.folder / SECONDS)]


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption."""
    return {
        "seconds": (
            _curves(runs, _seconds, "seconds a step"),
            "Time of a training step, median of each epoch.",
        ),
        "support": (
            _curves(runs, _of("train/support"), "words with probability", logarithmic=True),
            "Mean number of words with probability on training tokens, mean of each epoch.",
        ),
        "surprise": (
            _curves(runs, _of("val/surprise"), "nats a token"),
            "Mean surprise on validation tokens, with a little added to every probability: the log of perplexity.",
        ),
        "covered": (
            _curves(runs, _of("val/covered"), "share of tokens"),
            "Validation tokens whose word has probability.",
        ),
        "alpha": (_curves(runs, _of("train/alpha"), "alpha"), "Alpha of the output layer, mean of each epoch."),
    }


def _of(name: str) -> Series:
    return lambda run: {row["step"]: row[name] for row in run.history()}


def _seconds(run: Run) -> dict[float, float]:
    steps = {row["epoch"]: row["step"] for row in run.history()}
    return {steps[epoch]: seconds for epoch, seconds in seconds_per_step(run)}


def _curves(runs: list[Run], series: Series, label: str, *, logarithmic: bool = False) -> Figure:
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for row, group in rows_of(runs):
        found = [series(run) for run in group]
        steps = sorted(set.intersection(*(set(s) for s in found)))
        values = np.array([[s[step] for step in steps] for s in found])
        (line,) = ax.plot(steps, values.mean(0), label=row)
        ax.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    if logarithmic:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel("step")
    ax.set_ylabel(label)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure
