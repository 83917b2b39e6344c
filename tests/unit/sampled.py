"""Comparing samples with what is expected of them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats


def agree(counts, probabilities) -> bool:
    """Whether counts may come from these probabilities: a chi-square test at 1e-4, of cells that are seen at all."""
    counts, probabilities = np.asarray(counts, float), np.asarray(probabilities, float)
    assert abs(probabilities.sum() - 1) < 1e-8
    expected = probabilities * counts.sum()
    assert (counts[expected == 0] == 0).all()
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        counts, expected = counts[expected > 0], expected[expected > 0]
    return len(counts) < 2 or stats.chisquare(counts, expected).pvalue > 1e-4


def mean_is(samples: torch.Tensor, expected: torch.Tensor, sigmas: float = 4.5) -> bool:
    """Whether the mean of samples (N, ...) is what is expected, within standard errors."""
    error = samples.std(0) / len(samples) ** 0.5
    return bool(((samples.mean(0) - expected).abs() <= sigmas * error + 1e-12).all())


def slopes(f, *inputs: torch.Tensor, step: float = 1e-5) -> list[torch.Tensor]:
    """Central differences of a scalar function in each entry of its inputs."""
    found = []
    for i, x in enumerate(inputs):
        flat = torch.zeros(x.numel(), dtype=x.dtype)
        for j in range(x.numel()):
            values = []
            for sign in (1, -1):
                moved = x.detach().clone().view(-1)
                moved[j] += sign * step
                values.append(f(*inputs[:i], moved.view_as(x), *inputs[i + 1 :]))
            flat[j] = (values[0] - values[1]) / (2 * step)
        found.append(flat.view_as(x))
    return found


def face_counts(y: torch.Tensor) -> torch.Tensor:
    """How many of points (N, 3) are on each of the seven faces of the simplex."""
    return ((y > 0).long() @ torch.tensor([1, 2, 4]) - 1).bincount(minlength=7)
