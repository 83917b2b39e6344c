"""Forms of words that are asked for line by line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace

from .._shared.lines import LineError, answers
from .._shared.pairs import END, Vocabulary, read_vocabularies
from .._shared.predictions import Prediction
from .._shared.runs import Run, read_config
from .._shared.seq2seq import load_weights, predictions
from .config import Config
from .data import Word, tags_of, word_of
from .model import VOCABULARIES, build

COLUMNS = "language, lemma and tags, parted by tabs"
EXAMPLE = "Write a line such as german\\tHaus\\tN;DAT;PL"
# Unknown tokens that a message names.
SHOWN = 5


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
    # All of the data is composed.
    fields = [field.strip() for field in unicodedata.normalize("NFC", line).split("\t")]
    if len(fields) != 3:
        raise LineError(f"{len(fields)} fields", COLUMNS, EXAMPLE)
    if empty := [name for name, field in zip(("language", "lemma", "tags"), fields, strict=True) if not field]:
        raise LineError(f"No {' and no '.join(empty)}", COLUMNS, EXAMPLE)
    language, lemma, tags = fields
    word = Word(language, lemma, tags_of(tags), "")
    for kind, parts in (("letters", lemma), ("tags", word.tags)):
        if len(parts) > config.max_length:
            raise LineError(f"{len(parts)} {kind}", f"at most {config.max_length}", "Ask for less")
    unknown = list(dict.fromkeys(token for token in word.source if token not in source.numbers))
    if unknown:
        shown = [_shown(token) for token in unknown[:SHOWN]]
        raise LineError(
            f"{', '.join(shown)}{f' and {len(unknown) - SHOWN} more' if len(unknown) > SHOWN else ''}, "
            "which the training has not seen",
            "a language, tags and letters that it has",
            "Ask for something else, or train with them",
        )
    return word.source


def _shown(token: str) -> str:
    """A token that is unknown, as it was written."""
    kind, parted, name = token.partition(" ")
    return f"{kind} {_short(name)!r}" if parted else f"letter {token!r}"


def _short(name: str) -> str:
    return name if len(name) <= 30 else name[:29] + "…"
