"""The signalling game as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .._shared.loading import Loader
from .._shared.runs import Result, Run
from .._shared.seeding import generator, seed_all
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import evaluate, fit
from .config import Config
from .data import Batch, Games, Images, load
from .figures import figures
from .model import Training

__all__ = ["NOTE", "Config", "figures", "table", "train"]

NOTE = (
    "All on the same test games. Success: of the most probable image for the most probable symbol. Expected success: "
    "over symbols, exactly where they are summed, else of one draw. Released: as the released code measures it, which "
    "is not alike for all methods (dense and sparse: expected; SFE and SFE+ trained with accuracy: of a drawn symbol "
    "and a drawn guess; Gumbel: of a relaxed symbol). Support: symbols with probability. Used: symbols that are the "
    "most probable one in some test game. Decoder rows: run a game, mean over the training; calls: of the receiver, a "
    "step. Gradient variance: of one draw of the gradient in the sender's scores, a game."
)
# Validation games, and draws for each, from which the variance of gradients is measured.
GAMES, DRAWS = 256, 20


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
    of_training = {
        name: sum(epoch[f"train/{name}"] for epoch in fitted.history) / len(fitted.history)
        for name in ("rows", "calls")
    }
    return Result(
        metric="success",
        value=measured["test/success"],
        n=len(data.test),
        split=data.hash,
        metrics={
            **{name: measured[f"test/{name}"] for name in ("expected", "released", "support")},
            **of_training,
            "used": _used(task, data.test, config),
            "gradient_variance": _gradient_variance(task, data.validation, config),
            "best_epoch": fitted.best_epoch,
        },
        seconds=fitted.seconds,
    )


def _stream(images: Images, config: Config) -> Loader:
    """New games in every epoch, as many as its steps need on all devices."""
    known: dict[int, Games] = {}
    n = config.epoch_steps * config.batch_size * config.devices

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


@torch.no_grad()
def _used(task: Training, games: Games, config: Config) -> int:
    """How many symbols are the most probable one in some game."""
    return len(torch.cat([task.scores(batch).argmax(-1) for batch in _all(games, config)]).unique())


def _gradient_variance(task: Training, games: Games, config: Config) -> float:
    """Of one draw of the gradient in the sender's scores, as in training; mean over some games."""
    task.train()
    seed_all(config.seed, "variance")
    batch = games.batch(torch.arange(min(GAMES, len(games))))
    e = task.expected(batch, task.scores(batch).detach(), task.loss(config.entropy_weight), diagnostics=DRAWS)
    task.eval()
    return float(cast(Tensor, e.gradient_variance).mean())


def table(runs: list[Run]) -> list[Row]:
    """One row a method."""

    def of(group: list[Run], name: str, digits: int, scale: float = 1.0) -> str:
        return mean_and_deviation([scale * run.metrics[name] for run in group], digits)

    any_published = any(run.result["published"] for run in runs)
    return [
        {
            "method": name,
            "seeds": str(len(group)),
            "success %": of(group, "success", 2, 100),
            "expected success %": of(group, "expected", 2, 100),
            "released %": of(group, "released", 2, 100),
            "support": of(group, "support", 2),
            "used": of(group, "used", 0),
            "decoder rows": of(group, "rows", 2),
            "calls": of(group, "calls", 0),
            "gradient variance": of(group, "gradient_variance", 4),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
            **({"published (rows)": group[0].result["published"].get("text", "-")} if any_published else {}),
        }
        for name, group in rows_of(runs)
    ]
