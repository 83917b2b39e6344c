"""A table of scores: what each letter may become; one letter more ends the word."""

from __future__ import annotations

import torch

import tsallis as ts

from .._shared.files import read_json, read_weights
from .._shared.lines import LineError, answers
from .._shared.predictions import ALTERNATIVES, Alignment, found

LONGEST = 50
EOS = 0


def predict(run, lines, *, beam=None, n_best=None, explain=False):
    letters = read_json(run.folder / "vocabulary.json")
    table = read_weights(run.folder / "model.safetensors")["table"]

    def read(line):
        if len(line) > LONGEST:
            raise LineError(f"A word of {len(line)} letters", f"{LONGEST} at most", "Cut it")
        for letter in line:
            if letter not in letters[1:]:
                raise LineError(f"The letter {letter!r}", "one of the vocabulary", "Leave it out")
        return [letters.index(letter) for letter in line]

    def step(tokens, state):
        at = state["at"][:, None].clamp_max(state["words"].shape[1] - 1)
        return ts.sparsemax(table[state["words"].gather(1, at)[:, 0]]).log(), {**state, "at": state["at"] + 1}

    def search(words):
        size = max(map(len, words)) + 1
        padded = torch.tensor([word + [EOS] * (size - len(word)) for word in words])
        state = {"words": padded, "at": torch.zeros(len(words), dtype=torch.long)}
        decoded = ts.decoding.beam_search(
            step, padded[:, -1], state, eos=EOS, beam=beam or 8, max_length=LONGEST + 1, n_best=n_best
        )
        for row, word in enumerate(words):
            source = [letters[number] for number in [*word, EOS]]
            best = decoded.best[row]
            weights = None if best is None else torch.eye(len(source))[: len(best.tokens)]
            yield found(
                decoded.hypotheses[row],
                decoded.certificates[row],
                lambda tokens: "".join(letters[token] for token in tokens[:-1]),
                alternatives=ALTERNATIVES if n_best is None else n_best - 1,
                name=letters.__getitem__ if explain else None,
                alignment=Alignment(source, [letters[token] for token in best.tokens], weights)
                if explain and best is not None and weights is not None
                else None,
            )

    return answers(lines, read, lambda words: list(search(words)), size=4)
