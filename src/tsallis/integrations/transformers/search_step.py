"""A step of a search: one token through a model of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from ...core.inputs import widened
from .rows import Rows

# Where models keep what they remember.
CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")


@dataclass
class ModelStep:
    """Log-probabilities of the next token, after the prompt at first and after one more token then.

    Attributes:
        model: any that generates.
        score: from scores (R, V) to log-probabilities.
        processors: what comes before.
        ends: tokens that end a sequence: the first stands for all of them, with the sum of their probabilities.
        endings: which of them was most probable after a prefix of an example, where it was not the first.
    """

    model: Any
    score: Callable[[Tensor], Tensor]
    processors: LogitsProcessorList
    ends: list[int]
    endings: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)

    def __call__(self, tokens: Tensor, state: Rows) -> tuple[Tensor, Rows]:
        if state.started:
            state = replace(state, tokens=torch.cat([state.tokens, tokens.unsqueeze(1)], 1))
            options: dict[str, Any] = {"next_sequence_length": 1 if state.inputs["use_cache"] else None}
        else:
            options = {"is_first_iteration": True}
        inputs = dict(state.inputs)
        outputs = self.model(
            **self.model.prepare_inputs_for_generation(state.tokens, **options, **inputs), return_dict=True
        )
        inputs = self.model._update_model_kwargs_for_generation(
            outputs, inputs, is_encoder_decoder=self.model.config.is_encoder_decoder
        )
        # Some models have none.
        inputs["use_cache"] = inputs["use_cache"] and any(outputs.get(name) is not None for name in CACHES)
        scores = widened(outputs.logits[:, -1])
        log_probs = self.score(self.processors(state.tokens, scores))  # pyright: ignore[reportArgumentType]
        state = replace(state, inputs=inputs, started=True)
        return (self._one_end(log_probs, state) if len(self.ends) > 1 else log_probs), state

    def _one_end(self, log_probs: Tensor, state: Rows) -> Tensor:
        ending = log_probs[:, self.ends]
        best, total = ending.argmax(1), ending.logsumexp(1)
        for row in ((best > 0) & (total > -torch.inf)).nonzero().flatten().tolist():
            key = int(state.example[row]), tuple(state.tokens[row, state.prompt :].tolist())
            self.endings[key] = self.ends[int(best[row])]
        log_probs = log_probs.index_fill(1, torch.tensor(self.ends, device=log_probs.device), -torch.inf)
        log_probs[:, self.ends[0]] = total
        return log_probs

    def ended(self, example: int, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """A sequence of that example with the end that was most probable."""
        return (*tokens[:-1], self.endings.get((example, tokens[:-1]), tokens[-1]))
