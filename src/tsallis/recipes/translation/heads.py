"""What the heads of a trained translation model do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...attention import HeadReport, HeadStatistics
from ...nn import MultiheadAttention, TransformerSeq2Seq, watch_heads
from .._shared.files import write_json, write_table, write_weights
from .._shared.pairs import padded
from .config import Config
from .data import Text
from .patterns import PatternAttention
from .pieces import Pieces

HEADS, EXAMPLE, TOKENS = "heads.csv", "example.safetensors", "example.json"
# What attends to what, by the names of modules, in the order of the table's numbers.
TYPES = {"self_attn": "encoder", "self_attention": "decoder", "cross_attention": "context"}
NAMES = tuple(TYPES.values())
# Pieces of the sentence whose weights are drawn, at most.
DRAWN = 16
Row = dict[str, float]


def place_of(module: str) -> tuple[int, int]:
    """Number of the type and of the layer, from a module's name such as encoder.0.self_attn."""
    _, layer, kind = module.rsplit(".", 2)
    return NAMES.index(TYPES[kind]), int(layer)


def alphas(model: TransformerSeq2Seq) -> dict[tuple[int, int], Tensor]:
    """(heads) alphas by type and layer; NaN for heads that follow a fixed pattern."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, MultiheadAttention):
            fixed = module.fixed if isinstance(module, PatternAttention) else 0
            own = torch.full((module.num_heads,), torch.nan)
            own[fixed:] = torch.as_tensor(module.held()["alpha"]).detach().float().cpu()
            found[place_of(name)] = own
    return dict(sorted(found.items()))


def named_alphas(model: TransformerSeq2Seq) -> Row:
    """The same by a head's name."""
    return {
        f"{NAMES[kind]} layer{layer} head{head}": float(alpha)
        for (kind, layer), values in alphas(model).items()
        for head, alpha in enumerate(values)
        if not alpha.isnan()
    }


class _Batch:
    """What is known of the pairs at hand."""

    def __init__(self, pieces: Pieces, source: list[str], target: list[str]) -> None:
        encoded = [pieces.encode(line) for line in source]
        self.source = padded([torch.tensor(numbers) for numbers, _ in encoded])
        # Padding is no word, as it is no token.
        self.words = padded([torch.tensor(words) for _, words in encoded])
        self.target = padded([torch.tensor(pieces.encode(line)[0]) for line in target])
        # The piece before the end: a mark, of most sentences.
        self.marks = (self.source >= 0).sum(1) - 2
        self.questions = torch.tensor([line.rstrip().endswith("?") for line in source])

    def about(self, module: str) -> dict[str, Tensor]:
        if NAMES[place_of(module)[0]] != "encoder":
            return {"queries": self.target >= 0}
        return {"words": self.words, "marks": self.marks, "questions": self.questions}


@torch.no_grad()
def analyse(model: TransformerSeq2Seq, pieces: Pieces, text: Text, config: Config, folder: Path) -> list[Row]:
    """Look at every head while the model reads the pairs of a text, batch by batch; writes what it found."""
    model.eval()
    device = next(model.parameters()).device
    current: list[_Batch] = []
    with watch_heads(model, about=lambda name: current[0].about(name)) as statistics:
        for first in range(0, len(text), config.search_batch):
            chosen = slice(first, first + config.search_batch)
            current[:] = [_Batch(pieces, text.source[chosen], text.target[chosen])]
            model(current[0].source.to(device), current[0].target.to(device))
    table = table_of(statistics, alphas(model))
    write_table(folder / HEADS, table)
    return table


def table_of(statistics: dict[str, HeadStatistics], own: dict[tuple[int, int], Tensor]) -> list[Row]:
    """A row of each head: type (its number in `NAMES`), layer, head, alpha and what it does."""
    reports = {place_of(name): found.report() for name, found in statistics.items()}
    return [
        _row(place, head, float(alpha), reports[place])
        for place in sorted(reports)
        for head, alpha in enumerate(own[place])
    ]


def _row(place: tuple[int, int], head: int, alpha: float, report: HeadReport) -> Row:
    best = max(report.positional, key=lambda o: float(report.positional[o][head].nan_to_num(-1.0)))
    row = {
        "type": place[0], "layer": place[1], "head": head, "alpha": alpha, "density": report.density[head],
        "confidence": report.confidence[head], "disagreement": report.disagreement,
    }  # fmt: skip
    if NAMES[place[0]] != "context":
        # Places of two languages are not compared.
        row |= {"offset": best, "positional": report.positional[best][head]}
    row |= {"merging": report.merging[head], "interrogation": report.interrogation[head]}
    return {name: float(value) for name, value in row.items() if not math.isnan(float(value))}


@torch.no_grad()
def draw_example(model: TransformerSeq2Seq, pieces: Pieces, text: Text, folder: Path) -> None:
    """Keep the encoder's weights of the longest sentence that can be drawn well, or of the shortest there is."""
    lengths = torch.tensor([len(pieces.encode(line)[0]) for line in text.source])
    place = int(torch.where(lengths <= DRAWN, lengths, -lengths).argmax())
    batch = _Batch(pieces, [text.source[place]], [text.target[place]])
    device = next(model.parameters()).device
    kept = _Kept()

    def look(module: MultiheadAttention, args: Any, kwargs: Any, output: Any) -> None:
        module.observe(kept, *args, **kwargs)

    handles = [
        module.register_forward_hook(look, with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, MultiheadAttention) and NAMES[place_of(name)[0]] == "encoder"
    ]
    try:
        model.eval()
        model(batch.source.to(device), batch.target.to(device))
    finally:
        for handle in handles:
            handle.remove()
    write_weights(folder / EXAMPLE, {f"layer {i}": weights for i, weights in enumerate(kept.weights)})
    write_json(folder / TOKENS, [pieces.names[number] for number in batch.source[0].tolist()])


class _Kept(HeadStatistics):
    """Keeps the weights of one sentence, in place of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def update(self, weights: Tensor, *_: Any, **__: Any) -> None:
        self.weights.append(weights[0].float().cpu())
