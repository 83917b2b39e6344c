"""The language model as a recipe."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .._shared.clock import Clock, median
from .._shared.files import read_json, write, write_json
from .._shared.loading import Loader
from .._shared.runs import Result, Run
from .._shared.seeding import generator, seed_all
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import evaluate, fit
from . import measures, sampling
from .config import Config
from .data import Stream, Text, load
from .figures import figures, seconds_per_step
from .generation import HUMAN, readable, statistics
from .generation import write as write_texts
from .model import EPSILON, Training

__all__ = ["NOTE", "Config", "details", "figures", "table", "train"]

SAMPLES, METHODS, VOCABULARY = "samples.json", "methods.json", "vocabulary.json"
NOTE = (
    f"Perplexity: of a word, end of line included, with {EPSILON:g} added to the probability of every token. Accuracy, "
    "support (tokens with probability) and covered (tokens of the text that have some) on test tokens. Seconds a step: "
    "median over the last quarter of the training. Sampling methods are measured in windows spread over the test text, "
    "as many tokens as their table says. Epsilon-perplexity has the epsilon that is best for the method on as much "
    "validation text: it is not the perplexity of the table of heads."
)
# Columns of the table of sampling methods, and their digits.
MEASURED = {
    "epsilon-perplexity": 1,
    "epsilon": 8,
    "sparsemax score": 4,
    "JS": 4,
    "rep": 4,
    "wrep": 4,
    "kept": 1,
    "repeated 4-grams": 4,
    "distinct-1": 4,
    "distinct-2": 4,
    "distinct-3": 4,
}
# How many prompts a report shows.
SHOWN = 4
# Tokens of a batch of an evaluation.
FEWEST = 512


def train(config: Config, folder: Path) -> Result:
    """Train, then measure every sampling method; goes on where the folder stopped."""
    text = load(config)
    write(folder / VOCABULARY, text.vocabulary.save())
    seed_all(config.seed, "weights")
    task = Training(config, text.frequencies)
    fitted = fit(
        config, task, _parts(text.train, config), _spread(text.validation, config, config.validation), folder,
        epochs=config.epochs, monitor="val/surprise", label=folder.name, callbacks=[Clock(folder, median)],
    )  # fmt: skip
    found = {
        name: evaluate(config, task, _spread(stream, config), folder.name)
        for name, stream in (("validation", text.validation), ("test", text.test))
    }
    methods = _sample(config, task.eval(), text, folder)
    return Result(
        metric="perplexity",
        value=_perplexity(found["test"], text, text.test),
        n=len(text.test) * config.context,
        split=text.hash,
        metrics={
            "validation perplexity": _perplexity(found["validation"], text, text.validation),
            "token perplexity": math.exp(found["test"]["test/surprise"]),
            "accuracy": found["test"]["test/accuracy"],
            # Shares of tokens are added up in float32.
            "support": min(found["test"]["test/support"], text.words),
            "covered": found["test"]["test/covered"],
            "alpha": float(task.head.order()),
            "best_epoch": fitted.best_epoch,
            **{f"{method}, {name}": row[name] for method, row in methods.items() for name in MEASURED if name in row},
        },
        seconds=fitted.seconds,
    )


def _perplexity(measured: dict[str, float], text: Text, stream: Stream) -> float:
    """Of a word: the nats of all tokens, shared out among words."""
    tokens = stream.tokens[1 : len(stream) * stream.context + 1]
    return math.exp(measured["test/surprise"] * len(tokens) / _words(text, tokens))


def _words(text: Text, tokens: Tensor) -> int:
    return int(text.vocabulary.starts[tokens].sum())


def _sample(config: Config, task: Training, text: Text, folder: Path) -> dict[str, dict[str, float]]:
    """Choose methods, and measure them along test text and on what they write; what a human wrote beside them."""

    def model(windows: Tensor) -> Tensor:
        return task.head.probabilities(task.scores(task.model(windows.to(task.device))))

    chosen = measures.choose(model, text.validation, config.validation)
    along, test = (
        measures.follow(model, part, config.measured, chosen, config.seed) for part in (text.validation, text.test)
    )
    written = write_texts(task, config, text, chosen)
    of_samples, words = statistics(written, text), _words(text, test.gold)
    rows = {
        name: {
            **asdict(method),  # pyright: ignore[reportArgumentType]
            **measures.of_tokens(name, along, test, text.words, words),
            **of_samples[name],
        }
        for name, method in chosen.items()
    }
    repeated = measures.repetition(test.gold, test.gold, test.before)
    rows[HUMAN] = {"tokens": test.gold.numel(), **repeated, **of_samples[HUMAN]}
    write_json(folder / METHODS, rows)
    write_json(folder / SAMPLES, readable(written, text))
    return rows


def _parts(stream: Stream, config: Config) -> Loader:
    """Epochs take the windows of the text in one random order, and then in another."""
    n = config.steps * config.batch_size

    @cache
    def order(number: int) -> Tensor:
        return torch.randperm(len(stream), generator=generator(config.seed, "pass", number))

    def take(positions: Tensor) -> tuple[Tensor, Tensor]:
        places = (loader.epoch * n + positions).tolist()
        return stream.windows(torch.stack([order(at // len(stream))[at % len(stream)] for at in places]))

    loader = Loader(take, n, config.batch_size, config.seed)
    return loader


def _spread(stream: Stream, config: Config, windows: int | None = None) -> Loader:
    # Batches of a training may be small; without gradients there is room for more.
    batch, places = max(config.batch_size, FEWEST // config.context), stream.spread(windows or len(stream))
    return Loader(lambda positions: stream.windows(places[positions]), len(places), batch)


def table(runs: list[Run]) -> list[Row]:
    """One row a head."""

    def of(group: list[Run], name: str, digits: int, scale: float = 1.0) -> str:
        return mean_and_deviation([scale * run.metrics[name] for run in group], digits)

    return [
        {
            "head": name,
            "seeds": str(len(group)),
            "validation perplexity": of(group, "validation perplexity", 1),
            "test perplexity": of(group, "perplexity", 1),
            "accuracy %": of(group, "accuracy", 2, 100),
            "support": of(group, "support", 1),
            "covered %": of(group, "covered", 2, 100),
            "alpha": of(group, "alpha", 3),
            "seconds a step": mean_and_deviation([_late(run) for run in group], 3),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
        }
        for name, group in rows_of(runs)
    ]


def details(runs: list[Run]) -> dict[str, list[Row]]:
    """The sampling methods, and what they write after the same prompts."""
    return {**_methods(runs), **_samples(runs)}


def _methods(runs: list[Run]) -> dict[str, list[Row]]:
    """One row for each method with each head, and one for the text itself."""
    table, human, tokens = [], {}, set[int]()
    for head, group in rows_of(runs):
        found = [read_json(run.folder / METHODS) for run in group]
        tokens |= {each[HUMAN]["tokens"] for each in found}
        for name in (*sampling.METHODS, HUMAN):
            rows = [each[name] for each in found]
            choices = dict.fromkeys(f"{key} = {row[key]:g}" for row in rows for key in ("k", "share") if key in row)
            row = {"head": "-" if name == HUMAN else head, "sampling": f"{name} {', '.join(choices)}".rstrip()} | {
                column: mean_and_deviation([row[column] for row in rows], digits) if column in rows[0] else "-"
                for column, digits in MEASURED.items()
            }
            if name == HUMAN:
                human[tuple(row.values())] = row
            else:
                table.append(row)
    number = " or ".join(f"{each:,}" for each in sorted(tokens))
    return {f"Sampling methods, on {number} tokens of test text": [*table, *human.values()]}


def _samples(runs: list[Run]) -> dict[str, list[Row]]:
    """A table for each prompt; one run of each row writes."""
    found = {name: read_json(group[0].folder / SAMPLES) for name, group in rows_of(runs)}
    tables: dict[str, list[Row]] = {}
    for head, prompts in found.items():
        for number, texts in enumerate(prompts[:SHOWN], 1):
            rows = tables.setdefault(f"Prompt {number}: {texts['prompt']}", [])
            if not rows:
                rows.append({"head": "-", "sampling": HUMAN, "text": texts[HUMAN]})
            rows += [
                {"head": head, "sampling": name, "text": text}
                for name, text in texts.items()
                if name not in ("prompt", HUMAN)
            ]
    return tables


def _late(run: Run) -> float:
    seconds = [seconds for _, seconds in seconds_per_step(run)]
    last = sorted(seconds[-max(1, len(seconds) // 4) :])
    return last[len(last) // 2]
