"""Pictures of heads: their alphas, densities and weights. Each is a matplotlib figure, to save or to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..core.errors import ShapeError, TsallisError
from ..core.inputs import check_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def plot_per_head(values: Tensor, label: str = "alpha", limits: tuple[float, float] = (1.0, 2.0)) -> Figure:
    """One field per layer and head, with its value.

    Args:
        values: (layers, heads), such as alphas; NaN where there is none.
        label: what they are.
        limits: of the colours; with limits around 0, there are two.

    Returns:
        a matplotlib figure; `figure.savefig("alphas.png")` writes it.

    Example:
        >>> import torch, tsallis as ts
        >>> figure = ts.attention.plot_per_head(torch.full((2, 4), 1.5))
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['head', '']
    """
    found = _matrix(values, "values")
    colours = "RdBu" if limits[0] == -limits[1] else "viridis"
    figure = new_figure(1.6 + 0.5 * found.shape[1], 1.4 + 0.4 * found.shape[0])
    ax = figure.add_subplot()
    image = ax.imshow(found, vmin=limits[0], vmax=limits[1], cmap=colours, aspect="auto")
    low, high = (
        limits[0] + share * (limits[1] - limits[0]) for share in ((0.25, 0.75) if colours == "RdBu" else (0.5, 1))
    )
    for (layer, head), value in np.ndenumerate(found):
        ax.text(
            head,
            layer,
            f"{value:.2f}",
            ha="center",
            va="center",
            size=7,
            color="w" if value < low or value > high else "k",
        )
    ax.set_xticks(range(found.shape[1]))
    ax.set_yticks(range(found.shape[0]))
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    figure.colorbar(image, ax=ax, label=label)
    return figure


def plot_density(alphas: Tensor, densities: Tensor) -> Figure:
    """Density against alpha, one point per head, coloured by layer.

    Args:
        alphas: (layers, heads).
        densities: (layers, heads) share of the keys that heads attend to, as in `HeadReport`.

    Returns:
        a matplotlib figure.
    """
    x, y = _matrix(alphas, "alphas"), _matrix(densities, "densities")
    if x.shape != y.shape:
        raise ShapeError(f"alphas {tuple(x.shape)}, densities {tuple(y.shape)}", "one shape", "Pass both of one model")
    figure = new_figure(5.2, 3.6)
    ax = figure.add_subplot()
    layers = np.repeat(np.arange(len(x)), x.shape[1])
    points = ax.scatter(x.flatten(), y.flatten(), c=layers, cmap="viridis", s=24)
    ax.set_xlabel("alpha")
    ax.set_ylabel("density")
    ax.set_ylim(0, 1.02)
    ax.grid(alpha=0.3)
    figure.colorbar(points, ax=ax, label="layer", ticks=range(len(x)))
    return figure


def plot_trajectories(steps: Sequence[float], alphas: Mapping[str, Sequence[float]]) -> Figure:
    """Alphas while a model is trained.

    Args:
        steps: when they were looked at.
        alphas: a head's name -> its values; names that are equal up to their first space share a colour.

    Returns:
        a matplotlib figure.
    """
    figure = new_figure(5.6, 3.6)
    ax = figure.add_subplot()
    groups = list(dict.fromkeys(name.split(" ")[0] for name in alphas))
    for name, values in alphas.items():
        if len(values) != len(steps):
            raise ShapeError(f"{len(values)} values of {name}", f"{len(steps)}, one per step", "Pass all of them")
        group = groups.index(name.split(" ")[0])
        ax.plot(steps, values, color=f"C{group % 10}", linewidth=0.9, alpha=0.8)
    for number, group in enumerate(groups):
        ax.plot([], [], color=f"C{number % 10}", label=group)
    ax.set_xlabel("step")
    ax.set_ylabel("alpha")
    ax.grid(alpha=0.3)
    if groups:
        ax.legend(fontsize=7)
    return figure


def plot_heads(weights: Tensor, tokens: Sequence[str] | None = None, titles: Sequence[str] | None = None) -> Figure:
    """A map of weights for each head; exact zeros are left white.

    Args:
        weights: (H, Nq, Nk).
        tokens: Nk words beside the maps, of attention within a sequence.
        titles: above the H maps; without them their numbers.

    Returns:
        a matplotlib figure.
    """
    p = check_tensor(weights, "weights").detach().float().cpu().numpy()
    if p.ndim != 3 or not len(p):
        raise ShapeError(f"weights of shape {tuple(p.shape)}", "(H, Nq, Nk), H > 0", "Choose one sequence of a batch")
    if tokens is not None and len(tokens) != p.shape[2]:
        raise ShapeError(f"{len(tokens)} tokens", f"{p.shape[2]}, one per key", "Pass all of them")
    names = [f"head {h}" for h in range(len(p))] if titles is None else list(titles)
    if len(names) != len(p):
        raise ShapeError(f"{len(names)} titles", f"{len(p)}, one per head", "Pass all of them")
    across = min(4, len(p))
    down = -(-len(p) // across)
    side = 1.9 if tokens is None else max(2.2, 0.16 * len(tokens) + 0.8)
    figure = new_figure(across * side, down * side)
    for number, (head, name) in enumerate(zip(p, names, strict=True)):
        ax = figure.add_subplot(down, across, number + 1)
        draw_weights(ax, head)
        ax.set_title(name, size=8, parse_math=False)
        ax.set_xticks([])
        ax.set_yticks([])
        if tokens is not None:
            ax.set_xticks(range(len(tokens)), tokens, rotation=90, size=6, parse_math=False)
            if head.shape[0] == len(tokens) and number % across == 0:
                ax.set_yticks(range(len(tokens)), tokens, size=6, parse_math=False)
    return figure


def draw_weights(ax: Axes, weights: np.ndarray) -> AxesImage:
    """A field per weight; exact zeros are left white, the smallest other weight is yellow."""
    return ax.imshow(np.where(weights > 0, weights, np.nan), vmin=0, vmax=1, cmap="viridis_r")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TsallisError("No package matplotlib", "one to draw with", "Run: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def _matrix(given: Tensor, name: str) -> np.ndarray:
    x = check_tensor(given, name).detach().float().cpu().numpy()
    if x.ndim != 2:
        raise ShapeError(f"{name} of shape {tuple(x.shape)}", "(layers, heads)", "Stack the layers")
    return x
