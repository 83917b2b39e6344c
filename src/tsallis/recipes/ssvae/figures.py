"""Plots of the semi-supervised VAE."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._shared.files import read_weights
from .._shared.plots import costs, curves, mosaic, reconstructions, variances
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
        "cost": (
            costs(runs, "accuracy", "test accuracy, %", "decoder rows per unlabelled example", scale=100),
            "Test accuracy against decoder rows per unlabelled example, means over the whole main training; whiskers "
            "span the seeds.",
        ),
        **variances(runs, "a validation image's classes, with the noise of h in it"),
        "reconstructions": (
            reconstructions(runs),
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


def _drawn(groups: list[tuple[str, list[Run]]]) -> Figure:
    figure = Figure(figsize=(3.4 * len(groups), 3.1), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for ax, (name, group) in zip(axes, groups, strict=True):
        drawn = read_weights(group[0].folder / "samples.safetensors")["drawn"].numpy()
        mosaic(ax, drawn.reshape(-1, CLASSES, drawn.shape[-1]), name)
    return figure
