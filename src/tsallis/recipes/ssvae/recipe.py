"""The semi-supervised VAE as a recipe."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from .._shared.config import experiment, plain
from .._shared.files import write_weights
from .._shared.loading import Loader
from .._shared.runs import Result, Run
from .._shared.seeding import generator, seed_all
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import evaluate, fit
from .config import Config
from .data import CLASSES, Images, Split, load
from .figures import figures
from .model import SemiSupervisedVAE, Training, WarmStart

__all__ = ["NOTE", "Config", "figures", "table", "train"]

NOTE = (
    "Decoder rows: run per unlabelled example, mean over the main training (dense: one a class). Support: classes "
    "with probability. ELBO: nats an image. Accuracy, support and ELBO on test images."
)


def train(config: Config, folder: Path) -> Result:
    """Warm start on labelled images, then the main training; goes on where the folder stopped."""
    data = load(config)
    seed_all(config.warm_seed, "weights")
    model = SemiSupervisedVAE(config, data.test.x.shape[1])
    seconds = _warm_start(config, data, model, folder.parent) if config.warm_epochs else 0.0
    task = Training(model, config, ratio=len(data.unlabelled) / len(data.labelled))
    fitted = fit(
        config, task,
        Loader(data.both, len(data.unlabelled), config.batch_size, config.seed),
        _all(data.validation), folder,
        epochs=config.epochs, monitor="val/loss", label=folder.name,
    )  # fmt: skip
    measured = evaluate(config, task, _all(data.test), folder.name)
    _samples(model, data, folder)
    rows = [epoch["train/rows"] for epoch in fitted.history]
    return Result(
        metric="accuracy",
        value=measured["test/accuracy"],
        n=len(data.test),
        split=data.hash,
        metrics={
            "elbo": measured["test/elbo"],
            "support": measured["test/support"],
            "rows": sum(rows) / len(rows),
            "best_epoch": fitted.best_epoch,
        },
        seconds=seconds + fitted.seconds,
    )


def _warm_start(config: Config, data: Split, model: SemiSupervisedVAE, folder: Path) -> float:
    """Does not depend on the seed of the run, as published: seeds of a method share it, in a folder beside theirs."""
    own = {"epochs", "lr", "max_rows"}  # of the main training
    shared = {key: value for key, value in experiment(plain(config)).items() if key not in own}
    place = folder / f"warm-{config.estimator}-{hashlib.sha256(repr(sorted(shared.items())).encode()).hexdigest()[:12]}"
    train = Loader(data.known, len(data.unlabelled), config.batch_size, config.warm_seed)
    return fit(
        replace(config, seed=config.warm_seed), WarmStart(model, config, config.warm_lr),
        train, _all(data.validation), place,
        epochs=config.warm_epochs, monitor="val/loss", label=f"warm start, {config.estimator}",
    ).seconds  # fmt: skip


def _all(images: Images) -> Loader:
    return Loader(images.pair, len(images), 1000)


@torch.no_grad()
def _samples(model: SemiSupervisedVAE, data: Split, folder: Path) -> None:
    """One test image of each class with its reconstruction, and every class drawn from the same eight latent points."""
    first = torch.stack([(data.test.y == c).nonzero()[0, 0] for c in range(CLASSES)])
    x = data.test.x[first]
    y = model.classifier(x).argmax(-1)
    h = torch.randn(8, model.latent, generator=generator("samples"))
    classes = torch.arange(CLASSES)
    drawn = model.decode(h.repeat_interleave(CLASSES, 0), classes.repeat(len(h))).sigmoid()
    reconstructed = model.decode(model.encode(model.seen(x), y)[0], y).sigmoid()
    write_weights(
        folder / "samples.safetensors", {"image": x, "class": y, "reconstruction": reconstructed, "drawn": drawn}
    )


def table(runs: list[Run]) -> list[Row]:
    """One row a method."""
    return [
        {
            "method": name,
            "seeds": str(len(group)),
            "accuracy %": mean_and_deviation([100 * run.metrics["accuracy"] for run in group], 2),
            "decoder rows": mean_and_deviation([run.metrics["rows"] for run in group], 2),
            "support": mean_and_deviation([run.metrics["support"] for run in group], 2),
            "ELBO": mean_and_deviation([run.metrics["elbo"] for run in group], 2),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
            **({"published (support)": group[0].result["published"].get("text", "-")} if _any_published(runs) else {}),
        }
        for name, group in rows_of(runs)
    ]


def _any_published(runs: list[Run]) -> bool:
    return any(run.result["published"] for run in runs)
