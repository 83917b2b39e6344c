"""The language model as a recipe."""

from __future__ import annotations

import math
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from .._shared.files import read_table, write_table
from .._shared.loading import Loader
from .._shared.runs import Result, Run
from .._shared.seeding import seed_all
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import evaluate, fit
from .config import Config
from .data import Stream, load
from .figures import SECONDS, figures, seconds_per_step
from .model import EPSILON, Training

__all__ = ["NOTE", "Config", "figures", "table", "train"]

NOTE = (
    f"Perplexity: with {EPSILON:g} added to every probability. Support: words with probability; covered: tokens whose "
    "word has some. Both on test tokens. Seconds a step: median over the last quarter of the training."
)


class Clock(Callback):
    """Seconds of each step, median over each epoch, in a file of their own: they are no result of the seed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training)
        epoch, seconds = trainer.current_epoch + 1, sorted(pl_module.seconds)
        pl_module.seconds.clear()
        before = [row for row in read_table(self.path) if row["epoch"] < epoch] if self.path.exists() else []
        if seconds:
            write_table(self.path, [*before, {"epoch": epoch, "seconds": seconds[len(seconds) // 2]}])


def train(config: Config, folder: Path) -> Result:
    """Go through the text part by part; goes on where the folder stopped."""
    text = load(config)
    seed_all(config.seed, "weights")
    task = Training(config, text.words)
    fitted = fit(
        config, task, _parts(text.train, config), _first(text.validation, config), folder,
        epochs=config.epochs, monitor="val/surprise", label=folder.name, callbacks=[Clock(folder / SECONDS)],
    )  # fmt: skip
    measured = evaluate(config, task, _first(text.test, config), folder.name)
    return Result(
        metric="perplexity",
        value=math.exp(measured["test/surprise"]),
        n=min(config.validation, len(text.test)) * config.context,
        split=text.hash,
        metrics={
            "accuracy": measured["test/accuracy"],
            "support": measured["test/support"],
            "covered": measured["test/covered"],
            "best_epoch": fitted.best_epoch,
        },
        seconds=fitted.seconds,
    )


def _parts(stream: Stream, config: Config) -> Loader:
    """Each epoch has the next windows of the text, in random order."""
    n = config.steps * config.batch_size

    def take(positions: Tensor) -> tuple[Tensor, Tensor]:
        return stream.windows((loader.epoch * n + positions) % len(stream))

    loader = Loader(take, n, config.batch_size, config.seed)
    return loader


def _first(stream: Stream, config: Config) -> Loader:
    return Loader(stream.windows, min(config.validation, len(stream)), config.batch_size)


def table(runs: list[Run]) -> list[Row]:
    """One row a head."""
    return [
        {
            "head": name,
            "seeds": str(len(group)),
            "perplexity": mean_and_deviation([run.metrics["perplexity"] for run in group], 1),
            "accuracy %": mean_and_deviation([100 * run.metrics["accuracy"] for run in group], 2),
            "support": mean_and_deviation([run.metrics["support"] for run in group], 1),
            "covered %": mean_and_deviation([100 * run.metrics["covered"] for run in group], 2),
            "seconds a step": mean_and_deviation([_late(run) for run in group], 3),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
        }
        for name, group in rows_of(runs)
    ]


def _late(run: Run) -> float:
    seconds = [seconds for _, seconds in seconds_per_step(run)]
    last = sorted(seconds[-max(1, len(seconds) // 4) :])
    return last[len(last) // 2]
