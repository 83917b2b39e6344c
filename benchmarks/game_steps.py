"""What 200 training steps of the signalling game take: methods in one process, blocks of steps in turn.

    tsallis run signal_game --preset lite0 --estimator sparsemax --data-dir DATA --out RUN
    python benchmarks/game_steps.py RUN/sparse-seed322 RUN/sparse-seed323 --data-dir DATA

Sparse goes on from the weights of each run, once with each receiver; without a run it starts from nothing, where nearly
all symbols have probability. What the others cost does not depend on their weights. Rows are named as in the preset.
"Plain" rows have the receiver that one writes first: it embeds the images once and gathers them for each symbol heard.
Where others use the machine, times of processors say more.
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
SPARSE = {"estimator": "sparsemax", "entropy_weight": 0.1}
OTHERS = {
    "SFE": {"estimator": "sfe", "reward": "accuracy", "entropy_weight": 0.01},
    "sfe-nll": {"estimator": "sfe", "entropy_weight": 0.05},
    "dense, packed": {"estimator": "softmax", "entropy_weight": 0.1},
    "dense, by table": {"estimator": "softmax", "table": True, "entropy_weight": 0.1},
}
PLAIN = ", plain receiver"


class PlainReceiver(Receiver):
    """The same numbers, up to rounding, without the recipe's orders of summation."""

    def forward(self, x: Tensor, index: Tensor, z: Tensor) -> Tensor:
        return torch.einsum("rie,re->ri", self.image(x)[index], self.symbols(z))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of sparse trainings")
    parser.add_argument("--data-dir")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = Config(dataset="lite0", data_dir=arguments.data_dir)
    data = load(base)
    starts: dict[str, Path | None] = {f"sparse, {run.name}": run for run in arguments.runs} or {"sparse": None}
    tasks, optimizers = {}, {}
    for plain in (False, True):
        for name, values in {**dict.fromkeys(starts, SPARSE), **OTHERS}.items():
            if plain and "table" in values:
                continue
            seed_all(322, "weights")
            task = Training(replace(base, **values), data.test.features.shape[1])
            if plain:
                task.receiver.__class__ = PlainReceiver
            if (run := starts.get(name)) is not None:
                task.load_state_dict(read_weights(run / "model.safetensors"))
            row = name + PLAIN * plain
            tasks[row], optimizers[row] = task, torch.optim.Adam(task.parameters(), lr=1e-4, fused=True)
    clocks = (time.perf_counter, time.process_time)
    seconds: dict[str, list[list[float]]] = {name: [] for name in tasks}
    rows: dict[str, list[float]] = {name: [] for name in tasks}
    for block in range(-1, arguments.steps // BLOCK):
        games = data.train.games(BLOCK * base.batch_size, base.images, generator("benchmark", block + 1))
        for name, task in tasks.items():
            start = [clock() for clock in clocks]
            for positions in torch.arange(len(games)).split(base.batch_size):
                optimizers[name].zero_grad()
                outcome = task.training_step(games.batch(positions), 0)
                outcome["loss"].backward()
                optimizers[name].step()
                rows[name].append(float(outcome["metrics"]["rows"]))
            # The first block of each warms up.
            if block >= 0:
                seconds[name].append([clock() - since for clock, since in zip(clocks, start, strict=True)])
    columns = ["", "ms a step", "of the processor", "over SFE", "over sfe-nll", "over dense, packed", "rows a game"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    medians = {name: torch.tensor(found).quantile(0.5, 0) * 1e3 / BLOCK for name, found in seconds.items()}
    for name, (wall, processor) in medians.items():
        unit = PLAIN * name.endswith(PLAIN)
        over = [processor / medians[other + unit][1] for other in ("SFE", "sfe-nll", "dense, packed")]
        ratios = " | ".join(f"{ratio:.2f}" for ratio in over)
        print(f"| {name} | {wall:.1f} | {processor:.1f} | {ratios} | {statistics.fmean(rows[name]):.2f} |")


if __name__ == "__main__":
    main()
