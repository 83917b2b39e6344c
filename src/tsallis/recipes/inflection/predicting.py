"""Forms of words that are asked for line by line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from .._shared.lines import LineError, answers
from .._shared.pairs import END, Vocabulary, read_vocabularies
from .._shared.predictions import Prediction
from .._shared.runs import Run, read_config
from .._shared.seq2seq import load_weights, predictions
from .config import Config
from .data import Word, word_of
from .model import VOCABULARIES, build


def predict(
    run: Run, lines: Iterable[str], *, beam: int | None = None, n_best: int | None = None, explain: bool = False
) -> Iterator[Prediction]:
    """The form that each line asks for: language, lemma and tags, parted by tabs; tags by semicolons."""
    config = read_config(Config, run.folder)
    config = replace(config, beam=config.beam if beam is None else beam)
    source, target = read_vocabularies(run.folder / VOCABULARIES, "source", "target")
    model = build(config, len(source), len(target))
    load_weights(model, run.folder)

    def read(line: str) -> tuple[list[str], list[int]]:
        tokens = _asked(line, source, config)
        return [*tokens, END], source.encode(tokens)

    def search(words: list[tuple[list[str], list[int]]]) -> list[Prediction]:
        return predictions(
            model, words, config, target.tokens.__getitem__, lambda form: word_of(target.decode(form)),
            n_best=n_best, explain=explain,
        )  # fmt: skip

    return answers(lines, read, search, size=config.search_batch)


def _asked(line: str, source: Vocabulary, config: Config) -> list[str]:
    """What the model reads of a line."""
    fields = line.split("\t")
    if len(fields) != 3 or not all(field.strip() for field in fields):
        raise LineError(
            f"{len(fields)} fields", "language, lemma and tags, parted by tabs", "Such as: german\tHaus\tN;DAT;PL"
        )
    language, lemma, tags = (field.strip() for field in fields)
    if len(lemma) > config.max_length:
        raise LineError(f"A lemma of {len(lemma)} letters", f"at most {config.max_length}", "Ask for a shorter one")
    tokens = Word(language, lemma, tuple(tags.split(";")), "").source
    if unknown := list(dict.fromkeys(token for token in tokens if token not in source.numbers)):
        raise LineError(
            f"{', '.join(unknown)}, which the training has not seen",
            "a language, tags and letters that it has",
            "Train with them, or ask for something else",
        )
    return tokens
