"""Plots that several recipes draw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .runs import Run
from .tables import rows_of


def curves(
    runs: list[Run], name: str, label: str, adjust: Callable[[Axes], None] = lambda ax: None, *, scale: float = 1.0
) -> Figure:
    """A measure over epochs, one line a row; the band spans the seeds. Rows that do not have it are left out."""
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for row, group in rows_of(runs):
        series = [{e["epoch"]: scale * e[name] for e in run.history() if name in e} for run in group]
        epochs = sorted(set.intersection(*(set(s) for s in series)))
        if not epochs:
            continue
        values = np.array([[s[e] for e in epochs] for s in series])
        (line,) = ax.plot(epochs, values.mean(0), label=row)
        ax.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    adjust(ax)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel(label)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def mosaic(ax: Axes, images: np.ndarray, title: str) -> None:
    """A grid of square images (rows, columns, pixels), intensities from 0 to 1."""
    rows, columns, pixels = images.shape
    side = round(pixels**0.5)
    framed = np.pad(images.reshape(rows, columns, side, side), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.5)
    ax.imshow(framed.transpose(0, 2, 1, 3).reshape(rows * (side + 2), -1), cmap="gray_r", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.axis("off")
