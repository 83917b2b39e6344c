"""How much one draw of each method adds to the gradients of the sender's first layer and of the receiver, before any
training.

    python benchmarks/game_noise.py --data-dir DATA

The exact gradient is that of the method's own objective, all symbols (and guesses) summed; its length is that of the
mean over batches. Before that baselines learn from 400 other batches while sender and receiver stay as they are: means
that run, and networks by the recipe's optimiser, at the full learning rate from the first step. SparseMixer draws for
another expectation than that of the exact gradient beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from tsallis.recipes._shared import plan
from tsallis.recipes._shared.seeding import generator, seed_all
from tsallis.recipes.signal_game import recipe
from tsallis.recipes.signal_game.config import Config
from tsallis.recipes.signal_game.data import Batch, load
from tsallis.recipes.signal_game.model import Training

BATCHES, BEFORE = 40, 400
EXACT = ("softmax", "sparsemax", "entmax15")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(f"| method, preset |{' exact | noise of a draw | noise / exact | cosine |' * 2}\n")
    sys.stdout.write(f"| --- |{' --- | --- | --- | --- |' * 2}\n")
    for preset in ("lite0", "default"):
        members = plan.make_plan(recipe, "signal_game", preset, {"data_dir": options.data_dir}).members
        first = members[0].config
        data = load(first)
        batches = list(islice(recipe._stream(data.train, first), BATCHES))
        games = data.train.games(BEFORE * first.batch_size, first.images, generator(first.seed, "baselines"))
        before = [games.batch(positions) for positions in torch.arange(len(games)).split(first.batch_size)]
        for member in members:
            if member.config.estimator not in EXACT and member.config.seed == first.seed:
                found = measure(member.config, before, batches, data.test.features.shape[1])
                values = (
                    f"{exact:.1e} | {noise:.1e} | {noise / exact:.1f} | {cosine:.2f}" for exact, noise, cosine in found
                )
                sys.stdout.write(f"| {member.row}, `{preset}` | {' | '.join(values)} |\n")
                sys.stdout.flush()


def measure(
    config: Config, before: Sequence[Batch], batches: Sequence[Batch], features: int
) -> list[tuple[float, float, float]]:
    """For the sender's first layer and for the receiver: lengths of the exact gradient and of what one draw adds, and
    the cosine of the mean draw with the former.
    """
    summed = _task(replace(config, estimator="softmax", table=config.reward == "nll"), features)
    drawn = _task(config, features)
    own = {k: v for k, v in summed.state_dict().items() if k.startswith(("sender", "receiver"))}
    drawn.load_state_dict(own, strict=False)
    _settle(drawn, before)
    found = []
    for exact, draws in zip(*(_gradients(task, batches) for task in (summed, drawn)), strict=True):
        mean = exact.mean(0)
        cosine = torch.cosine_similarity(draws.mean(0), mean, 0)
        found.append((float(mean.norm()), float((draws - exact).norm(dim=1).mean()), float(cosine)))
    return found


def _task(config: Config, features: int) -> Training:
    seed_all(config.seed, "weights")
    return Training(config, features).train()


def _settle(task: Training, batches: Sequence[Batch]) -> None:
    """Baselines learn, and nothing else does."""
    learned = [p for name, p in task.named_parameters() if not name.startswith(("sender", "receiver"))]
    values = {"lr": task.config.lr, "weight_decay": task.config.weight_decay}
    optimizer = torch.optim.AdamW(learned, **values) if learned else None
    for batch in batches:
        loss = task.training_step(batch, 0)["loss"]
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward(inputs=learned)
            optimizer.step()


def _gradients(task: Training, batches: Sequence[Batch]) -> list[Tensor]:
    """(batches, numbers) of the sender's first layer, and of the receiver."""
    rows = []
    for batch in batches:
        loss = task.training_step(batch, 0)["loss"]
        sender, *receiver = torch.autograd.grad(loss, [task.sender.image.weight, *task.receiver.parameters()])
        rows.append([sender.flatten(), torch.cat([grad.flatten() for grad in receiver])])
    return [torch.stack(part) for part in zip(*rows, strict=True)]


if __name__ == "__main__":
    main()
