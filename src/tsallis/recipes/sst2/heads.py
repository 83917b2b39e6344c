"""What the heads of a trained classifier do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...attention import HeadReport, HeadStatistics
from ...integrations.transformers import alphas, sparsify
from .._shared.files import write_json, write_table, write_weights
from .config import Config
from .model import Batch, Encoded

HEADS, ALPHAS, EXAMPLE, TOKENS = "heads.csv", "alphas.csv", "example.safetensors", "example.json"
# The longest sentence whose weights are drawn.
DRAWN = 16
Row = dict[str, float]


def per_head(model: Any, heads: int) -> Tensor:
    """(layers, heads) alphas of a sparsified model."""
    return torch.stack([a.float().cpu().expand(heads) for a in alphas(model).values()])


@torch.no_grad()
def analyse(config: Config, model: Any, tokenizer: Any, dev: Encoded, marked: list[str], folder: Path) -> list[Row]:
    """Look at every head on the development sentences, and on questions beside statements; writes what it found.

    Weights of softmax are those of alpha = 1.
    """
    if config.attention == "softmax":
        sparsify(model, 1.0)
    model.eval()
    plain = _over(model, _batches(dev, config))
    asked = _over(model, _marked(tokenizer, marked, config))
    rows = [_row(layer, *pair) for layer, pair in enumerate(zip(plain, asked or plain, strict=True))]
    values = per_head(model, len(plain[0].density))
    table = [{**row, "alpha": float(values[int(row["layer"]), int(row["head"])])} for part in rows for row in part]
    write_table(folder / HEADS, table)
    _example(model, tokenizer, dev, folder)
    return table


def _batches(encoded: Encoded, config: Config) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    for positions in torch.arange(len(encoded.ids)).split(config.batch_size):
        batch = encoded.batch(positions)
        yield batch, {"words": batch["words"]}


def _marked(tokenizer: Any, sentences: list[str], config: Config) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Sentences with the place of their last mark; those that were cut before it are left out."""
    from .model import encode

    encoded = encode(tokenizer, sentences, torch.zeros(len(sentences), dtype=torch.long), config)
    marks = {tokenizer.convert_tokens_to_ids(mark) for mark in ("?", ".")}
    places = [max((i for i, token in enumerate(ids.tolist()) if token in marks), default=-1) for ids in encoded.ids]
    # Behind it there may be what a tokenizer puts at the end.
    whole = [i for i, (at, ids) in enumerate(zip(places, encoded.ids, strict=True)) if at >= len(ids) - 2 > 0]
    for positions in torch.tensor(whole, dtype=torch.long).split(config.batch_size) if whole else ():
        chosen = positions.tolist()
        questions = torch.tensor([sentences[i].endswith("?") for i in chosen])
        yield encoded.batch(positions), {"marks": torch.tensor([places[i] for i in chosen]), "questions": questions}


def _over(model: Any, batches: Iterator[tuple[Batch, dict[str, Tensor]]]) -> list[HeadReport]:
    """Reports of all layers; none without batches."""
    statistics: list[HeadStatistics] = []
    device = next(model.parameters()).device
    for batch, more in batches:
        mask = batch["attention_mask"].to(device)
        out = model(input_ids=batch["input_ids"].to(device), attention_mask=mask, output_attentions=True)
        statistics = statistics or [HeadStatistics() for _ in out.attentions]
        kept = mask.bool()
        kept = kept[:, None, :, None] & kept[:, None, None, :]
        for own, weights in zip(statistics, out.attentions, strict=True):
            own.update(weights, kept, **more)
    return [own.report() for own in statistics]


def _row(layer: int, plain: HeadReport, asked: HeadReport) -> list[Row]:
    rows = []
    for head in range(len(plain.density)):
        best = max(plain.positional, key=lambda o: float(plain.positional[o][head].nan_to_num(-1.0)))
        row = {
            "layer": layer, "head": head, "density": plain.density[head], "confidence": plain.confidence[head],
            "offset": best, "positional": plain.positional[best][head], "merging": plain.merging[head],
            "interrogation": asked.interrogation[head], "disagreement": plain.disagreement,
        }  # fmt: skip
        rows.append({name: float(v) for name, v in row.items() if not math.isnan(float(v))})
    return rows


def _example(model: Any, tokenizer: Any, dev: Encoded, folder: Path) -> None:
    """Weights of the longest sentence that can be drawn."""
    lengths = [len(ids) if len(ids) <= DRAWN else 0 for ids in dev.ids]
    place = max(range(len(lengths)), key=lengths.__getitem__)
    batch = dev.batch(torch.tensor([place]))
    device = next(model.parameters()).device
    out = model(input_ids=batch["input_ids"].to(device), output_attentions=True)
    write_weights(folder / EXAMPLE, {f"layer {i}": w[0].float() for i, w in enumerate(out.attentions)})
    write_json(folder / TOKENS, tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist()))
