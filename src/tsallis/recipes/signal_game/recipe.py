"""The signalling game as a recipe."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .._shared.loading import Loader
from .._shared.runs import Result, Run
from .._shared.seeding import generator, seed_all
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import evaluate, fit
from .config import Config
from .data import Batch, Games, Images, load
from .model import Training

__all__ = ["Config", "table", "train"]


def train(config: Config, folder: Path) -> Result:
    """Train both agents; goes on where the folder stopped."""
    data = load(config)
    seed_all(config.seed, "weights")
    task = Training(config, data.test.features.shape[1])
    fitted = fit(
        config, task, _stream(data.train, config), _all(data.validation, config), folder,
        epochs=config.steps // config.epoch_steps, monitor="val/loss", label=folder.name,
    )  # fmt: skip
    measured = evaluate(config, task, _all(data.test, config), folder.name)
    rows = [epoch["train/rows"] for epoch in fitted.history]
    return Result(
        metric="success",
        value=measured["test/success"],
        n=len(data.test),
        split=data.hash,
        metrics={
            "expected": measured["test/expected"],
            "support": measured["test/support"],
            "rows": sum(rows) / len(rows),
            "best_epoch": fitted.best_epoch,
        },
        seconds=fitted.seconds,
    )


def _stream(images: Images, config: Config) -> Loader:
    """New games in every epoch."""
    known: dict[int, Games] = {}
    n = config.epoch_steps * config.batch_size

    def take(positions: Tensor) -> Batch:
        epoch = loader.epoch
        if epoch not in known:
            known.clear()
            known[epoch] = images.games(n, config.images, generator(config.seed, "games", epoch))
        return known[epoch].batch(positions)

    loader = Loader(take, n, config.batch_size, config.seed)
    return loader


def _all(games: Games, config: Config) -> Loader:
    return Loader(games.batch, len(games), config.batch_size)


def table(runs: list[Run]) -> list[Row]:
    """One row a method."""
    return [
        {
            "method": name,
            "seeds": str(len(group)),
            "success %": mean_and_deviation([100 * run.metrics["success"] for run in group], 2),
            "expected success %": mean_and_deviation([100 * run.metrics["expected"] for run in group], 2),
            "support": mean_and_deviation([run.metrics["support"] for run in group], 2),
            "decoder rows": mean_and_deviation([run.metrics["rows"] for run in group], 2),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
        }
        for name, group in rows_of(runs)
    ]
