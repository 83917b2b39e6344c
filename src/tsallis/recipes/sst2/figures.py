"""Pictures of the sentence classifier's heads."""

from __future__ import annotations

import re

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...attention import plot_density, plot_heads, plot_per_head, plot_trajectories
from .._shared.files import read_json, read_table, read_weights
from .._shared.runs import Run
from .._shared.tables import rows_of
from .heads import ALPHAS, EXAMPLE, HEADS, TOKENS

Drawn = dict[str, tuple[Figure, str]]


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption; of the first run of every row."""
    return {
        f"{kind}-{re.sub(r'[^0-9A-Za-z=.]+', '_', row)}": (
            figure,
            f"{caption} ({row}, seed {group[0].result['seed']}).",
        )
        for row, group in rows_of(runs)
        for kind, (figure, caption) in _of_run(group[0]).items()
    }


def _of_run(run: Run) -> Drawn:
    alphas, density, asked = (heads_table(run, name) for name in ("alpha", "density", "interrogation"))
    drawn = {
        "density": (plot_per_head(density, "density", (0.0, 1.0)), "Share of the tokens that each head attends to"),
        "interrogation": (
            plot_per_head(asked, "interrogation", (-0.5, 0.5)),
            "Weight of the last mark in questions, less that in statements",
        ),
    }
    if run.config["attention"] == "learn":
        drawn["alphas"] = plot_per_head(alphas), "Alpha of each head after training"
        drawn["density-alpha"] = plot_density(alphas, density), "Density against alpha"
        if history := read_table(run.folder / ALPHAS, optional=True):
            series = {head: [look[head] for look in history] for head in history[0] if head != "step"}
            drawn["trajectories"] = plot_trajectories([look["step"] for look in history], series), "Alphas in training"
    maps, tokens = read_weights(run.folder / EXAMPLE), read_json(run.folder / TOKENS)
    for number in range(len(maps)):
        caption = f"Weights of layer {number} in one sentence; white is exactly zero"
        drawn[f"maps-layer{number}"] = plot_heads(maps[f"layer {number}"], tokens), caption
    return drawn


def heads_table(run: Run, name: str) -> Tensor:
    """(layers, heads) values of a column; NaN where there is none."""
    rows = read_table(run.folder / HEADS)
    layers, heads = (1 + int(max(row[key] for row in rows)) for key in ("layer", "head"))
    values = torch.full((layers, heads), torch.nan)
    for row in rows:
        values[int(row["layer"]), int(row["head"])] = row.get(name, torch.nan)
    return values
