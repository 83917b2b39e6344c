"""Pictures of a prediction: what it attended to, and the tree of what else was possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..attention.plots import draw_weights, new_figure
from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor
from .layout import branches_of, place, shown_as
from .trees import Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches of a character and of a line of text in a tree, in a font of fixed width and eight points.
_ACROSS, _DOWN = 0.0675, 0.15
# Tokens that are named beside an alignment at most, of each sequence; of longer ones every second, third, ... is.
_NAMED = 120


def plot_alignment(weights: Tensor, source: Sequence[str], target: Sequence[str]) -> Figure:
    """Which source positions each target token attends to; exact zeros are left white, unlike the smallest weights.

    Args:
        weights: (T, S) in [0, 1].
        source: S tokens.
        target: T tokens.

    Returns:
        a matplotlib figure.

    Raises:
        ShapeError: the tokens are not those of the weights, or there are none.
        ParameterError: a weight is negative or NaN.

    Example:
        >>> import torch, tsallis as ts
        >>> weights = ts.sparsemax(torch.tensor([[2.0, 0.5, 0.0], [0.0, 1.0, 0.9]]))
        >>> figure = ts.decoding.plot_alignment(weights, ["a", "cat", "."], ["eine", "Katze"])
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['a', 'cat', '.']
    """
    p = check_tensor(weights, "weights").detach().float().cpu().numpy()
    if p.ndim != 2 or not p.size or p.shape != (len(target), len(source)):
        raise ShapeError(
            f"weights of shape {tuple(p.shape)} for {len(target)} target and {len(source)} source tokens",
            "(T, S), one row for each target token",
            "Choose one sequence of a batch, without its padding",
        )
    if not (p >= 0).all():
        raise ParameterError("weights that are negative or NaN", "weights in [0, 1]", "Pass those after the mapping")
    rows, columns = p.shape
    named = [range(0, size, -(-size // _NAMED)) for size in (columns, rows)]
    labels = [
        [shown_as(tokens[at], 24) for at in places] for tokens, places in zip((source, target), named, strict=True)
    ]
    above, left = (0.08 * max(map(len, texts)) for texts in labels)
    figure = new_figure(min(30, 1.6 + left + 0.24 * columns), min(30, 0.9 + above + 0.24 * rows))
    ax = figure.add_subplot()
    image = draw_weights(ax, p)
    ax.set_aspect("auto")
    for axis, places, texts in zip((ax.xaxis, ax.yaxis), named, labels, strict=True):
        axis.set_ticks(places, texts, size=7, parse_math=False)
    ax.tick_params("x", rotation=90, top=True, labeltop=True, bottom=False, labelbottom=False)
    if max(rows, columns) <= _NAMED:
        # Lines between the fields, for zeros have no colour of their own.
        ax.set_xticks(np.arange(1, columns) - 0.5, minor=True)
        ax.set_yticks(np.arange(1, rows) - 0.5, minor=True)
        ax.grid(which="minor", color="0.85", linewidth=0.4)
        ax.tick_params(which="minor", length=0)
    figure.colorbar(image, ax=ax, label="weight")
    return figure


def plot_tree(tree: Tree, name: Callable[[int], str] = str, *, leaves: int = 24, width: int = 40) -> Figure:
    """The tree of found sequences from left to right: a branch is as wide as it is probable.

    Args:
        tree: of the sequences.
        name: of a token.
        leaves: sequences shown at most, the most probable ones; how many others there are and their probability
            together is written below.
        width: characters after which the tokens of a branch go on in a new line.

    Returns:
        a matplotlib figure.

    Raises:
        ParameterError: leaves or width is not positive.

    Complexity:
        O(n) for n nodes of the tree.

    Example:
        >>> import torch, tsallis as ts
        >>> scores = torch.tensor([[-9.0, 1.0, 0.8], [9.0, 0.0, 0.0], [1.0, 0.6, -9.0]])
        >>> step = lambda tokens, state: (ts.sparsemax(scores[tokens]).log(), state)
        >>> found = ts.decoding.beam_search(step, torch.tensor([0]), eos=0, beam=2, max_length=3)
        >>> figure = ts.decoding.plot_tree(ts.decoding.tree(found.hypotheses[0]), "$ab".__getitem__)
        >>> sorted(text.get_text() for text in figure.axes[0].texts)
        ['$', '0.1200', '0.2800', '0.4000', '0.6000', '1.0000', 'a$', 'a$', 'b']
    """
    for what, value in (("leaves", leaves), ("width", width)):
        if value < 1:
            raise ParameterError(f"{what} = {value}", "1 or more", "Pass a positive number")
    branches, hidden = branches_of(tree, name, leaves, width)
    place(branches)
    root = branches[0]
    last = max(branch.x + branch.length for branch in branches)
    below = 2 if hidden else 0
    figure = new_figure((last + 3) * _ACROSS, (root.height + below + 0.5) * _DOWN)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_xlim(-1, last + 2)
    ax.set_ylim(root.height + below + 0.25, -0.25)
    font: dict[str, Any] = {"family": "monospace", "size": 8, "parse_math": False}
    for branch in branches:
        stroke: dict[str, Any] = {
            "color": "C0",
            "linewidth": 0.6 + 4 * min(branch.probability, 1.0),
            "solid_capstyle": "butt",
        }
        ax.plot([branch.x, branch.x + branch.length], [branch.y] * 2, **stroke)
        if branch.parent is not None:
            end = branch.parent.x + branch.parent.length
            middle = (end + branch.x) / 2
            ax.plot([end, middle, middle, branch.x], [branch.parent.y] * 2 + [branch.y] * 2, **stroke)
        if branch.label:
            ax.text(branch.x, branch.y - 0.35, "\n".join(branch.label), va="bottom", **font)
        ax.text(branch.x, branch.y + 0.3, branch.number, va="top", color="0.35", **{**font, "size": 7})
    if hidden:
        mass = sum(leaf.probability for leaf in hidden)
        ax.text(0, root.height + 0.6, f"and {len(hidden)} more, {mass:.4f} together", va="top", style="italic", **font)
    return figure
