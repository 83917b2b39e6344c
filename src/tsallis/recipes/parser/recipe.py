"""Dependency parsing as a recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .._shared.files import read_json
from .._shared.loading import Loader, bucketed
from .._shared.runs import Result, Run
from .._shared.seeding import seed_all
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import fit
from .config import Config
from .data import load
from .figures import figures
from .findings import AMBIGUOUS, examine, keep
from .model import Training

__all__ = ["NOTE", "Config", "details", "figures", "table", "train"]

NOTE = (
    "UAS: share of words with the right head, of all words, punctuation included; trees have one word on the root. "
    "The epoch was chosen by dev. Of the sparse distribution: share of sentences with one tree, mean number of trees, "
    "share of words with several heads, and of those whose gold head has probability; marginals are unique, the trees "
    "that make them up are not."
)


def train(config: Config, folder: Path) -> Result:
    """Train, and look at distributions over trees; goes on where the folder stopped."""
    data = load(config)
    seed_all(config.seed, "weights")
    batches = bucketed(data.train.batch, data.train.lengths, config.batch_words, config.seed)
    task = Training(config, data.vocabulary, config.epochs * math.ceil(batches.n / config.devices))
    fitted = fit(
        config, task, batches, Loader(data.dev.batch, len(data.dev), config.eval_batch),
        folder, epochs=config.epochs, monitor="val/wrong", label=folder.name,
    )  # fmt: skip
    dev, test = (examine(task, part, config.eval_batch) for part in (data.dev, data.test))
    keep(dev, test, folder)
    return Result(
        metric="dev UAS",
        value=dev.uas,
        n=data.dev.n,
        split=data.hash,
        metrics={
            "test UAS": test.uas,
            **{f"{name}, dev": value for name, value in dev.measures().items()},
            **{f"{name}, test": value for name, value in test.measures().items()},
            "best_epoch": fitted.best_epoch,
        },
        seconds=fitted.seconds,
    )


def table(runs: list[Run]) -> list[Row]:
    """One row a loss."""

    def of(group: list[Run], name: str, digits: int = 2, scale: float = 100.0) -> str:
        found = [scale * run.metrics[name] for run in group if name in run.metrics]
        return mean_and_deviation(found, digits) if len(found) == len(group) else "-"

    return [
        {
            "loss": name,
            "seeds": str(len(group)),
            "dev UAS %": of(group, "dev UAS"),
            "test UAS %": of(group, "test UAS"),
            "whole trees % (test)": of(group, "whole, test"),
            "one tree % (test)": of(group, "single, test"),
            "trees (test)": of(group, "trees, test", 2, 1.0),
            "several heads % (test)": of(group, "several, test"),
            "gold head % (test)": of(group, "covered, test"),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
        }
        for name, group in rows_of(runs)
    ]


def details(runs: list[Run]) -> dict[str, list[Row]]:
    """Words between whose heads a parser does not decide, of dev sentences with few trees in which it decides least."""
    return {
        f"Ambiguous attachments: {name}, seed {run.result['seed']}": [
            _row(found, choice) for found in read_json(run.folder / AMBIGUOUS) for choice in found["choices"]
        ]
        for name, group in rows_of(runs)
        for run in group
        if (run.folder / AMBIGUOUS).exists()
    }


def _row(found: dict[str, Any], choice: dict[str, Any]) -> Row:
    names = ["root", *(f"{word} ({i})" for i, word in enumerate(found["words"], 1))]
    return {
        "sentence": " ".join(found["words"]),
        "trees": str(found["trees"]),
        "word": names[choice["word"]],
        "heads with probability": ", ".join(f"{names[head]} {p:.3f}" for head, p in choice["heads"]),
        "gold head": names[choice["gold"]],
    }
