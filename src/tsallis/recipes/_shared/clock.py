"""How long training steps take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from .files import append_row

SECONDS = "seconds.csv"
# Of a step, by the wall's clock and by the processor's.
Seconds = tuple[float, float]


def total(steps: Sequence[Seconds]) -> dict[str, float]:
    """By both clocks."""
    return {"seconds": sum(wall for wall, _ in steps), "processor": sum(processor for _, processor in steps)}


def median(steps: Sequence[Seconds]) -> dict[str, float]:
    """By the wall's clock."""
    return {"seconds": sorted(wall for wall, _ in steps)[len(steps) // 2]}


class Clock(Callback):
    """Seconds of the training steps of each epoch, in a file of their own: they are no result of the seed. Validation
    and checkpoints are not counted; steps before an interruption are.

    Args:
        folder: of the training.
        told: what is written of an epoch's steps.
    """

    def __init__(self, folder: Path, told: Callable[[Sequence[Seconds]], dict[str, float]]) -> None:
        self.path, self.told = folder / SECONDS, told
        self.steps: list[Seconds] = []
        self._began = (0.0, 0.0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._began = (time.perf_counter(), time.process_time())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        wall, processor = self._began
        self.steps.append((time.perf_counter() - wall, time.process_time() - processor))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self.steps:
            append_row(self.path, {"epoch": epoch, **self.told(self.steps)}, "epoch")
        self.steps = []

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = [(wall, processor) for wall, processor in state_dict["steps"]]
