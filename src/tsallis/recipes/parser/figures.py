"""Pictures of distributions over trees."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._shared.files import read_weights
from .._shared.runs import Run
from .._shared.tables import rows_of
from .findings import SENTENCES, WORDS

# Of confidence, in (0, 1); what is certain stands apart. Groups of sentences as to length; trees counted one by one.
BINS, GROUPS, MOST = 10, 12, 12


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption; on test sentences, of the first run of every row."""
    rows = [(name, group[0]) for name, group in rows_of(runs)]
    forests = [(name, run) for name, run in rows if (run.folder / SENTENCES.format("test")).exists()]
    drawn = {
        "confidence": (
            _confidence(rows),
            "Share of right heads against the probability of the head that was chosen, on test words; the line is "
            "where both are equal. Below: share of the words; the last bar is those with probability 1 (softmax: in "
            "float32).",
        )
    }
    if forests:
        drawn["trees"] = _trees(forests), "Share of test sentences by how many trees have probability."
        drawn["lengths"] = _lengths(forests), "Trees with probability against the length of test sentences, means."
    return drawn


def _confidence(rows: list[tuple[str, Run]]) -> Figure:
    figure = Figure(figsize=(5.6, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    for number, (name, run) in enumerate(rows):
        words = read_weights(run.folder / WORDS.format("test"))
        p, right = words["confidence"].double().numpy(), words["right"].numpy()
        # Weights of trees may sum to a little less than 1; bins are half-open above, so that 1 has its own.
        p = np.where((words["several"].numpy() == 1) & (p > 0.5), 1.0, p.clip(0, 1))
        place = np.floor(p * BINS).astype(int)
        n = np.bincount(place, minlength=BINS + 1)
        some = n > 0
        means = [np.bincount(place, x, BINS + 1)[some] / n[some] for x in (p, right)]
        upper.plot(means[0], means[1], marker="o", label=name)
        width = 0.8 / BINS / len(rows)
        lower.bar((np.arange(BINS + 1) + 0.5) / BINS + (number - len(rows) / 2 + 0.5) * width, n / n.sum(), width)
    _finish(upper, "", "share of right heads")
    upper.legend()
    _finish(lower, "probability of the head that was chosen", "words")
    return figure


def _trees(rows: list[tuple[str, Run]]) -> Figure:
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for number, (name, run) in enumerate(rows):
        trees = read_weights(run.folder / SENTENCES.format("test"))["trees"].numpy()
        width = 0.8 / len(rows)
        shares = np.bincount(trees.clip(max=MOST), minlength=MOST + 1)[1:] / len(trees)
        ax.bar(np.arange(1, MOST + 1) + (number - len(rows) / 2 + 0.5) * width, shares, width, label=name)
    ax.set_xticks(range(1, MOST + 1), [*map(str, range(1, MOST)), f"{MOST}+"])
    _finish(ax, "trees with probability", "share of sentences")
    ax.legend()
    return figure


def _lengths(rows: list[tuple[str, Run]]) -> Figure:
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for name, run in rows:
        sentences = read_weights(run.folder / SENTENCES.format("test"))
        # Sentences are in order of their length.
        parts = [np.array_split(sentences[key].double().numpy(), GROUPS) for key in ("lengths", "trees")]
        ax.plot(*([part.mean() for part in both if len(part)] for both in parts), marker="o", label=name)
    _finish(ax, "words", "trees with probability")
    ax.legend()
    return figure


def _finish(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
