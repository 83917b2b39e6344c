"""Small encoder-decoders in float64, and the same models without any state of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import tsallis as ts
from tsallis.nn.seq2seq import PADDING

KINDS = ["lstm", "transformer"]
WORDS = 9
# Alphas of attention: 0 stands for a tensor.
ALPHAS: list[Any] = [1.0, 1.2, 1.5, 2.0, "learn", 0]


def made(kind: str, attention: Any = 1.5, output: float = 1.5, **options: Any) -> ts.nn.Seq2Seq:
    """A model for evaluation. Scores are spread, so that sparse mappings are sparse."""
    if kind == "lstm":
        alpha = torch.tensor(1.3) if attention == 0 else attention
        model = ts.nn.LSTMSeq2Seq(
            WORDS, **{"width": 8, "layers": 2} | options, attention_alpha=alpha, output_alpha=output
        )
    else:
        alpha = torch.tensor([1.2, 1.8]) if attention == 0 else attention
        options = {"width": 8, "layers": 2, "heads": 2, "feedforward": 16} | options
        model = ts.nn.TransformerSeq2Seq(WORDS, **options, attention_alpha=alpha, output_alpha=output)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.7
        if isinstance(model, ts.nn.LSTMSeq2Seq):
            # Its states are small.
            model.query.weight *= 100
        if attention == "learn" and kind != "lstm":
            # No two heads alike.
            for name, parameter in model.named_parameters():
                if name.endswith("theta"):
                    parameter += torch.linspace(-1, 1, 2)
    return model.double().eval()


def drawn(lengths: list[int], width: int | None = None) -> Tensor:
    """Random tokens, eos at ends, padding behind."""
    tokens = torch.randint(1, WORDS, (len(lengths), width or max(lengths)))
    places, ends = torch.arange(tokens.shape[1]), torch.tensor(lengths)[:, None]
    return tokens.masked_fill(places == ends - 1, 0).masked_fill(places >= ends, PADDING)


def again(model: ts.nn.Seq2Seq) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
    """A step that runs the model on all of each prefix."""

    def step(tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        prefix = torch.cat([state["prefix"], tokens[:, None]], 1)
        hidden = model.hidden(state["source"], prefix)[:, -1]
        return model.log_probs(model.output.scores(hidden)), {**state, "prefix": prefix}

    return step


def before(source: Tensor) -> dict[str, Tensor]:
    """The state of `again` that searches start from."""
    return {"source": source, "prefix": torch.zeros(len(source), 0, dtype=torch.long)}
