"""Plots of the bit-vector VAE."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._shared.files import read_weights
from .._shared.plots import curves, mosaic
from .._shared.runs import Run
from .._shared.tables import rows_of

Groups = list[tuple[str, list[Run]]]


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption."""
    groups = rows_of(runs)
    drawn = {
        "bits": (
            _bits(groups),
            "Bits per dimension of test images against decoder rows per training image, means over the seeds. The line "
            "is a histogram of each pixel on its own.",
        ),
        "reconstructions": (
            _reconstructions(groups),
            "Test images (upper rows) and their expected pixels given the most probable bits (lower rows).",
        ),
    }
    if any("val/support" in epoch for run in runs for epoch in run.history()):
        drawn["support"] = (
            curves(runs, "val/support", "bit vectors with probability", _logarithmic),
            "Mean number of bit vectors with probability on validation images, after each epoch.",
        )
    if all("gradient variance" in run.metrics for run in runs):
        drawn["variance"] = (
            _variance(groups),
            "Variance of one draw of the gradient in an image's scores, summed over the bits, after the training; mean "
            "over validation images and seeds.",
        )
    return drawn


def _bits(groups: Groups) -> Figure:
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    ax = figure.add_subplot()
    for name, group in groups:
        x, y = (np.mean([run.metrics[key] for run in group]) for key in ("rows", "bits/dim"))
        ax.plot(x, y, "o", label=name)
    for floor in {run.metrics["histogram floor"] for _, group in groups for run in group}:
        ax.axhline(floor, color="grey", linestyle=":", linewidth=1)
    _logarithmic(ax, "x")
    _finish(ax, "decoder rows per training image", "bits/dim")
    ax.legend(fontsize=8)
    return figure


def _variance(groups: Groups) -> Figure:
    figure = Figure(figsize=(5.6, 1.2 + 0.4 * len(groups)), layout="constrained")
    ax = figure.add_subplot()
    means = [float(np.mean([run.metrics["gradient variance"] for run in group])) for _, group in groups]
    positive = [mean for mean in means if mean > 0] or [1.0]
    low, high = min(positive) / 10, max(positive) * 30
    for height, mean in enumerate(means):
        ax.barh(height, max(mean - low, 0.0), left=low, height=0.6)
        ax.text(max(mean, low), height, f"  {mean:.3g}", va="center", fontsize=8)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_yticks(range(len(groups)), [name for name, _ in groups])
    ax.invert_yaxis()
    _finish(ax, "variance of the gradient in the scores", "")
    return figure


def _reconstructions(groups: Groups) -> Figure:
    figure = Figure(figsize=(6.4, 1.5 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for ax, (name, group) in zip(axes, groups, strict=True):
        samples = read_weights(group[0].folder / "samples.safetensors")
        mosaic(ax, np.stack([samples["image"].numpy(), samples["reconstruction"].numpy()]), name)
    return figure


def _logarithmic(ax: Axes, axis: str = "y") -> None:
    scale, which = (ax.set_xscale, ax.xaxis) if axis == "x" else (ax.set_yscale, ax.yaxis)
    scale("log", base=2)
    which.set_major_formatter("{x:g}")


def _finish(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)
