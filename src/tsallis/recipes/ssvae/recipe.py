"""The semi-supervised VAE as a recipe."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from .._shared.config import experiment, plain
from .._shared.estimators import distribution
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
    "with probability. ELBO: nats an image, with a sample of the class where the training samples it. log p(x): a "
    "bound by importance sampling, all classes summed: the same for all methods. Accuracy, support, ELBO and bound on "
    "test images. Gradient variance: of one draw of the gradient in class scores, an image, noise of h included."
)


def train(config: Config, folder: Path) -> Result:
    """Warm start on labelled images, then the main training; goes on where the folder stopped."""
    data = load(config)
    seed_all(config.warm_seed, "weights")
    model = SemiSupervisedVAE(config, data.test.x.shape[1])
    seconds = _warm_start(config, data, model, folder.parent) if config.warm_epochs else 0.0
    # What an estimator learns does not depend on whether the warm start was trained here or found.
    seed_all(config.seed, "estimator")
    task = Training(model, config, ratio=len(data.unlabelled) / len(data.labelled))
    fitted = fit(
        config, task,
        Loader(data.both, len(data.unlabelled), config.batch_size, config.seed),
        _all(data.validation), folder,
        epochs=config.epochs, monitor="val/loss", label=folder.name,
    )  # fmt: skip
    measured = evaluate(config, task, _all(data.test), folder.name)
    _samples(model, data, folder)
    variance = _gradient_variance(task, data, config)
    rows = [epoch["train/rows"] for epoch in fitted.history]
    return Result(
        metric="accuracy",
        value=measured["test/accuracy"],
        n=len(data.test),
        split=data.hash,
        metrics={
            "elbo": measured["test/elbo"],
            "bound": measured["test/bound"],
            "gradient_variance": variance,
            "support": measured["test/support"],
            "rows": sum(rows) / len(rows),
            "best_epoch": fitted.best_epoch,
        },
        seconds=seconds + fitted.seconds,
    )


def _warm_start(config: Config, data: Split, model: SemiSupervisedVAE, folder: Path) -> float:
    """Depends neither on the seed of the run nor on how it samples, as published: all that train the classifier by one
    loss share it, in a folder beside theirs.
    """
    own = {"epochs", "lr", "max_rows", "gumbel_rate", "summed"}  # of the main training
    mapping = distribution(config.estimator, "categories")
    warm = replace(config, seed=config.warm_seed, estimator=mapping)
    shared = {key: value for key, value in experiment(plain(warm)).items() if key not in own}
    place = folder / f"warm-{mapping}-{hashlib.sha256(repr(sorted(shared.items())).encode()).hexdigest()[:12]}"
    train = Loader(data.known, len(data.unlabelled), config.batch_size, config.warm_seed)
    return fit(
        warm, WarmStart(model, warm, config.warm_lr),
        train, _all(data.validation), place,
        epochs=config.warm_epochs, monitor="val/loss", label=f"warm start, {mapping}",
    ).seconds  # fmt: skip


def _all(images: Images) -> Loader:
    return Loader(images.pair, len(images), 1000)


def _gradient_variance(task: Training, data: Split, config: Config) -> float:
    """Of one draw of the gradient in class scores, as in training; mean over some validation images."""
    task.train()
    seed_all(config.seed, "variance")
    x = data.validation.x[:200]
    e = task.expected(x, task.model.classifier(x).detach(), diagnostics=50)
    task.eval()
    return float(cast(torch.Tensor, e.gradient_variance).mean())


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
            "log p(x)": mean_and_deviation([run.metrics["bound"] for run in group], 2),
            "gradient variance": mean_and_deviation([run.metrics["gradient_variance"] for run in group], 1),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
            **({"published (support)": group[0].result["published"].get("text", "-")} if _any_published(runs) else {}),
        }
        for name, group in rows_of(runs)
    ]


def _any_published(runs: list[Run]) -> bool:
    return any(run.result["published"] for run in runs)
