"""What a trained parser does with the sentences of a part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._shared.files import write_json, write_weights
from .data import Part
from .model import Training, parse

WORDS, SENTENCES, AMBIGUOUS = "{}-words.safetensors", "{}-sentences.safetensors", "ambiguous.json"
# Sentences shown, the longest of them, and how many trees have probability in those that come first.
SHOWN, LONGEST, FEW = 12, 16, 3


@dataclass(frozen=True)
class Findings:
    """Of a part, sentences in its order.

    Attributes:
        right: (words) whether the head is the right one.
        confidence: (words) the probability of the head that was chosen.
        covered: (words) whether the right head has probability.
        several: (words) how many heads have.
        lengths: (sentences).
        trees: (sentences) how many have probability; None for distributions over single heads.
        ambiguous: sentences in which some word has several heads, those of few trees first, the most undecided ones.
    """

    right: Tensor
    confidence: Tensor
    covered: Tensor
    several: Tensor
    lengths: Tensor
    trees: Tensor | None
    ambiguous: list[dict[str, Any]]

    @property
    def uas(self) -> float:
        """Share of words with the right head."""
        return float(self.right.double().mean())

    def measures(self) -> dict[str, float]:
        """Means over sentences and words."""
        whole = torch.stack([part.all() for part in self.right.split(self.lengths.tolist())])
        found = {"whole": float(whole.double().mean())}
        if self.trees is not None:
            found |= {
                "single": float((self.trees == 1).double().mean()),
                "trees": float(self.trees.double().mean()),
                "several": float((self.several > 1).double().mean()),
                "covered": float(self.covered.double().mean()),
            }
        return found


@torch.no_grad()
def examine(task: Training, part: Part, size: int) -> Findings:
    """Parse a part, so many sentences at once."""
    task.eval()
    device = task.model.root.device
    words: list[tuple[Tensor, ...]] = []
    trees, ambiguous = [], []
    for positions in torch.arange(len(part)).split(size):
        batch = part.batch(positions).to(device)
        scores = task.model(batch)
        marginals, number = task.kind.marginals(scores, batch)
        heads = parse(scores, batch)
        chosen, gold = (marginals.gather(1, which[:, None])[:, 0] for which in (heads, batch.heads))
        found = (heads == batch.heads, chosen, gold > 0, (marginals > 0).sum(1))
        words.append(tuple(values[batch.inside].cpu() for values in found))
        if number is not None:
            trees.append(number.cpu())
            ambiguous += [
                _described(part, place, marginals[i], int(number[i]))
                for i, place in enumerate(positions.tolist())
                if number[i] > 1 and part.lengths[place] <= LONGEST
            ]
    right, confidence, covered, several = (torch.cat(column) for column in zip(*words, strict=True))
    ambiguous.sort(key=lambda found: (found["trees"] > FEW, found["decided"]))
    # A sentence may stand in a treebank several times.
    different = list({tuple(found["words"]): found for found in reversed(ambiguous)}.values())[::-1]
    forest = torch.cat(trees) if trees else None
    return Findings(right, confidence, covered, several, part.lengths, forest, different[:SHOWN])


def _described(part: Part, place: int, marginals: Tensor, trees: int) -> dict[str, Any]:
    """A sentence with the heads that compete for its words; decided is the least of words' largest probabilities."""
    sentence = part.sentences[place]
    own = marginals[:, : len(sentence.words)].double().cpu()
    choices = [
        {
            "word": word,
            "gold": sentence.heads[word - 1],
            "heads": [[head, float(p[head])] for head in p.argsort(descending=True).tolist() if p[head] > 0],
        }
        for word, p in enumerate(own.T, 1)
        if int((p > 0).sum()) > 1
    ]
    return {"words": sentence.words, "trees": trees, "choices": choices, "decided": float(own.amax(0).min())}


def keep(dev: Findings, test: Findings, folder: Path) -> None:
    """Write what figures and tables of a report need."""
    for name, found in (("dev", dev), ("test", test)):
        words = {column: getattr(found, column) for column in ("right", "confidence", "covered", "several")}
        write_weights(folder / WORDS.format(name), words)
        if found.trees is not None:
            write_weights(folder / SENTENCES.format(name), {"lengths": found.lengths, "trees": found.trees})
    if dev.trees is not None:
        write_json(folder / AMBIGUOUS, dev.ambiguous)
