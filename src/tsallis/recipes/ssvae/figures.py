"""Plots of the semi-supervised VAE."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._shared.files import read_weights
from .._shared.plots import curves, mosaic
from .._shared.runs import Run
from .._shared.tables import rows_of
from .data import CLASSES


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption."""
    return {
        "accuracy": (
            curves(runs, "val/accuracy", "validation accuracy, %", scale=100),
            "Validation accuracy after each epoch of the main training; the band spans the seeds.",
        ),
        "support": (
            curves(runs, "val/support", "classes with probability", _up_to_all),
            "Mean number of classes with probability on validation images: what an exact sum has to evaluate.",
        ),
        "rows": (
            _rows(runs),
            "Decoder rows per unlabelled example, mean over the whole main training; a whisker spans the seeds.",
        ),
        "reconstructions": (
            _reconstructions(rows_of(runs)),
            "A test image of each class (upper rows) and its reconstruction with the most probable class (lower rows).",
        ),
        "classes": (
            _drawn(rows_of(runs)),
            "Every class (columns) drawn from the same points h (rows): style and class have come apart.",
        ),
    }


def _up_to_all(ax: Axes) -> None:
    ax.set_ylim(0, CLASSES * 1.05)
    ax.axhline(CLASSES, color="grey", linestyle=":", linewidth=1)


def _rows(runs: list[Run]) -> Figure:
    groups = rows_of(runs)
    figure = Figure(figsize=(5.6, 1.2 + 0.5 * len(groups)), layout="constrained")
    ax = figure.add_subplot()
    for height, (_, group) in enumerate(groups):
        values = [run.metrics["rows"] for run in group]
        mean = float(np.mean(values))
        ax.barh(height, mean, xerr=[[mean - min(values)], [max(values) - mean]], height=0.6)
        ax.text(mean, height, f"  {mean:.2f}", va="center")
    ax.set_yticks(range(len(groups)), [name for name, _ in groups])
    ax.invert_yaxis()
    ax.set_xlim(0, CLASSES * 1.15)
    ax.set_xlabel("decoder rows per unlabelled example")
    return figure


def _reconstructions(groups: list[tuple[str, list[Run]]]) -> Figure:
    figure = Figure(figsize=(6.4, 1.5 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for ax, (name, group) in zip(axes, groups, strict=True):
        samples = read_weights(group[0].folder / "samples.safetensors")
        mosaic(ax, np.stack([samples["image"].numpy(), samples["reconstruction"].numpy()]), name)
    return figure


def _drawn(groups: list[tuple[str, list[Run]]]) -> Figure:
    figure = Figure(figsize=(3.4 * len(groups), 3.1), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for ax, (name, group) in zip(axes, groups, strict=True):
        drawn = read_weights(group[0].folder / "samples.safetensors")["drawn"].numpy()
        mosaic(ax, drawn.reshape(-1, CLASSES, drawn.shape[-1]), name)
    return figure
