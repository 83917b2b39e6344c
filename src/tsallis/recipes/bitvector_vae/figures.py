"""Plots of the bit-vector VAE."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._shared.plots import costs, curves, logarithmic, reconstructions, variances
from .._shared.runs import Run


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption."""

    def floors(ax: Axes) -> None:
        for floor in {run.metrics["histogram floor"] for run in runs}:
            ax.axhline(floor, color="grey", linestyle=":", linewidth=1)

    drawn = {
        "bits": (
            costs(runs, "bits/dim", "bits/dim", "decoder rows per training image", floors),
            "Bits per dimension of test images against decoder rows per training image; whiskers span the seeds. The "
            "line is a histogram of each pixel on its own.",
        ),
        "reconstructions": (
            reconstructions(runs),
            "Test images (upper rows) and their expected pixels given the most probable bits (lower rows).",
        ),
    }
    if sparse := [run for run in runs if any("val/support" in epoch for epoch in run.history())]:
        drawn["support"] = (
            curves(sparse, "val/support", "bit vectors with probability", logarithmic),
            "Mean number of bit vectors with probability on validation images, after each epoch.",
        )
    measured = [run for run in runs if "gradient_variance" in run.metrics]
    return {**drawn, **(variances(measured, "a validation image's bits") if measured else {})}
