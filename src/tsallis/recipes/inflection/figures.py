"""Plots of inflection."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .._shared.files import read_json
from .._shared.plots import curves
from .._shared.runs import Run
from .._shared.tables import rows_of


def figures(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Each figure by name, with its caption."""
    return {
        "wrong": (
            curves(runs, "val/wrong", "wrong dev words %", scale=100),
            "Dev words that greedy decoding gets wrong. The band spans the seeds.",
        ),
        "languages": (
            _languages(runs),
            "Test words whose beam holds every form that the model deems possible, of each language.",
        ),
        **_sweep(runs),
    }


def _languages(runs: list[Run]) -> Figure:
    groups = [(name, [read_json(run.folder / "languages.json") for run in group]) for name, group in rows_of(runs)]
    languages = list(groups[0][1][0])
    figure = Figure(figsize=(1.6 + 0.45 * len(languages), 3.6), layout="constrained")
    ax = figure.add_subplot()
    wide = 0.8 / len(groups)
    for i, (name, seeds) in enumerate(groups):
        values = [np.mean([of[language]["enumerated"] for of in seeds]) for language in languages]
        ax.bar(np.arange(len(languages)) + (i - (len(groups) - 1) / 2) * wide, values, wide, label=name)
    ax.set_xticks(range(len(languages)), languages, rotation=45, ha="right")
    ax.set_ylim(0, 100)
    ax.set_ylabel("beam holds all %")
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize="small", ncols=3)
    return figure


def _sweep(runs: list[Run]) -> dict[str, tuple[Figure, str]]:
    """Against the output's alpha, where rows differ by it."""
    groups: dict[str, dict[float, list[Run]]] = {}
    for run in runs:
        groups.setdefault(str(run.config["attention"]), {}).setdefault(float(run.config["output"]), []).append(run)
    if max(len(outputs) for outputs in groups.values()) < 3:
        return {}
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    for ax, (name, label) in zip(
        figure.subplots(1, 2), (("accuracy", "accuracy %"), ("enumerated", "beam holds all %")), strict=True
    ):
        for attention, outputs in groups.items():
            alphas = sorted(outputs)
            means = [np.mean([run.metrics[name] for run in outputs[alpha]]) for alpha in alphas]
            ax.plot(alphas, means, marker="o", label=f"attention {attention}")
        ax.set_xlabel("alpha of the output")
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    return {"alpha": (figure, "Accuracy, and how often the beam holds all, against the alpha of the output.")}
