"""What the heads of a trained classifier do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...attention import HeadReport, HeadStatistics
from ...integrations.transformers import alphas, seen_weights, sparsify
from ...integrations.transformers.alphas import alpha_of
from .._shared.files import write_json, write_table, write_weights
from .config import Config
from .model import Batch, Encoded

HEADS, ALPHAS, EXAMPLE, TOKENS = "heads.csv", "alphas.csv", "example.safetensors", "example.json"
# The longest sentence whose weights are drawn.
DRAWN = 16
Row = dict[str, float]


def named_alphas(model: Any) -> Row:
    """Alphas of a sparsified model by layer and head; layers that share a module have them once."""
    return {
        f"layer{i} head{j}": float(a)
        for i, values in enumerate(alphas(model).values())
        for j, a in enumerate(values.reshape(-1))
    }


@torch.no_grad()
def analyse(config: Config, model: Any, dev: Encoded, marked: Encoded, asked: Tensor, folder: Path) -> list[Row]:
    """Look at every head on the development sentences, and on questions (asked) beside statements that end in a mark;
    writes what it found. Weights of softmax are those of alpha = 1.
    """
    if config.attention == "softmax":
        sparsify(model, 1.0)
    model.eval()
    plain = _over(model, _batches(dev, config))
    questions = _over(model, _marked(marked, asked, config))
    table = [
        _row(layer, head, plain[layer], questions[layer] if questions else None)
        for layer in range(len(plain))
        for head in range(len(plain[layer].report.density))
    ]
    write_table(folder / HEADS, table)
    return table


@dataclass(frozen=True)
class Layer:
    """What heads of a layer did, and their alphas (H) or one."""

    report: HeadReport
    alpha: Tensor


def _batches(encoded: Encoded, config: Config) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    for positions in torch.arange(len(encoded.ids)).split(config.batch_size):
        batch = encoded.batch(positions)
        yield batch, {"words": batch["words"]}


def _marked(encoded: Encoded, asked: Tensor, config: Config) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Sentences with the place of their last mark; those that were cut before it are left out."""
    for positions in (encoded.last >= 0).nonzero().flatten().split(config.batch_size):
        if len(positions):
            yield encoded.batch(positions), {"marks": encoded.last[positions], "questions": asked[positions]}


def _over(model: Any, batches: Iterator[tuple[Batch, dict[str, Tensor]]]) -> list[Layer]:
    """All layers, in the order in which they are computed; none without batches."""
    statistics: list[HeadStatistics] = []
    own: list[Tensor] = []
    device = next(model.parameters()).device
    for batch, more in batches:
        mask = batch["attention_mask"].to(device)
        with seen_weights() as seen:
            model(input_ids=batch["input_ids"].to(device), attention_mask=mask)
        statistics = statistics or [HeadStatistics() for _ in seen]
        own = [torch.as_tensor(alpha_of(part.module)).detach().float().cpu() for part in seen]
        # Padding is no query.
        real = mask.bool()[:, None, :, None]
        for layer, (_, weights, kept) in zip(statistics, seen, strict=True):
            layer.update(weights, real if kept is None else real & kept, **more)
    return [Layer(layer.report(), alpha) for layer, alpha in zip(statistics, own, strict=True)]


def _row(layer: int, head: int, plain: Layer, asked: Layer | None) -> Row:
    report = plain.report
    best = max(report.positional, key=lambda o: float(report.positional[o][head].nan_to_num(-1.0)))
    row = {
        "layer": layer, "head": head, "alpha": plain.alpha.expand(len(report.density))[head],
        "density": report.density[head], "confidence": report.confidence[head], "disagreement": report.disagreement,
        "offset": best, "positional": report.positional[best][head], "merging": report.merging[head],
    }  # fmt: skip
    if asked is not None:
        row["interrogation"] = asked.report.interrogation[head]
    return {name: float(v) for name, v in row.items() if not math.isnan(float(v))}


@torch.no_grad()
def draw_example(model: Any, tokenizer: Any, dev: Encoded, folder: Path) -> None:
    """Keep the weights of the longest sentence that can be drawn well, or of the shortest there is."""
    lengths = torch.tensor([len(ids) for ids in dev.ids])
    place = int(torch.where(lengths <= DRAWN, lengths, -lengths).argmax())
    batch = dev.batch(torch.tensor([place]))
    device = next(model.parameters()).device
    with seen_weights() as seen:
        model(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device))
    write_weights(folder / EXAMPLE, {f"layer {i}": part.weights[0].float() for i, part in enumerate(seen)})
    write_json(folder / TOKENS, tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist()))
