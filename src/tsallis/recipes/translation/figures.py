"""Pictures of translation: accuracy against time, and what heads do."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...attention import plot_density, plot_heads, plot_per_head, plot_trajectories
from ...nn.alpha import START
from .._shared.clock import SECONDS
from .._shared.files import read_json, read_table, read_weights
from .._shared.plots import curves
from .._shared.runs import Run
from .._shared.tables import rows_of
from .findings import ASKED, MOVED, moved
from .heads import EXAMPLE, HEADS, NAMES, TOKENS
from .model import ALPHAS

Drawn = dict[str, tuple[Figure, str]]
Heads = list[dict[str, float]]


def figures(runs: list[Run]) -> Drawn:
    """Each figure by name, with its caption."""
    return {
        "bleu": (curves(runs, "val/BLEU", "dev BLEU"), "BLEU of greedy translations. The band spans the seeds."),
        "minutes": (
            minutes(runs, "seconds"),
            "The same against minutes of training steps, validation apart; each line is a seed.",
        ),
        "processor": (
            minutes(runs, "processor"),
            "The same against minutes of the processor, which other work on the machine does not count in.",
        ),
        "density": (
            by_layer(runs, "density"),
            "Share of the tokens that heads may attend to and do, mean over a layer's heads and the seeds.",
        ),
        "disagreement": (
            by_layer(runs, "disagreement"),
            "Jensen-Shannon divergence of a layer's heads, in nats, mean over seeds.",
        ),
        "density-heads": (histograms(runs, "density", (0.0, 1.0)), "How many heads have which density, of all seeds."),
        **{
            f"{kind}-{re.sub(r'[^0-9A-Za-z=.]+', '_', row)}": (figure, f"{caption} ({row}, seed {seed}).")
            for row, group in rows_of(runs)
            for kind, (figure, caption) in _of_run(group[0]).items()
            for seed in (group[0].result["seed"],)
        },
    }


def minutes(runs: list[Run], clock: str) -> Figure:
    """Dev BLEU against minutes, one line a run and one colour a row."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    ax = figure.add_subplot()
    for number, (row, group) in enumerate(rows_of(runs)):
        for i, run in enumerate(group):
            reached = [look["val/BLEU"] for look in run.history()]
            ax.plot(spent(run, clock), reached, color=f"C{number}", marker=".", linewidth=1, label=None if i else row)
    ax.set_xlabel("minutes" if clock == "seconds" else "minutes of the processor")
    ax.set_ylabel("dev BLEU")
    ax.set_xlim(left=0)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def spent(run: Run, clock: str) -> list[float]:
    """Minutes of training steps up to the end of each epoch, by the wall's clock (seconds) or the processor's."""
    return [float(m) for m in np.cumsum([look[clock] for look in read_table(run.folder / SECONDS)]) / 60]


def by_layer(runs: list[Run], name: str) -> Figure:
    """A measure of each layer, a panel for each kind of attention."""
    return _panels(runs, lambda ax, label, tables, kind, _: _line(ax, label, tables, kind, name), name, "layer")


def _line(ax: Axes, label: str, tables: list[Heads], kind: int, name: str) -> None:
    layers = sorted({int(head["layer"]) for head in tables[0]})
    found = [h for table in tables for h in table if h["type"] == kind and name in h]
    own = [[h[name] for h in found if h["layer"] == i] for i in layers]
    ax.plot(layers, [float(np.mean(values)) if values else np.nan for values in own], marker="o", label=label)
    ax.set_xticks(layers)


def histograms(runs: list[Run], name: str, limits: tuple[float, float]) -> Figure:
    """How many heads have which value, a panel for each kind of attention."""

    def draw(ax: Axes, label: str, tables: list[Heads], kind: int, number: int) -> None:
        values = [head[name] for table in tables for head in table if head["type"] == kind and name in head]
        ax.hist(values, 20, range=limits, histtype="step", label=label, color=f"C{number}")

    return _panels(runs, draw, "heads", name)


def _panels(runs: list[Run], draw: Callable[[Axes, str, list[Heads], int, int], None], y: str, x: str) -> Figure:
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    panels = figure.subplots(1, len(NAMES), sharey=True)
    for kind, (ax, title) in enumerate(zip(panels, NAMES, strict=True)):
        for number, (row, group) in enumerate(rows_of(runs)):
            draw(ax, row, [read_table(run.folder / HEADS) for run in group], kind, number)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(x)
        ax.grid(alpha=0.3)
    panels[0].set_ylabel(y)
    # Shared, and only now: limits that are set no longer follow what is drawn.
    panels[0].set_ylim(bottom=0)
    panels[-1].legend(fontsize=7)
    return figure


def _of_run(run: Run) -> Drawn:
    drawn: Drawn = {}
    if run.config["attention"] == "learn":
        alphas, table = heads_table(run, "alpha"), read_table(run.folder / HEADS)
        far = moved(table)
        enough = "at least" if sum(far) >= ASKED * len(far) else "less than"
        drawn["alphas"] = (
            histograms([run], "alpha", (1.0, 2.0)),
            f"Alphas of heads after training, from {START}. {sum(far)} of {len(far)} moved by more than {MOVED}, "
            f"{enough} a quarter",
        )
        drawn["alpha-heads"] = plot_per_head(alphas), f"Alpha of each head; {_lines(run)}"
        drawn["density-alpha"] = plot_density(alphas, heads_table(run, "density")), f"Density, alpha; {_lines(run)}"
        if history := read_table(run.folder / ALPHAS, optional=True):
            series = {head: [look[head] for look in history] for head in history[0] if head != "step"}
            drawn["trajectories"] = plot_trajectories([look["step"] for look in history], series), "Alphas in training"
    maps, tokens = read_weights(run.folder / EXAMPLE), read_json(run.folder / TOKENS)
    for number in range(len(maps)):
        caption = f"Weights of encoder layer {number} in one sentence; white is exactly zero"
        drawn[f"maps-layer{number}"] = plot_heads(maps[f"layer {number}"], tokens), caption
    return drawn


def _lines(run: Run) -> str:
    """What the lines of `heads_table` are."""
    layers = run.config["layers"]
    return ", ".join(f"layers {i * layers} to {(i + 1) * layers - 1}: {name}" for i, name in enumerate(NAMES))


def heads_table(run: Run, name: str) -> Tensor:
    """(types times layers, heads) values of a column; NaN where there is none."""
    layers = run.config["layers"]
    values = torch.full((len(NAMES) * layers, run.config["heads"]), torch.nan)
    for row in read_table(run.folder / HEADS):
        values[int(row["type"]) * layers + int(row["layer"]), int(row["head"])] = row.get(name, torch.nan)
    return values
