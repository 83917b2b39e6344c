"""Text that a model writes: prompts from test text, continued by each sampling method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import tsallis as ts

from .._shared.seeding import derive
from .config import Config
from .data import Text
from .measures import of_samples
from .model import Seen, Training
from .sampling import Method, distribution

HUMAN = "human"


@dataclass(frozen=True)
class Written:
    """Continuations (prompts, tokens) by name of what wrote them, and the prompts (prompts, tokens)."""

    prompts: Tensor
    texts: dict[str, Tensor]


def continued(task: Training, prompts: Tensor, length: int, method: Method, draws: torch.Generator) -> Tensor:
    """So many tokens after each prompt (B, T), drawn one by one; keys and values are kept between them."""

    def step(tokens: Tensor, seen: list[Seen]) -> tuple[Tensor, list[Seen]]:
        hidden, seen = task.model.extend(tokens.unsqueeze(1), seen)
        p = distribution(task.head.probabilities(task.scores(hidden[:, 0])), method)
        # A token more, that is never drawn, stands for the end: texts go on after an end of line.
        return F.pad(p.log(), (0, 1), value=-math.inf), seen

    with torch.no_grad():
        seen = None if prompts.shape[1] == 1 else task.model.extend(prompts[:, :-1], None)[1]
        found = ts.decoding.sample(
            step, prompts[:, -1], seen, eos=task.model.words.num_embeddings, max_length=length, generator=draws
        )
    return torch.tensor([hypotheses[0].tokens for hypotheses in found])


def write(task: Training, config: Config, text: Text, methods: Mapping[str, Method]) -> Written:
    """The same prompts, spread over the test text, continued by each method and as they go on in the text."""
    windows, _ = text.test.windows(text.test.spread(config.prompts))
    prompts, human = windows.split([config.prompt, config.context - config.prompt], 1)
    texts = {HUMAN: human}
    for name, method in methods.items():
        draws = torch.Generator(task.device).manual_seed(derive(config.seed, "samples"))
        texts[name] = continued(task, prompts.to(task.device), human.shape[1], method, draws)
    return Written(prompts, texts)


def statistics(written: Written, text: Text) -> dict[str, dict[str, float]]:
    """Of the words of each writer."""
    return {
        name: of_samples([text.vocabulary.words(row) for row in found.tolist()])
        for name, found in written.texts.items()
    }


def readable(written: Written, text: Text) -> list[dict[str, Any]]:
    """Prompts with their continuations as text."""

    def spell(rows: Tensor) -> list[str]:
        return [" ".join(text.vocabulary.words(row)) for row in rows.tolist()]

    columns = {"prompt": spell(written.prompts)} | {name: spell(found) for name, found in written.texts.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
