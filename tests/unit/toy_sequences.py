"""Random sequence models small enough to enumerate, and what is true of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import tsallis as ts

EOS = 0


@dataclass
class Toys:
    """Models whose next token depends on the whole prefix; each ends within depth + 1 tokens.

    Attributes:
        log_probs: (models, nodes, V); a node is a prefix, the children of node n are n (V - 1) + token.
    """

    log_probs: Tensor
    depth: int

    @property
    def models(self) -> int:
        return self.log_probs.shape[0]

    @property
    def start(self) -> Tensor:
        return torch.zeros(self.models, dtype=torch.long)

    @property
    def state(self) -> dict[str, Tensor]:
        return {"model": torch.arange(self.models), "node": torch.full((self.models,), -1)}

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        children = state["node"] * (self.log_probs.shape[2] - 1) + tokens
        node = torch.where(state["node"] < 0, 0, children)
        return self.log_probs[state["model"], node], {"model": state["model"], "node": node}

    def sequences(self, model: int) -> tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], float]]:
        """All sequences of a model, and all prefixes, of non-zero probability, with their logarithms."""
        rows = self.log_probs[model].tolist()
        finished, prefixes = {}, {(): 0.0}
        todo = [((), 0, 0.0)]
        while todo:
            prefix, node, score = todo.pop()
            for token, log_prob in enumerate(rows[node]):
                if log_prob > -math.inf:
                    if token == EOS:
                        finished[*prefix, token] = score + log_prob
                    else:
                        prefixes[*prefix, token] = score + log_prob
                        todo.append(((*prefix, token), node * (len(rows[0]) - 1) + token, score + log_prob))
        return finished, prefixes


def toys(models: int, seed: int, mapping: str = "sparsemax", vocabulary: int = 4, depth: int = 4) -> Toys:
    """Random models; their scales differ, so that supports do."""
    generator = torch.Generator().manual_seed(seed)
    nodes = sum((vocabulary - 1) ** level for level in range(depth + 1))
    scores = torch.randn(models, nodes, vocabulary, generator=generator, dtype=torch.float64)
    scores *= torch.empty(models, 1, 1, dtype=torch.float64).uniform_(0.3, 4, generator=generator)
    log_probs = ts.solve(mapping, scores).p.log()
    # Node numbers grow level by level: the last level ends.
    last = nodes - (vocabulary - 1) ** depth
    log_probs[:, last:] = -math.inf
    log_probs[:, last:, EOS] = 0
    return Toys(log_probs, depth)


def plain_beam(
    finished: dict, prefixes: dict, beam: int, max_length: int, endings: str = "beam"
) -> tuple[dict, list[float], list[float]]:
    """What a beam search that never stops early finds, drops (what is passed over counts, too), and leaves open."""
    live, lost, found, passed, dropped = [()], [], {}, {}, []
    for length in range(1, max_length + 1):
        ended = {(*prefix, EOS): finished[*prefix, EOS] for prefix in live if (*prefix, EOS) in finished}
        longer = [prefix for prefix in prefixes if len(prefix) == length and prefix[:-1] in live]
        longer.sort(key=prefixes.__getitem__, reverse=True)
        live, lost = longer[:beam], longer[beam:]
        if length < max_length:
            dropped += [prefixes[prefix] for prefix in lost]
        best = sorted([*ended.values(), *(prefixes[prefix] for prefix in live)], reverse=True)[:beam]
        for sequence, value in ended.items():
            (found if endings == "all" or value in best else passed)[sequence] = value
    left = [prefixes[prefix] for prefix in live + lost]
    if not dropped:
        return found | passed, [], left
    return found, [*dropped, *passed.values()], left
