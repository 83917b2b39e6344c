"""Pictures of predictions: what is written in them, that nothing overlaps, and what they make of odd input."""

from __future__ import annotations

import io
import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tsallis.core.errors import ParameterError, ShapeError
from tsallis.decoding import Hypothesis, Tree, plot_alignment, plot_tree, tree

pytest.importorskip("matplotlib")

NAMES = ["$", "a", " bc", "def"]


def sequences(count: int, seed: int, length: int = 40) -> list[Hypothesis]:
    """Random distinct sequences whose probabilities sum to one; many begin alike."""
    generator = torch.Generator().manual_seed(seed)
    found: set[tuple[int, ...]] = set()
    while len(found) < count:
        n = int(torch.randint(length, (), generator=generator))
        drawn = torch.multinomial(torch.tensor([5.0, 2.0, 1.0]), n, True, generator=generator) + 1 if n else []
        found.add((*map(int, drawn), 0))
    p = torch.rand(count, generator=generator, dtype=torch.float64).square()
    return [
        Hypothesis(tokens, math.log(share), math.log(share))
        for tokens, share in zip(sorted(found), (p / p.sum()).tolist(), strict=True)
    ]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_branch_is_written_with_its_probability_and_width() -> None:
    found = [Hypothesis(t, math.log(p), 0.0) for t, p in (((1, 2, 0), 0.5), ((1, 2, 3, 0), 0.25), ((3, 3, 0), 0.25))]
    figure = plot_tree(tree(found), NAMES.__getitem__)
    expected = {"1.0000", "a bc", "0.7500", "defdef$", "0.2500", "$", "0.5000", "def$"}
    assert set(texts(figure)) == expected
    assert texts(figure).count("0.2500") == 2
    widths = {round(line.get_linewidth(), 6) for line in figure.axes[0].lines}
    assert widths == {round(0.6 + 4 * p, 6) for p in (1, 0.75, 0.5, 0.25)}


@pytest.mark.parametrize("leaves", [1, 7, 50])
def test_the_most_probable_are_shown_and_the_others_counted(leaves: int) -> None:
    found = sequences(30, seed=leaves)
    figure = plot_tree(tree(found), NAMES.__getitem__, leaves=leaves)
    shown = texts(figure)
    (more,) = [text for text in shown if text.startswith("and ")] or [None]
    order = sorted((math.exp(h.log_prob) for h in found), reverse=True)
    if leaves >= 30:
        assert more is None
    else:
        assert more is not None
        count, mass = re.fullmatch(r"and (\d+) more, (\S+) together", more).groups()
        assert int(count) == 30 - leaves
        assert float(mass) == pytest.approx(sum(order[leaves:]), abs=1e-4)
    numbers = [text for text in shown if re.fullmatch(r"\d\.\d{4}", text)]
    for p in order[:leaves]:
        assert f"{p:.4f}" in numbers


@pytest.mark.parametrize("seed", range(4))
def test_no_text_covers_another_or_leaves_the_picture(seed: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = plot_tree(tree(sequences(60, seed, 150)), NAMES.__getitem__, leaves=20)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) > 30
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    whole = figure.bbox
    assert all(whole.x0 <= b.x0 and b.x1 <= whole.x1 and whole.y0 <= b.y0 and b.y1 <= whole.y1 for b in boxes)


def test_long_sequences_are_wrapped_and_cut() -> None:
    long = plot_tree(tree([Hypothesis((*[3] * 5000, 0), 0.0, 0.0)]), NAMES.__getitem__, width=30)
    (label,) = [text for text in texts(long) if text.startswith("def")]
    lines = label.split("\n")
    assert len(lines) == 12
    assert max(map(len, lines)) <= 30
    assert lines[-1].endswith("…")
    assert max(long.get_size_inches()) < 10


def test_odd_trees_and_names() -> None:
    assert texts(plot_tree(Tree())) == ["0.0000"]
    assert "␣␣" in texts(plot_tree(tree([Hypothesis((1, 1), 0.0, 0.0)]), lambda token: " "))
    figure = plot_tree(tree([Hypothesis((1,), 0.0, 0.0)]), lambda token: "$x^2$<script>\x00\ud800\ufffe&")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue())
    assert not any(element.tag.endswith("script") for element in root.iter())
    assert "$x^2$<script>\ufffd\ufffd\ufffd&" in texts(figure)
    for wrong in ({"leaves": 0}, {"width": 0}):
        with pytest.raises(ParameterError, match="= 0"):
            plot_tree(Tree(), **wrong)


def test_zeros_of_an_alignment_are_white_and_small_weights_are_not() -> None:
    weights = torch.tensor([[0.0, 1e-6, 1.0], [0.5, 0.5, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    figure = plot_alignment(weights, ["a", " ", "x" * 100], ["$u$", "v"])
    (image,) = figure.axes[0].images
    colours = image.to_rgba(image.get_array(), norm=True)
    shown = np.where(colours[..., 3:] > 0, colours[..., :3], 1.0)
    assert (shown[0, 0] == 1).all()
    assert (shown[1, 2] == 1).all()
    assert np.abs(shown[0, 1] - 1).max() > 0.5, "the smallest weight has a colour"
    assert np.abs(shown[0, 1] - shown[0, 2]).max() > 0.5
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "␣", "x" * 23 + "…"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["$u$", "v"]
    figure.savefig(io.BytesIO(), format="png")


def test_large_alignments_have_a_size_and_small_ones_a_picture() -> None:
    large = plot_alignment(torch.rand(700, 900), ["s"] * 900, ["t"] * 700)
    assert max(large.get_size_inches()) <= 30
    assert len(large.axes[0].get_xticklabels()) <= 120
    assert len(large.axes[0].get_yticklabels()) <= 120
    one = plot_alignment(torch.ones(1, 1), ["s"], ["t"])
    one.savefig(io.BytesIO(), format="png")
    for weights, source, target in (
        (torch.rand(2, 3), "ab", "cd"), (torch.rand(2, 3), "abc", "c"), (torch.rand(0, 3), "abc", ""),
        (torch.rand(1, 2, 3), "abc", "cd"),
    ):  # fmt: skip
        with pytest.raises(ShapeError, match="one row for each target token"):
            plot_alignment(weights, list(source), list(target))
    for bad in (torch.nan, -0.1):
        with pytest.raises(ParameterError, match="negative or NaN"):
            plot_alignment(torch.full((1, 1), bad), ["s"], ["t"])
