"""Sentences with the head of every word: of a treebank's files, or made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from .._shared.datasets import DataError, read_text
from .._shared.seeding import generator

# Sentences of the made parts, and their words.
MADE = (800, 200, 200)
NOUNS = ("dog", "girl", "tower", "garden", "letter", "friend", "boat", "river", "teacher", "window")
VERBS = ("saw", "found", "liked", "drew", "heard", "visited")
KINDS = ("old", "small", "quiet", "green", "tall")
MANNERS = ("slowly", "often", "again")
# Prepositions whose phrase belongs to the noun before, to the verb, and to either of them, as chance has it.
OF_NOUNS, OF_VERBS, OF_EITHER = ("of", "without"), ("after", "during"), ("with", "near")


@dataclass(frozen=True)
class Sentence:
    """Words, and the number of each one's head: words count from 1, 0 is the root."""

    words: list[str]
    heads: list[int]


def read_conllu(path: Path) -> list[Sentence]:
    """Sentences of syntactic words.

    Lines of multiword tokens (3-4), whose words follow, and of empty nodes (8.1), which the basic tree does not have,
    are no words.
    """
    sentences, expected = [], "CoNLL-U, gzipped or not"
    for block in read_text(path, expected).replace("\r\n", "\n").split("\n\n"):
        lines = [line.split("\t") for line in block.split("\n") if line and not line.startswith("#")]
        words = [fields for fields in lines if not set(fields[0]) & {"-", "."}]
        try:
            heads = [int(fields[6]) for fields in words]
            numbered = [int(fields[0]) for fields in words] == list(range(1, len(words) + 1))
        except (IndexError, ValueError):
            heads, numbered = [], False
        if words and not (numbered and is_tree(heads)):
            raise DataError(
                f"{path}: the sentence that begins with {' '.join(block.split())[:80]!r}",
                f"{expected}: words numbered from 1, whose heads make a tree with one root",
                "Get it again",
            )
        if words:
            sentences.append(Sentence([fields[1] for fields in words], heads))
    if not sentences:
        raise DataError(f"{path}: no sentence", expected, "Get it again")
    return sentences


def is_tree(heads: list[int]) -> bool:
    """Whether one word hangs on the root, and all others on it in the end."""
    if heads.count(0) != 1 or not all(0 <= head <= len(heads) for head in heads):
        return False
    reached = {0}
    for _ in heads:
        more = {word for word, head in enumerate(heads, 1) if head in reached}
        if more <= reached:
            break
        reached |= more
    return len(reached) == len(heads) + 1


def made() -> list[list[Sentence]]:
    """Train, dev and test. Half of the phrases with some prepositions belong to the verb, the others to the noun before
    them: nothing in the sentence says which.
    """
    draws = generator("made trees")
    return [[_Made(draws).sentence() for _ in range(n)] for n in MADE]


class _Made:
    """A sentence in the making."""

    def __init__(self, draws: torch.Generator) -> None:
        self.draws = draws
        self.words: list[str] = []
        self.heads: dict[int, int] = {}

    def sentence(self) -> Sentence:
        subject = self._phrase()
        verb = self._word(VERBS)
        self.heads[subject], self.heads[verb] = verb, 0
        noun = self._phrase()
        self.heads[noun] = verb
        for _ in range(self._below(3)):
            preposition = self._word((OF_NOUNS, OF_VERBS, OF_EITHER)[self._below(3)])
            inner, before = self._phrase(), noun
            self.heads[preposition] = inner
            word = self.words[preposition - 1]
            to_verb = word in OF_VERBS or (word in OF_EITHER and bool(self._below(2)))
            self.heads[inner], noun = (verb, inner) if to_verb else (before, inner)
        if self._below(2):
            self.heads[self._word(MANNERS)] = verb
        self.heads[self._word((".",))] = verb
        return Sentence(self.words, [self.heads[i] for i in range(1, len(self.words) + 1)])

    def _phrase(self) -> int:
        """The place of its noun, whose head is still open."""
        before = [self._word(("the", "a"))] + [self._word(KINDS) for _ in range(self._below(2))]
        noun = self._word(NOUNS)
        self.heads.update(dict.fromkeys(before, noun))
        return noun

    def _word(self, words: tuple[str, ...]) -> int:
        self.words.append(words[self._below(len(words))])
        return len(self.words)

    def _below(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self.draws))
