"""What accompanies a training: seeds, history, checkpoints, the best weights, progress."""

from __future__ import annotations

import io
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ...core.numerics import compute_dtype
from .files import RunError, write, write_table, write_weights
from .seeding import seed_all


class AtomicIO(TorchCheckpointIO):
    """Checkpoints that replace their predecessor only once they are whole and on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write(Path(path), buffer.getvalue())


class StepSeeds(Callback):
    """Each step, and each batch of an evaluation, draws from its own seed: resuming needs no random state."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        seed_all(self.seed, "train", trainer.current_epoch, batch_idx, trainer.global_rank)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # The same noise in every epoch, so that epochs differ by their weights alone.
        seed_all(self.seed, "validation", batch_idx, trainer.global_rank)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        seed_all(self.seed, "test", batch_idx, trainer.global_rank)


class History(Callback):
    """Means over each epoch in metrics.csv. Training steps return ``{"loss", "metrics": {name: mean}, "examples"}``.

    Sums are part of the checkpoint: an epoch that was interrupted has the means of an epoch that was not. Of several
    processes, training means are those of the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, Any] = {}
        self.examples = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        n = outputs["examples"]
        self.examples += n
        for name, value in outputs["metrics"].items():
            value = torch.as_tensor(value).detach()
            self.sums[name] = self.sums.get(name, 0.0) + value.to(compute_dtype(value)) * n

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        means = {f"train/{name}": float(total) / self.examples for name, total in self.sums.items()}
        self.sums, self.examples = {}, 0
        measured = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        if lost := [name for name, value in (means | measured).items() if not math.isfinite(value)]:
            raise RunError(
                f"{', '.join(lost)} not finite in epoch {trainer.current_epoch + 1}: the training diverged",
                "finite losses",
                "Try a smaller learning rate",
            )
        self.rows.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **means, **measured})
        write_table(self.path, self.rows)

    def state_dict(self) -> dict[str, Any]:
        sums = {name: float(total) for name, total in self.sums.items()}
        return {"rows": self.rows, "sums": sums, "examples": self.examples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.sums, self.examples = state_dict["rows"], state_dict["sums"], state_dict["examples"]


class LastCheckpoint(Checkpoint):
    """One checkpoint, replaced at the end of every epoch and at most ``minutes`` apart; knows the time spent.

    Epochs shorter than `SHORT` seconds share one: what is saved less often than that is not worth the disk's time.
    """

    SHORT = 5.0

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.interval = path, 60 * minutes
        self.seconds = 0.0
        self._since = self._saved = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not after the last batch: a run resumed there would skip the validation that belongs to the epoch.
        if not trainer.is_last_batch and self._due(trainer, self.interval):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        finished = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if finished or self._due(trainer, min(self.SHORT, self.interval)):
            self._save(trainer)

    def _due(self, trainer: Trainer, seconds: float) -> bool:
        due = time.monotonic() - self._saved >= seconds
        # Saving is an act of all processes: the clock of the first decides.
        return due if trainer.world_size == 1 else bool(trainer.strategy.broadcast(due))

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]


class BestWeights(Callback):
    """Weights of the epoch with the smallest monitored value, as safetensors."""

    def __init__(self, path: Path, monitor: str) -> None:
        self.path, self.monitor = path, monitor
        self.best, self.epoch = float("inf"), 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        if value < self.best:
            self.best, self.epoch = value, trainer.current_epoch + 1
            write_weights(self.path, pl_module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]


class Lines(Callback):
    """Progress as a line now and then, where there is no terminal to draw a bar on."""

    def __init__(self, label: str, seconds: float = 20.0) -> None:
        self.label, self.seconds = label, seconds
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or time.monotonic() - self._last < self.seconds:
            return
        self._last = time.monotonic()
        values = ", ".join(f"{name} {float(value):.4g}" for name, value in trainer.callback_metrics.items())
        sys.stderr.write(f"{self.label}: epoch {trainer.current_epoch + 1} of {trainer.max_epochs}; {values}\n")
