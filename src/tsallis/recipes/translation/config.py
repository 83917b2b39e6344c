"""Hyper-parameters of the translation model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._shared.seq2seq import SequenceConfig
from .patterns import PATTERNS
from .pieces import FIRST


@dataclass(frozen=True)
class Config(SequenceConfig):
    """Hyper-parameters of the translation model.

    Attributes:
        dataset: made (a small language pair that needs no download) or multi30k (English to German).
        pieces: of words, in the vocabulary that both languages share, bytes and the end of a sentence among them.
        heads: of each attention.
        feedforward: width inside the layers.
        fixed: heads of each encoder layer that follow a fixed pattern of places, the first of: current, previous and
            next token, larger left and right context, end and start of the sentence, last token. The rest is learned.
        log_every: steps between two looks at the alphas of heads.
    """

    dataset: Literal["made", "multi30k"] = "made"
    output: float = 1.0
    label_smoothing: float = 0.1
    width: int = 256
    layers: int = 3
    dropout: float = 0.1
    lr: float = 2e-3
    batch_tokens: int = 3000
    warmup: int = 600
    epochs: int = 12
    empty: bool = False
    search_batch: int = 100
    pieces: int = 8000
    heads: int = 8
    feedforward: int = 512
    fixed: int = 0
    log_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heads", "feedforward", "log_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("pieces", self.pieces > FIRST, f"more than {FIRST}: bytes and the end of a sentence are pieces")
        self._require("width", self.width % (2 * self.heads) == 0, "a multiple of twice the heads")
        most = min(self.heads, len(PATTERNS))
        self._require("fixed", 0 <= self.fixed <= most, f"0 to {most}")
