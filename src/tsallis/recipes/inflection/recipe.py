"""Morphological inflection as a recipe."""

from __future__ import annotations

import math
from pathlib import Path

import tsallis as ts

from .._shared.files import read_json, write_json
from .._shared.pairs import save_vocabularies
from .._shared.runs import Result, Run
from .._shared.seeding import seed_all
from .._shared.seq2seq import SequenceTraining
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import fit
from .config import Config
from .data import Inflections, load
from .figures import figures
from .findings import examine, macro

__all__ = ["NOTE", "Config", "details", "figures", "table", "train"]

NOTE = (
    "Accuracy and edit distance of the test words by the rules of the shared task: of each language to two decimals, "
    "then the mean over languages. All words: share of test words where the beam holds every form that the model deems "
    "possible (ENUMERATED); best: where its best form is proved to be the most probable. Letters, places: mean number "
    "of letters with probability at a place of the right form, and of places of the source attended to."
)
LANGUAGES, VOCABULARIES = "languages.json", "vocabularies.json"


def build(config: Config, source: int, target: int) -> ts.nn.LSTMSeq2Seq:
    """The model of a configuration, for vocabularies of these sizes."""
    return ts.nn.LSTMSeq2Seq(
        source, target, width=config.width, layers=config.layers, dropout=config.dropout,
        attention_alpha=config.attention, output_alpha=config.output, label_smoothing=config.label_smoothing,
    )  # fmt: skip


def train(config: Config, folder: Path) -> Result:
    """Train one model of all languages and search the forms of dev and test words; goes on where the folder stopped."""
    data = load(config)
    save_vocabularies(folder / VOCABULARIES, source=data.source, target=data.target)
    seed_all(config.seed, "weights")
    batches = data.train.pairs.batches(config.batch_tokens, config.seed)
    model = build(config, len(data.source), len(data.target))
    task = SequenceTraining(config, model, config.epochs * math.ceil(batches.n / config.devices))
    fitted = fit(
        config, task, batches, data.dev.pairs.evaluation(config.search_batch), folder,
        epochs=config.epochs, monitor="val/wrong", label=folder.name,
    )  # fmt: skip
    return _result(config, task, data, folder, fitted.best_epoch, fitted.seconds)


def _result(
    config: Config, task: SequenceTraining, data: Inflections, folder: Path, best_epoch: int, seconds: float
) -> Result:
    dev, test = (examine(task.model, part, data, config) for part in (data.dev, data.test))
    write_json(folder / LANGUAGES, test)
    measured = macro(test)
    return Result(
        metric="accuracy",
        value=measured.pop("accuracy"),
        n=len(data.test.words),
        split=data.hash,
        metrics={
            **measured,
            "dev accuracy": macro(dev)["accuracy"],
            "lowest share of all words": min(of["enumerated"] for of in test.values()),
            "best_epoch": best_epoch,
        },
        seconds=seconds,
    )


def table(runs: list[Run]) -> list[Row]:
    """One row a pair of mappings."""

    def of(group: list[Run], name: str, digits: int = 2) -> str:
        return mean_and_deviation([run.metrics[name] for run in group], digits)

    return [
        {
            "attention, output": name,
            "seeds": str(len(group)),
            "accuracy %": of(group, "accuracy"),
            "edits": of(group, "distance", 3),
            "dev accuracy %": of(group, "dev accuracy"),
            "all words %": of(group, "enumerated", 1),
            "best %": of(group, "exact", 1),
            "letters": of(group, "support"),
            "places": of(group, "attended"),
            "seconds": mean_and_deviation([run.seconds for run in group], 0),
        }
        for name, group in rows_of(runs)
    ]


def details(runs: list[Run]) -> dict[str, list[Row]]:
    """Each language, means over seeds."""
    found: dict[str, list[Row]] = {}
    for name, group in rows_of(runs):
        seeds = [read_json(run.folder / LANGUAGES) for run in group]

        def of(language: str, measure: str, digits: int, seeds: list[dict[str, dict[str, float]]] = seeds) -> str:
            return mean_and_deviation([languages[language][measure] for languages in seeds], digits)

        found[f"Languages: {name}"] = [
            {
                "language": language,
                "words": str(int(seeds[0][language]["words"])),
                "accuracy %": of(language, "accuracy", 2),
                "edits": of(language, "distance", 2),
                "all words %": of(language, "enumerated", 1),
                "one word %": of(language, "single", 1),
                "best %": of(language, "exact", 1),
                "probability of those found": of(language, "mass", 4),
            }
            for language in seeds[0]
        ]
    return found
