"""Pictures of the sentence classifier's heads."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...attention import plot_alphas, plot_density, plot_heads, plot_trajectories
from .._shared.files import read_json, read_table, read_weights
from .._shared.runs import Run
from .heads import ALPHAS, EXAMPLE, HEADS, TOKENS


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption; of the first run of every row."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.row, run)
    drawn: dict[str, tuple[Figure, str]] = {}
    for row, run in first.items():
        which = f"{row}, seed {run.result['seed']}"
        alphas, density = (heads_table(run, name) for name in ("alpha", "density"))
        drawn[f"density-{row}"] = (
            plot_alphas(density, "density", (0.0, 1.0)), f"Share of the tokens that each head attends to ({which})."
        )  # fmt: skip
        if run.config["attention"] == "learn":
            drawn[f"alphas-{row}"] = plot_alphas(alphas), f"Alpha of each head after training ({which})."
            drawn[f"density-alpha-{row}"] = plot_density(alphas, density), f"Density against alpha ({which})."
            history = read_table(run.folder / ALPHAS)
            if history:
                names = [name for name in history[0] if name != "step"]
                series = {name: [look[name] for look in history] for name in names}
                drawn[f"trajectories-{row}"] = (
                    plot_trajectories([look["step"] for look in history], series), f"Alphas in training ({which})."
                )  # fmt: skip
        drawn[f"interrogation-{row}"] = (
            plot_alphas(heads_table(run, "interrogation"), "interrogation", (-0.5, 0.5)),
            f"Weight of the last mark in questions, less that in statements ({which}).",
        )
        layers, tokens = read_weights(run.folder / EXAMPLE), read_json(run.folder / TOKENS)
        for name in sorted(layers):
            drawn[f"maps-{row}-{name.replace(' ', '')}"] = (
                plot_heads(layers[name], tokens), f"Weights of {name} in one sentence; white is exactly zero ({which})."
            )  # fmt: skip
    return drawn


def heads_table(run: Run, name: str) -> Tensor:
    """(layers, heads) values of a column; NaN where there is none."""
    rows = read_table(run.folder / HEADS)
    layers, heads = (1 + int(max(row[key] for row in rows)) for key in ("layer", "head"))
    values = torch.full((layers, heads), torch.nan)
    for row in rows:
        values[int(row["layer"]), int(row["head"])] = row.get(name, torch.nan)
    return values
