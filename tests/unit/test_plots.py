"""Pictures of heads: that they show what was given, and that they need matplotlib only when they are drawn."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch

import tsallis as ts
from tsallis.core.errors import ShapeError


def test_a_field_per_head_shows_its_value() -> None:
    values = torch.tensor([[1.25, 1.5, torch.nan], [1.75, 2.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    figure = ts.attention.plot_per_head(values)
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["1.25", "1.50", "nan", "1.75", "2.00", "1.00"]
    (image,) = ax.images
    assert np.array_equal(np.asarray(image.get_array())[1], [1.75, 2.0, 1.0])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue()[:4] == b"\x89PNG"


def test_density_has_a_point_per_head() -> None:
    alphas, densities = torch.rand(3, 4) + 1, torch.rand(3, 4)
    (points,) = ts.attention.plot_density(alphas, densities).axes[0].collections
    assert np.allclose(points.get_offsets(), torch.stack([alphas, densities], -1).view(-1, 2))
    assert np.array_equal(points.get_array(), np.repeat([0, 1, 2], 4))
    with pytest.raises(ShapeError, match="one shape"):
        ts.attention.plot_density(alphas, densities[:2])


def test_trajectories_share_colours_by_layer() -> None:
    series = {"layer0 head0": [1.5, 1.6], "layer0 head1": [1.5, 1.4], "layer1 head0": [1.5, 1.9]}
    ax = ts.attention.plot_trajectories([10, 20], series).axes[0]
    lines = [line for line in ax.lines if len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in lines] == list(series.values())
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["layer0", "layer1"]
    with pytest.raises(ShapeError, match="one per step"):
        ts.attention.plot_trajectories([10], series)


def test_maps_leave_zeros_white() -> None:
    weights = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]).repeat(5, 1, 1)
    axes = ts.attention.plot_heads(weights, ["a", "b"]).axes
    assert [ax.get_title() for ax in axes] == [f"head {h}" for h in range(5)]
    shown = np.ma.filled(axes[4].images[0].get_array(), np.nan)
    assert np.isnan(shown[0, 0])
    assert shown[0, 1] == 1
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["a", "b"]
    assert ts.attention.plot_heads(weights[:, :1], titles=list("vwxyz")).axes[0].get_title() == "v"
    for wrong in ({"tokens": ["a"]}, {"titles": ["a"]}):
        with pytest.raises(ShapeError, match="one per"):
            ts.attention.plot_heads(weights, **wrong)
    with pytest.raises(ShapeError, match="one sequence"):
        ts.attention.plot_heads(weights[None])


def test_without_matplotlib_the_error_says_so() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import torch, tsallis as ts\n"
        "for draw in (lambda: ts.attention.plot_per_head(torch.ones(1, 1)),\n"
        "             lambda: ts.decoding.plot_tree(ts.decoding.Tree())):\n"
        "    try: draw()\n"
        "    except ts.core.errors.TsallisError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.count("pip install matplotlib") == 2, done.stderr
