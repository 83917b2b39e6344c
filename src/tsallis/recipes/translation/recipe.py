"""Translation as a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from ...nn import TransformerSeq2Seq
from .._shared.clock import Clock, total
from .._shared.files import read_json, read_table, write, write_json
from .._shared.predictions import Prediction
from .._shared.runs import Result, Run, read_config
from .._shared.seeding import seed_all
from .._shared.seq2seq import load_weights
from .._shared.tables import Row, mean_and_deviation, rows_of
from .._shared.training import fit
from .config import Config
from .data import Corpus, encoded, load
from .figures import figures, spent
from .findings import MOVED, findings, measures
from .heads import HEADS, NAMES, analyse, draw_example
from .model import ALPHAS, Alphas, Training, build
from .pieces import Pieces
from .translate import Score, length, rates, scores, texts, translate

__all__ = [
    "NOTE", "PROOFS", "Config", "details", "figures", "load_model", "predict", "table", "train",
]  # fmt: skip

NOTE = (
    "BLEU and chrF of plain text by sacrebleu (signatures in the report), of a beam without length penalty; dev BLEU: "
    "of greedy translations, by which the epoch was chosen. Density: share of the tokens that heads may attend to and "
    "do; JS: divergence of a layer's heads, in nats; means on the first test. Moved: heads whose alpha moved by more "
    f"than {MOVED}. Length: words of translations for each word of the references, of the first test. Proved: "
    "translations that are proved to be the most probable, of those of one piece or more unless the run was trained "
    "with --empty true. Minutes: of training steps alone, by the wall's clock and the processor's."
)
PROOFS = "Proofs are about translations of one piece or more, unless the run was trained with --empty true."
# Of the table of heads, with their digits; disagreement is that of a layer's heads.
COLUMNS = {
    "layer": 0, "head": 0, "alpha": 3, "density": 3, "confidence": 3, "disagreement": 3, "offset": 0, "positional": 3,
    "merging": 3, "interrogation": 3,
}  # fmt: skip
PIECES, SCORES, TRANSLATIONS = "pieces.json", "scores.json", "translations-{}.txt"


def train(config: Config, folder: Path) -> Result:
    """Train, translate the tests, and look at the heads; goes on where the folder stopped."""
    corpus = load(config)
    pieces = Pieces.learn([*corpus.train.source, *corpus.train.target], config.pieces)
    pieces.save(folder / PIECES)
    pairs = encoded(corpus.train, pieces, config.max_length)
    batches = pairs.batches(config.batch_tokens, config.seed)
    seed_all(config.seed, "weights")
    model = build(config, len(pieces))
    steps = config.epochs * math.ceil(batches.n / config.devices)
    task = Training(config, model, steps, pieces, corpus.validation)
    # Validation takes sentences of any length, as tests do.
    fitted = fit(
        config, task, batches, encoded(corpus.validation, pieces, 10**6).evaluation(config.search_batch), folder,
        epochs=config.epochs, monitor="val/lost", label=folder.name,
        callbacks=[Alphas(folder / ALPHAS, config), Clock(folder, total)],
    )  # fmt: skip
    best = next(row for row in fitted.history if row["epoch"] == fitted.best_epoch)
    measured, scored = _tested(config, model, pieces, corpus, folder)
    first, *others = scored
    return Result(
        metric="BLEU",
        value=scored[first]["BLEU"].value,
        n=len(corpus.tests[first]),
        split=corpus.hash,
        metrics={
            "chrF": scored[first]["chrF"].value,
            **{f"{name} {test}": score.value for test in others for name, score in scored[test].items()},
            "dev BLEU": best["val/BLEU"],
            "dev loss": best["val/loss"],
            **measured,
            "left out": len(corpus.train) - len(pairs),
            "pieces": len(pieces),
            "parameters": sum(p.numel() for p in model.parameters()),
            "best_epoch": fitted.best_epoch,
        },
        seconds=fitted.seconds,
    )


def _tested(
    config: Config, model: TransformerSeq2Seq, pieces: Pieces, corpus: Corpus, folder: Path
) -> tuple[dict[str, float], dict[str, dict[str, Score]]]:
    """Measures of the first test's translations and of heads on it, and the scores of every test."""
    scored: dict[str, dict[str, Score]] = {}
    measured: dict[str, float] = {}
    for name, text in corpus.tests.items():
        found = list(translate(model, pieces, text.source, config, n_best=1))
        scored[name] = scores(texts(found), text.target)
        write(folder / TRANSLATIONS.format(name), "".join(f"{line}\n" for line in texts(found)))
        measured = measured or {**rates(found), "length": length(texts(found), text.target)}
    write_json(folder / SCORES, {test: {k: asdict(s) for k, s in found.items()} for test, found in scored.items()})
    text = next(iter(corpus.tests.values()))
    heads = analyse(model, pieces, text, config, folder)
    draw_example(model, pieces, text, folder)
    questions = sum(line.rstrip().endswith("?") for line in text.source)
    return {**measured, **measures(heads, config.attention == "learn"), "questions": questions}, scored


def load_model(run: Path) -> tuple[TransformerSeq2Seq, Pieces, Config]:
    """The model of a run's folder, its pieces, and its configuration, with which `translate` searches."""
    config = read_config(Config, run)
    pieces = Pieces.read(run / PIECES)
    model = build(config, len(pieces))
    load_weights(model, run)
    return model, pieces, config


def predict(
    run: Run, lines: Iterable[str], *, beam: int | None = None, n_best: int | None = None, explain: bool = False
) -> Iterator[Prediction]:
    """The translation of each line."""
    model, pieces, config = load_model(run.folder)
    config = replace(config, beam=config.beam if beam is None else beam)
    return translate(model, pieces, lines, config, n_best=n_best, explain=explain, longest=config.max_length)


def table(runs: list[Run]) -> list[Row]:
    """One row a model."""

    def of(group: list[Run], name: str, digits: int = 2) -> str:
        found = [run.metrics[name] for run in group if name in run.metrics]
        return mean_and_deviation(found, digits) if len(found) == len(group) else "-"

    scored = [name for run in runs for name in run.metrics if name.startswith(("BLEU", "chrF"))]
    return [
        {
            "model": name,
            "seeds": str(len(group)),
            **{score: of(group, score) for score in dict.fromkeys(scored)},
            "dev BLEU": of(group, "dev BLEU"),
            **{f"density {kind} %": of(group, f"density {kind}", 1) for kind in NAMES},
            "JS": of(group, "disagreement", 3),
            "alpha": _range(group),
            "moved %": of(group, "moved", 1),
            "length": of(group, "length", 3),
            "proved %": of(group, "exact", 1),
            "minutes": mean_and_deviation([spent(run, "seconds")[-1] for run in group], 1),
            "of the processor": mean_and_deviation([spent(run, "processor")[-1] for run in group], 1),
        }
        for name, group in rows_of(runs)
    ]


def _range(group: list[Run]) -> str:
    if not all("alpha, mean" in run.metrics for run in group):
        return "-"
    least, mean, most = ([run.metrics[f"alpha, {name}"] for run in group] for name in ("least", "mean", "most"))
    middle = mean_and_deviation(mean, 2)
    return middle if min(least) == max(most) else f"{middle} ({min(least):.2f} to {max(most):.2f})"


def details(runs: list[Run]) -> dict[str, list[Row]]:
    """What the heads are found to do, how scores were computed, and all heads of each run."""
    found: dict[str, list[Row]] = {}
    signatures: list[Row] = []
    heads: dict[str, list[Row]] = {}
    for row, group in rows_of(runs):
        for run in group:
            label = f"{row}, seed {run.result['seed']}"
            found[f"Found in the heads: {label}"] = findings(run)
            for test, of in read_json(run.folder / SCORES).items():
                signatures += [
                    {"run": label, "test": test, "score": f"{name} {s['value']:.2f}", "signature": s["signature"]}
                    for name, s in of.items()
                ]
        table = read_table(group[0].folder / HEADS)
        heads[f"Heads: {row}, seed {group[0].result['seed']}"] = [_head(values) for values in table]
    return {**found, "Signatures": signatures, **heads}


def _head(values: dict[str, float]) -> Row:
    """A head's numbers as text."""
    shown = {name: f"{values[name]:.{digits}f}" if name in values else "-" for name, digits in COLUMNS.items()}
    return {"attention": NAMES[int(values["type"])], **shown}
