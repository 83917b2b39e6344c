"""The bit-vector VAE as a recipe."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Timer

from .._shared.files import write_weights
from .._shared.loading import Loader
from .._shared.runs import Result, Run
from .._shared.seeding import seed_all
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import evaluate, fit
from .config import Config
from .data import Split, histogram_floor, load
from .evaluation import Posterior
from .figures import figures
from .model import BitVectorVAE, Training

__all__ = ["NOTE", "Config", "figures", "table", "train"]

NOTE = (
    "Bits/dim: bound on -log2 p(x) per pixel by importance sampling, one estimator for all rows. Released: as the "
    "authors' code measures, otherwise for sparse rows than for the others. ELBO, rate, distortion: nats an image. "
    "Support: mean (median). Histogram floor: each pixel on its own. All on test images, but decoder rows (mean per "
    "training image, over the whole training) and gradient variance (of one draw of the gradient in the scores of a "
    "validation image)."
)
# Images in a batch of an evaluation.
TOGETHER = 32
SHOWN = 10


def train(config: Config, folder: Path) -> Result:
    """Train, and measure on test images; goes on where the folder stopped."""
    data = load(config)
    pixels = data.train.shape[1]
    seed_all(config.seed, "weights")
    task = Training(BitVectorVAE(config, pixels, data.levels), config, pixels)
    limit: list[Callback] = []
    if config.max_minutes is not None:
        # Its time is part of the checkpoint.
        limit = [Timer(timedelta(minutes=config.max_minutes), verbose=False)]
    fitted = fit(
        config, task,
        Loader(lambda i: data.train[i], len(data.train), config.batch_size, config.seed),
        Loader(lambda i: data.validation[i], len(data.validation), 250), folder,
        epochs=config.epochs, monitor="val/loss", label=folder.name, callbacks=limit,
    )  # fmt: skip
    measured = evaluate(config, task, Loader(lambda i: data.test[i], len(data.test), TOGETHER), folder.name)
    measured = {name.removeprefix("test/").replace("_", " "): value for name, value in measured.items()}
    if not math.isnan(median := task.median_support()):
        measured["median support"] = median
    if config.variance_images:
        measured["gradient_variance"] = _variance(task, data, config)
    floor, smoothing = histogram_floor(data)
    _samples(task, data, folder)
    ends = [0, *(int(row["step"]) for row in fitted.history)]
    steps = [end - begin for begin, end in pairwise(ends)]
    means = {
        name: sum(row[f"train/{name}"] * n for row, n in zip(fitted.history, steps, strict=True)) / sum(steps)
        for name in ("rows", "calls")
    }
    return Result(
        metric="bits/dim",
        value=measured.pop("bits"),
        n=len(data.test),
        split=data.hash,
        metrics={
            **measured, **means, "histogram floor": floor, "smoothing": smoothing,
            "steps": sum(steps), "epochs": len(steps), "best_epoch": fitted.best_epoch,
        },
        seconds=fitted.seconds,
    )  # fmt: skip


@torch.no_grad()
def _variance(task: Training, data: Split, config: Config) -> float:
    """Of one draw of the gradient in an image's scores, summed over the scores; mean over validation images."""
    seed_all("variance")
    x = data.validation[: config.variance_images]
    task.estimator.train()  # relaxed samples, where it draws such
    try:
        found = task.expected(x, diagnostics=config.variance_draws).gradient_variance
    finally:
        task.estimator.eval()
    assert found is not None
    return float(found.mean())


@torch.no_grad()
def _samples(task: Training, data: Split, folder: Path) -> None:
    """The first test images and their reconstructions from the most probable bits."""
    seed_all("samples")
    x = data.test[:SHOWN]
    z = Posterior.of(task.expected(x)).most_probable()
    model = task.model
    write_weights(folder / "samples.safetensors", {"image": model.intensities(x), "reconstruction": model.mean(z)})


def table(runs: list[Run]) -> list[Row]:
    """One row a method, and what a histogram of each pixel achieves."""

    def of(group: list[Run], name: str, digits: int) -> str:
        found = [run.metrics[name] for run in group if name in run.metrics]
        return mean_and_deviation(found, digits) if len(found) == len(group) else "-"

    def supports(group: list[Run]) -> str:
        mean = of(group, "support", 1)
        return mean if mean == "-" else f"{mean} ({of(group, 'median support', 0)})"

    quoted = any(run.result["published"] for run in runs)
    rows = [
        {
            "method": name,
            "seeds": str(len(group)),
            "bits/dim": of(group, "bits/dim", 3),
            "released": of(group, "released", 3),
            "ELBO": of(group, "elbo", 1),
            "rate": of(group, "rate", 2),
            "distortion": of(group, "distortion", 1),
            "support": supports(group),
            "decoder rows": of(group, "rows", 2),
            "steps": of(group, "steps", 0),
            "gradient variance": of(group, "gradient_variance", 1),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
            **({"published": group[0].result["published"].get("text", "-")} if quoted else {}),
        }
        for name, group in rows_of(runs)
    ]
    floors = dict.fromkeys(f"{run.metrics['histogram floor']:.3f}" for run in runs)
    nothing = dict.fromkeys(rows[0], "-")
    return [*rows, *({**nothing, "method": "histogram floor", "bits/dim": floor} for floor in floors)]
