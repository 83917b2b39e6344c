"""Wall clock of 200 training steps of the signalling game: methods in one process, blocks of steps in turn.

    tsallis run signal_game --preset lite0 --estimator sparsemax --seed 322 --data-dir DATA --out RUN
    python benchmarks/game_steps.py RUN/sparse-seed322 --data-dir DATA

Sparse goes on from the weights of the run, where its support is what it is for most of a training; without a run it
starts from nothing, where nearly all symbols have probability. What the others cost does not depend on their weights.
"Plain" rows have the receiver that one writes first: it embeds the images once and gathers them for each symbol heard.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tsallis.recipes._shared.files import read_weights
from tsallis.recipes._shared.seeding import generator, seed_all
from tsallis.recipes.signal_game.config import Config
from tsallis.recipes.signal_game.data import load
from tsallis.recipes.signal_game.model import Receiver, Training

BLOCK = 10
ROWS = {
    "sparse": {"estimator": "sparsemax", "entropy_weight": 0.1},
    "SFE": {"estimator": "sfe", "entropy_weight": 0.05},
    "SFE, 0/1 loss": {"estimator": "sfe", "reward": "accuracy", "entropy_weight": 0.01},
    "dense, packed": {"estimator": "softmax", "entropy_weight": 0.1},
    "dense, table": {"estimator": "softmax", "table": True, "entropy_weight": 0.1},
    "sparse, plain": {"estimator": "sparsemax", "entropy_weight": 0.1},
    "SFE, plain": {"estimator": "sfe", "entropy_weight": 0.05},
    "dense, plain": {"estimator": "softmax", "entropy_weight": 0.1},
}


class PlainReceiver(Receiver):
    """The same numbers, up to rounding, without the recipe's orders of summation."""

    def forward(self, x: Tensor, index: Tensor, z: Tensor) -> Tensor:
        return torch.einsum("rie,re->ri", self.image(x)[index], self.symbols(z))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of one sparse training")
    parser.add_argument("--data-dir")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = Config(dataset="lite0", data_dir=arguments.data_dir)
    data = load(base)
    tasks, optimizers = {}, {}
    for name, values in ROWS.items():
        seed_all(322, "weights")
        task = Training(replace(base, **values), data.test.features.shape[1])
        if name.endswith("plain"):
            task.receiver.__class__ = PlainReceiver
        if name.startswith("sparse") and arguments.run:
            task.load_state_dict(read_weights(arguments.run / "model.safetensors"))
        tasks[name], optimizers[name] = task, torch.optim.Adam(task.parameters(), lr=1e-4, fused=True)
    seconds: dict[str, list[float]] = {name: [] for name in ROWS}
    rows: dict[str, list[float]] = {name: [] for name in ROWS}
    for block in range(-1, arguments.steps // BLOCK):
        games = data.train.games(BLOCK * base.batch_size, base.images, generator("benchmark", block + 1))
        for name, task in tasks.items():
            start = time.perf_counter()
            for positions in torch.arange(len(games)).split(base.batch_size):
                optimizers[name].zero_grad()
                outcome = task.training_step(games.batch(positions), 0)
                outcome["loss"].backward()
                optimizers[name].step()
                rows[name].append(float(outcome["metrics"]["rows"]))
            # The first block of each warms up.
            if block >= 0:
                seconds[name].append(time.perf_counter() - start)
    unit = statistics.median(seconds["SFE"])
    print(f"{'':16}{'s for all':>12}{'ms a step':>12}{'over SFE':>12}{'rows a game':>14}")
    for name, found in seconds.items():
        step = 1e3 * statistics.median(found) / BLOCK
        ratio, seen = statistics.median(found) / unit, statistics.fmean(rows[name])
        print(f"{name:16}{sum(found):12.2f}{step:12.2f}{ratio:12.2f}{seen:14.2f}")


if __name__ == "__main__":
    main()
