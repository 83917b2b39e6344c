"""Fine-tuning a GPT-2 of transformers with the loss of entmax."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes.language_model.gpt2 import END, blocks, main, measure, tiny

LINES = ["the cat sat on the mat", "the dog ate the cat", "a mat is a mat"] * 8


def test_blocks_are_the_text() -> None:
    made = blocks(["ab", "é"], 3)
    assert made.tolist() == [[97, 98, END], [0xC3, 0xA9, END]]
    assert blocks(["ab", "é"], 4).tolist() == [[97, 98, END, 0xC3]]
    with pytest.raises(DataError, match="6 tokens in 2 lines"):
        blocks(["ab", "é"], 7)


def test_measures() -> None:
    model, texts = tiny(), blocks(LINES, 16)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    # Uniform over all bytes and the end.
    found = measure(model, texts, 1.5)
    assert found["perplexity"] == pytest.approx(END + 1, rel=1e-3)
    assert found["support"] == END + 1
    assert found["covered"] == 1


def test_a_tiny_model_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate")
    from transformers import GPT2LMHeadModel

    from tsallis.integrations.transformers import certified_search

    text = tmp_path / "lines.txt"
    text.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    folder = tmp_path / "model"
    options = ["--lr", "3e-3", "--epochs", "12", "--batch-size", "2", "--accumulate", "2", "--block", "32"]
    main([str(text), "--out", str(folder), *options])
    assert "after: perplexity" in capsys.readouterr().out
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    assert measured["after"]["perplexity"] < measured["before"]["perplexity"] / 5
    assert measured["after"]["support"] < 60 < measured["before"]["support"]
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    assert model.config.use_cache
    found = model.generate(
        torch.tensor([list(b"the ")]), attention_mask=torch.ones(1, 4, dtype=torch.long), max_new_tokens=12,
        custom_generate=certified_search, num_beams=4, return_dict_in_generate=True,
    )  # fmt: skip
    (certificate,) = found.certificates
    assert 0 <= certificate.mass <= 1 + 1e-4
    assert certificate.unseen < math.inf
