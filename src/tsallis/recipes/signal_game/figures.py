"""Plots of the signalling game."""

from __future__ import annotations

from matplotlib.figure import Figure

from .._shared.plots import costs, curves, logarithmic, variances
from .._shared.runs import Run


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption."""
    return {
        "success": (
            curves(runs, "val/success", "validation success, %", scale=100, over="step"),
            "Success of the most probable image for the most probable symbol on validation games; the band spans the "
            "seeds.",
        ),
        "support": (
            curves(runs, "val/support", "symbols with probability", logarithmic, over="step"),
            "Mean number of symbols with probability on validation games: what an exact sum has to evaluate. Methods "
            "that draw from softmax give all of them some.",
        ),
        "cost": (
            costs(runs, "success", "success, %", "receiver's rows a game", scale=100),
            "Success on test games against the receiver's rows a game, means over the whole training; whiskers span "
            "the seeds.",
        ),
        **variances(runs, "a validation game's symbols"),
    }
