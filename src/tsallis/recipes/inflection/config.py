"""Hyper-parameters of the inflection model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...decoding.beam import Endings
from .._shared.seq2seq import SequenceConfig


@dataclass(frozen=True)
class Config(SequenceConfig):
    """Hyper-parameters of the inflection model.

    Attributes:
        dataset: made (two small languages, one of which leaves some forms open; needs no download) or sigmorphon2018.
        languages: to learn, all in one model; null for all that the data set has here.
        setting: which training part of sigmorphon2018: medium has 1,000 words of a language, high 10,000.
        words: of each language's training part that are used, the first ones; null for all.
    """

    dataset: Literal["made", "sigmorphon2018"] = "made"
    # What may end is short, and proofs are what this is about.
    endings: Endings = "all"
    languages: list[str] | None = None
    setting: Literal["medium", "high"] = "medium"
    words: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("languages", self.languages is None or len(self.languages) > 0, "at least one, or null")
        self._require("words", self.words is None or self.words >= 1, "at least 1, or null")
