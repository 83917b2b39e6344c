"""Training on Lightning's Trainer: resumable at any moment, reproducible, quiet."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor

from .callbacks import AtomicIO, BestWeights, History, LastCheckpoint, Lines, StepSeeds
from .config import ConfigError, RunConfig
from .environment import threads
from .files import RunError, read_weights
from .loading import Loader

LAST = Path("checkpoints", "last.ckpt")


@dataclass(frozen=True)
class Fitted:
    """How a training went: the epoch whose weights the module now has, rows of metrics.csv, seconds in all."""

    best_epoch: int
    history: list[dict[str, float]]
    seconds: float


def fit(
    config: RunConfig,
    module: LightningModule,
    train: Loader,
    validation: Loader,
    folder: Path,
    *,
    epochs: int,
    monitor: str,
    label: str,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Train, or go on where ``folder`` stopped, and load the weights of the best epoch into the module.

    Writes checkpoints/last.ckpt, metrics.csv and model.safetensors.

    Args:
        config: seed and devices.
        module: its training steps return ``{"loss", "metrics", "examples"}`` (`History`); its validation steps log.
        train: batches of an epoch.
        validation: batches to validate on after every epoch.
        folder: of this training.
        epochs: how many in all.
        monitor: a logged value; the weights of the epoch where it is smallest are kept.
        label: shown beside the progress.
        callbacks: of the recipe's own.
    """
    history, best = History(folder / "metrics.csv"), BestWeights(folder / "model.safetensors", monitor)
    last = LastCheckpoint(folder / LAST, config.checkpoint_minutes)
    resumed = str(last.path) if last.path.exists() else None
    with _trainer(config, label, epochs, [StepSeeds(config.seed), history, best, last, *callbacks]) as trainer:
        try:
            trainer.fit(module, train, validation, ckpt_path=resumed, weights_only=True if resumed else None)
        except (RuntimeError, EOFError, KeyError) as error:
            if resumed is not None and not trainer.training:
                reason = " ".join(str(error).split())
                raise RunError(f"{resumed}: {reason}", "a checkpoint of this recipe", "Start a new run") from error
            raise
    module.load_state_dict(read_weights(best.path))
    return Fitted(best.epoch, history.rows, last.seconds)


def evaluate(config: RunConfig, module: LightningModule, test: Loader, label: str) -> dict[str, float]:
    """Means of what the module's test steps log."""
    with _trainer(config, label, None, [StepSeeds(config.seed)]) as trainer:
        (measured,) = trainer.test(module, test, verbose=False)
    return {name: float(value) for name, value in measured.items()}


def log_means(module: LightningModule, stage: str, **values: Tensor) -> None:
    """In a validation or test step: log the mean over all examples, from values (B,) of this batch.

    As sums of shares: the Trainer's own mean over processes rounds the number of examples.
    """
    loader: Any = module.trainer.val_dataloaders if stage == "val" else module.trainer.test_dataloaders
    for name, value in values.items():
        share = value.float().sum() / loader.n
        module.log(f"{stage}/{name}", share, reduce_fx="sum", on_step=False, on_epoch=True, sync_dist=True)


def fusible(config: RunConfig) -> bool:
    """Whether an optimizer may take its steps fused. Gradients that were scaled for float16 come to a fused one as they
    are, and could not be cut to a norm before.
    """
    return config.precision != "16-mixed"


def scheduled(optimizer: torch.optim.Optimizer, rise: int, total: int) -> Any:
    """What `configure_optimizers` returns: rates grow on a line over so many steps, then fall on one to 0 after all.

    A training that is no longer than the rise ends on the way up.
    """

    def share(step: int) -> float:
        return min((step + 1) / (rise + 1), max(0.0, (total - step) / max(1, total - rise)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@contextmanager
def _trainer(config: RunConfig, label: str, epochs: int | None, callbacks: list[Callback]) -> Iterator[Trainer]:
    drawn = sys.stderr.isatty() and sys.stdout.isatty()
    with _surroundings(config):
        try:
            trainer = Trainer(
                max_epochs=epochs,
                accelerator=config.accelerator,
                devices=config.devices,
                strategy="ddp" if config.devices > 1 else "auto",
                precision=config.precision,
                deterministic=True,
                logger=False,
                enable_model_summary=False,
                enable_progress_bar=drawn,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,  # loading.Order shares the batches out
                plugins=[AtomicIO()],
                callbacks=[*callbacks, _bar(label) if drawn else Lines(label)],
            )
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"accelerator={config.accelerator}, devices={config.devices}: {' '.join(str(error).split())}",
                "devices of this machine",
                "Choose others",
            ) from error
        with _interruptible(trainer):
            yield trainer


def _bar(label: str) -> RichProgressBar:
    class Bar(RichProgressBar):
        @property
        def train_description(self) -> str:
            return label

        def _get_train_description(self, current_epoch: int) -> str:
            return f"{label} · {super()._get_train_description(current_epoch)}"

    return Bar(leave=False, theme=RichProgressBarTheme(metrics_format=".3f"))


@contextmanager
def _surroundings(config: RunConfig) -> Iterator[None]:
    """Without the Trainer's advertisements and hints, and with the process-wide switches as they were afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    deterministic_mode: Any = torch.utils.deterministic
    filled = deterministic_mode.fill_uninitialized_memory
    try:
        # Deterministic PyTorch writes NaN into all new memory, for programs that read what they never wrote.
        deterministic_mode.fill_uninitialized_memory = False
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # `tsallis run` has set them before; who calls a recipe's `train` has not.
        with threads(config), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        deterministic_mode.fill_uninitialized_memory = filled


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """The Trainer turns Ctrl-C into an exit of the process; here it stays what it is."""
    import signal
    import threading

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from None
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
