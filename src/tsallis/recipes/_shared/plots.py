"""Plots that several recipes draw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .files import read_weights
from .runs import Run
from .tables import rows_of

Adjust = Callable[[Axes], None]
# Below this a variance is rounding: what is summed exactly varies not at all.
EXACT = 1e-12


def curves(
    runs: list[Run], name: str, label: str, adjust: Adjust | None = None, *, scale: float = 1.0, over: str = "epoch"
) -> Figure:
    """A measure over epochs or steps, one line a row; the band spans the seeds."""
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for row, group in rows_of(runs):
        series = [{e[over]: scale * e[name] for e in run.history()} for run in group]
        places = sorted(set.intersection(*(set(s) for s in series)))
        values = np.array([[s[place] for place in places] for s in series])
        (line,) = ax.plot(places, values.mean(0), label=row)
        ax.fill_between(places, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(figure, ax, over, label, adjust)


def costs(
    runs: list[Run], name: str, label: str, rows: str, adjust: Adjust | None = None, *, scale: float = 1.0
) -> Figure:
    """A measure of each row of the table against the decoder rows that it costs; whiskers span the seeds."""
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    ax = figure.add_subplot()
    for row, group in rows_of(runs):
        x, y = np.array([[run.metrics["rows"], scale * run.metrics[name]] for run in group]).T
        spread = [[[v.mean() - v.min()], [v.max() - v.mean()]] for v in (x, y)]
        ax.errorbar(
            x.mean(), y.mean(), xerr=spread[0], yerr=spread[1], marker="o", capsize=2, linestyle="none", label=row
        )
    logarithmic(ax, "x")
    return _finished(figure, ax, rows, label, adjust)


def variances(runs: list[Run], of: str) -> dict[str, tuple[Figure, str]]:
    """The variance of one draw of the gradient in scores, a line a row of the table; none if all is exact."""
    found = {row: [run.metrics["gradient_variance"] for run in group] for row, group in rows_of(runs)}
    drawn = {row: values for row, values in found.items() if max(values) > EXACT}
    if not drawn:
        return {}
    figure = Figure(figsize=(5.6, 1.2 + 0.4 * len(drawn)), layout="constrained")
    ax = figure.add_subplot()
    for height, values in enumerate(drawn.values()):
        mean = float(np.mean(values))
        ax.errorbar(mean, height, xerr=[[mean - min(values)], [max(values) - mean]], marker="o", capsize=3)
        ax.annotate(f"{mean:.3g}", (mean, height), xytext=(6, 4), textcoords="offset points", fontsize=8)
    ax.set_yticks(range(len(drawn)), list(drawn))
    ax.set_ylim(len(drawn) - 0.5, -0.5)
    ax.set_xscale("log")
    ax.set_xlabel("variance of the gradient in the scores")
    ax.grid(alpha=0.3, axis="x")
    exact = [row for row in found if row not in drawn]
    caption = (
        f"Variance of one draw of the gradient in the scores of {of}, after the training; whiskers span the seeds."
    )
    return {"variance": (figure, f"{caption} None: {', '.join(exact)}." if exact else caption)}


def logarithmic(ax: Axes, axis: str = "y") -> None:
    """A scale of powers of two, with plain numbers."""
    scale, which = (ax.set_xscale, ax.xaxis) if axis == "x" else (ax.set_yscale, ax.yaxis)
    scale("log", base=2)
    which.set_major_formatter("{x:g}")


def mosaic(ax: Axes, images: np.ndarray, title: str) -> None:
    """A grid of square images (rows, columns, pixels), intensities from 0 to 1."""
    rows, columns, pixels = images.shape
    side = round(pixels**0.5)
    framed = np.pad(images.reshape(rows, columns, side, side), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.5)
    ax.imshow(framed.transpose(0, 2, 1, 3).reshape(rows * (side + 2), -1), cmap="gray_r", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.axis("off")


def reconstructions(runs: list[Run]) -> Figure:
    """Images and their reconstructions, below each other, of the first run of each row."""
    groups = rows_of(runs)
    figure = Figure(figsize=(6.4, 1.5 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for ax, (name, group) in zip(axes, groups, strict=True):
        samples = read_weights(group[0].folder / "samples.safetensors")
        mosaic(ax, np.stack([samples["image"].numpy(), samples["reconstruction"].numpy()]), name)
    return figure


def _finished(figure: Figure, ax: Axes, x: str, y: str, adjust: Adjust | None) -> Figure:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    if adjust is not None:
        adjust(ax)
    return figure
