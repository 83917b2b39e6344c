"""Fine-tuning a sentence classifier as a recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .._shared.files import append_row, read_table
from .._shared.loading import Loader
from .._shared.runs import Result, Run
from .._shared.seeding import seed_all
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import evaluate, fit
from .config import Config
from .data import load
from .figures import figures
from .heads import ALPHAS, HEADS, analyse, draw_example, named_alphas
from .model import Training, build, encode, longest

__all__ = ["NOTE", "Config", "details", "figures", "table", "train"]

NOTE = (
    "Dev: the epoch was chosen by it; test: the same weights. Density: share of the tokens that heads attend to, mean "
    "over heads on development sentences. Moved: share of heads whose alpha moved by more than 0.05. Positional, "
    "merging: weight at the best offset and within a word of several pieces, of the best head. Interrogation: weight "
    "of the mark in questions less that in statements, of the best head."
)
MOVED = 0.05
# Of the table of heads, with their digits.
COLUMNS = {
    "layer": 0, "head": 0, "alpha": 3, "density": 3, "confidence": 3, "disagreement": 3, "offset": 0, "positional": 3,
    "merging": 3, "interrogation": 3,
}  # fmt: skip


class Alphas(Callback):
    """Alphas of all heads now and then, in a file of their own."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.every, self.learned = path, config.log_every, config.attention == "learn"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.learned or step % self.every:
            return
        assert isinstance(pl_module, Training)
        row = named_alphas(pl_module.model)
        append_row(self.path, {"step": step, **row}, "step")


def train(config: Config, folder: Path) -> Result:
    """Fine-tune, and look at the heads; goes on where the folder stopped."""
    text = load(config)
    seed_all(config.seed, "weights")
    tokenizer, model = build(config, text.train.sentences)
    tokens = longest(config, tokenizer, model)
    train, dev, test = (
        encode(tokenizer, part.sentences, part.labels, tokens) for part in (text.train, text.dev, text.test)
    )
    asked = torch.tensor([sentence.endswith("?") for sentence in text.marked], dtype=torch.bool)
    marked = encode(tokenizer, text.marked, asked.long(), tokens)
    total = config.epochs * math.ceil(len(train.ids) / config.batch_size / config.devices)
    task = Training(config, model, total)
    loaders = [Loader(part.batch, len(part.ids), config.batch_size) for part in (dev, test)]
    fitted = fit(
        config, task, Loader(train.batch, len(train.ids), config.batch_size, config.seed), loaders[0], folder,
        epochs=config.epochs, monitor="val/error", label=folder.name, callbacks=[Alphas(folder / ALPHAS, config)],
    )  # fmt: skip
    measured = [evaluate(config, task, loader, folder.name) for loader in loaders]
    heads = analyse(config, model, dev, marked, asked, folder)
    draw_example(model, tokenizer, dev, folder)
    best = {name: max(row.get(name, -math.inf) for row in heads) for name in ("positional", "merging", "interrogation")}
    return Result(
        metric="dev accuracy",
        value=1 - measured[0]["test/error"],
        n=len(dev.ids),
        split=text.hash,
        metrics={
            "test accuracy": 1 - measured[1]["test/error"],
            "test loss": measured[1]["test/loss"],
            "density": _mean(heads, "density"),
            "alpha, mean": _mean(heads, "alpha"),
            "alpha, least": min(row["alpha"] for row in heads),
            "alpha, most": max(row["alpha"] for row in heads),
            "moved": _moved(heads, config),
            # Left out where there was nothing to look at: no word of several pieces, no question.
            **{name: value for name, value in best.items() if value > -math.inf},
            "questions": int((asked & (marked.last >= 0)).sum()),
            "best_epoch": fitted.best_epoch,
        },
        seconds=fitted.seconds,
    )


def _mean(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _moved(rows: list[dict[str, float]], config: Config) -> float:
    """Share of heads whose alpha moved."""
    if config.attention != "learn":
        return 0.0
    return sum(abs(row["alpha"] - config.alpha) > MOVED for row in rows) / len(rows)


def table(runs: list[Run]) -> list[Row]:
    """One row an attention."""

    def percent(group: list[Run], name: str) -> str:
        found = [100 * run.metrics[name] for run in group if name in run.metrics]
        return mean_and_deviation(found, 2) if len(found) == len(group) else "-"

    return [
        {
            "attention": name,
            "seeds": str(len(group)),
            "dev %": percent(group, "dev accuracy"),
            "test %": percent(group, "test accuracy"),
            "density %": percent(group, "density"),
            "alpha": _range(group),
            "moved %": percent(group, "moved"),
            "positional %": percent(group, "positional"),
            "merging %": percent(group, "merging"),
            "interrogation %": percent(group, "interrogation"),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
        }
        for name, group in rows_of(runs)
    ]


def details(runs: list[Run]) -> dict[str, list[Row]]:
    """A table of heads for each run; disagreement is that of a layer's heads."""
    return {
        f"Heads: {name}, seed {run.result['seed']}": [
            {column: f"{row[column]:.{digits}f}" if column in row else "-" for column, digits in COLUMNS.items()}
            for row in read_table(run.folder / HEADS)
        ]
        for name, group in rows_of(runs)
        for run in group
    }


def _range(group: list[Run]) -> str:
    least, mean, most = ([run.metrics[f"alpha, {name}"] for run in group] for name in ("least", "mean", "most"))
    middle = mean_and_deviation(mean, 2)
    return middle if min(least) == max(most) else f"{middle} ({min(least):.2f} to {max(most):.2f})"
