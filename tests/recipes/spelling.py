"""A recipe that replaces letters, its runs, and what it makes of words."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
import torch

import tsallis as ts
from tsallis.cli import answers
from tsallis.cli.main import main
from tsallis.recipes._shared import files

LETTERS = ["</s>", *"ab<>script/é\\\t\u2028"]
BACK = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


def make_run(folder: Path, table: torch.Tensor, recipe: str = "speller", row: str = "<b>row") -> Path:
    result = {"recipe": recipe, "title": "Toy", "row": row, "published": {}, "seed": 1, "metric": "m", "value": 0.5}
    files.write_json(folder / "result.json", {**result, "n": 1, "split": "0", "metrics": {}})
    files.write_json(folder / "timing.json", {"seconds": 1.0})
    files.write_yaml(folder / "config.yaml", {"seed": 1})
    files.write_json(folder / "vocabulary.json", LETTERS)
    files.write_weights(folder / "model.safetensors", {"table": table})
    return folder


def letters_table() -> torch.Tensor:
    """Every letter may stay or become one or two others; the end stays the end."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(len(LETTERS), len(LETTERS), generator=generator) * 0.4
    scores[:, 0] = -9
    scores += 1.2 * torch.eye(len(LETTERS))
    scores[0, 0] = 20
    return scores


def spelled(word: str, table: torch.Tensor) -> dict[str, float]:
    """All that a word may become, by enumeration in float64."""
    rows = [ts.sparsemax(table[LETTERS.index(letter)].double()).tolist() for letter in word]
    choices = [[(LETTERS[i], p) for i, p in enumerate(row) if p > 0] for row in rows]
    return {"".join(letter for letter, _ in way): math.prod(p for _, p in way) for way in itertools.product(*choices)}


def unescaped(cell: str) -> str:
    return re.sub(r"\\(x..|u....|.)", lambda m: BACK.get(m[0]) or chr(int(m[1][1:], 16)), cell)


def read_tsv(text: str) -> list[dict[str, str]]:
    head, *rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    assert head == list(answers.COLUMNS)
    return [dict(zip(head, map(unescaped, row), strict=True)) for row in rows]


def predict(run: Path, content: bytes, capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    source = run.parent / "lines.txt"
    source.write_bytes(content)
    assert main(["predict", str(run), str(source), *words]) == status
    return capsys.readouterr().out
