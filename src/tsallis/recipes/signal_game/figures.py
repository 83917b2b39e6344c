"""Plots of the signalling game."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from .._shared.runs import Run
from .._shared.tables import rows_of

# Below this a variance is rounding: what is summed exactly varies not at all.
EXACT = 1e-12


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption."""
    shown = {
        "success": (
            _curves(runs, "val/success", "validation success, %", scale=100),
            "Success of the most probable image for the most probable symbol on validation games; the band spans the "
            "seeds.",
        ),
        "support": (
            _curves(runs, "val/support", "symbols with probability", log=True),
            "Mean number of symbols with probability on validation games: what an exact sum has to evaluate. Methods "
            "that draw from softmax give all of them some.",
        ),
        "cost": (
            _cost(runs),
            "Success on test games against the receiver's rows a game, means over the whole training; whiskers span "
            "the seeds.",
        ),
    }
    variances = {row: [run.metrics["gradient_variance"] for run in group] for row, group in rows_of(runs)}
    if drawn := {row: values for row, values in variances.items() if max(values) > EXACT}:
        shown["variance"] = (
            _variance(drawn),
            "Variance of one draw of the gradient in the sender's scores, a validation game, after the training; "
            f"whiskers span the seeds. None: {', '.join(row for row in variances if row not in drawn) or 'no method'}.",
        )
    return shown


def _curves(runs: list[Run], name: str, label: str, *, scale: float = 1.0, log: bool = False) -> Figure:
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for row, group in rows_of(runs):
        series = [{e["step"]: scale * e[name] for e in run.history()} for run in group]
        steps = sorted(set.intersection(*(set(s) for s in series)))
        values = np.array([[s[step] for step in steps] for s in series])
        (line,) = ax.plot(steps, values.mean(0), label=row)
        ax.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    if log:
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlabel("steps")
    ax.set_ylabel(label)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def _cost(runs: list[Run]) -> Figure:
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for row, group in rows_of(runs):
        both = [np.array([run.metrics[name] for run in group]) for name in ("rows", "success")]
        both[1] = 100 * both[1]
        means = [values.mean() for values in both]
        spread = [[[m - v.min()], [v.max() - m]] for m, v in zip(means, both, strict=True)]
        ax.errorbar(*means, xerr=spread[0], yerr=spread[1], marker="o", capsize=2, linestyle="none", label=row)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_ylim(0, 105)
    ax.set_xlabel("receiver's rows a game")
    ax.set_ylabel("success, %")
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def _variance(values: dict[str, list[float]]) -> Figure:
    figure = Figure(figsize=(5.6, 1.2 + 0.4 * len(values)), layout="constrained")
    ax = figure.add_subplot()
    for height, own in enumerate(values.values()):
        mean = float(np.mean(own))
        ax.errorbar(mean, height, xerr=[[mean - min(own)], [max(own) - mean]], marker="o", capsize=3)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_xscale("log")
    ax.set_xlabel("variance of the gradient in the sender's scores")
    ax.grid(alpha=0.3, axis="x")
    return figure
