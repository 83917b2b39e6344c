"""Fine-tuning a GPT-2 of transformers with the loss of entmax."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

import tsallis as ts
from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes.language_model.gpt2 import (
    END,
    HELD_OUT,
    WINDOWS,
    blocks,
    by_method,
    fine_tune,
    main,
    measure,
    tiny,
)
from tsallis.recipes.language_model.model import EPSILON
from tsallis.recipes.language_model.sampling import METHODS

LINES = ["the cat sat on the mat", "the dog ate the cat", "a mat is a mat"] * 8


def test_blocks_are_the_text() -> None:
    made = blocks(["ab", "é"], 3)
    assert made.tolist() == [[97, 98, END], [0xC3, 0xA9, END]]
    assert blocks(["ab", "é"], 4).tolist() == [[97, 98, END, 0xC3]]
    with pytest.raises(DataError, match="training lines: 6 tokens in 2 lines"):
        blocks(["ab", "é"], 7)
    with pytest.raises(DataError, match="held-out lines: 3 tokens in 1 lines"):
        blocks(["ab"], 7, part=HELD_OUT)


def test_measures() -> None:
    model, texts = tiny(), blocks(LINES, 16)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    model.train()
    model.transformer.h[0].eval()
    # Uniform over all bytes and the end.
    found = measure(model, texts, 1.5)
    modes = model.training, model.transformer.h[0].attn.training
    assert modes == (True, False), "modules keep their own"
    assert found["perplexity"] == pytest.approx(END + 1, rel=1e-3)
    assert found["support"] == END + 1
    assert found["covered"] == 1


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_measures_of_a_model_that_rules_bytes_out(alpha: float) -> None:
    """Each byte predicts the next: token by token, within blocks and not across them."""
    torch.manual_seed(0)
    model, texts = tiny().eval(), blocks(LINES, 16)[:5]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8)
        z = model(input_ids=texts).logits.double()
    nats, support, covered, count = 0.0, 0, 0, 0
    for text, rows in zip(texts.tolist(), z, strict=True):
        for at in range(15):
            p = ts.entmax(rows[at], alpha)
            right = float(p[text[at + 1]])
            nats -= math.log((right + EPSILON) / (1 + EPSILON * (END + 1)))
            support, covered, count = support + int((p > 0).sum()), covered + (right > 0), count + 1
    found = measure(model, texts, alpha, batch_size=2)
    assert found["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-3)
    assert found["support"] == pytest.approx(support / count, rel=1e-2)
    assert found["covered"] == pytest.approx(covered / count, abs=1e-6)
    assert (found["covered"] < 0.5) == (alpha > 1)


def test_sampling_methods_are_those_of_the_recipe() -> None:
    torch.manual_seed(0)
    model, texts = tiny().eval(), blocks(LINES, 16)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    found = by_method(model, texts, 1.5)
    assert set(found) == set(METHODS)
    half = texts[len(texts) // 2 :].flatten()
    windows, gold = half[: (len(half) - 1) // 15 * 15].view(-1, 15), half[1 : (len(half) - 1) // 15 * 15 + 1]
    with torch.no_grad():
        p = ts.entmax(model(input_ids=windows).logits, 1.5).flatten(0, 1)
    assert len(windows) < WINDOWS
    score = ts.decoding.metrics.sparsemax_score(p, gold).double().mean()
    assert found["untruncated"]["sparsemax score"] == pytest.approx(float(score), rel=1e-5)
    greedy = torch.nn.functional.one_hot(p.argmax(-1), END + 1).float()
    score = ts.decoding.metrics.sparsemax_score(greedy, gold).double().mean()
    assert found["greedy"]["sparsemax score"] == pytest.approx(float(score), rel=1e-5)
    assert found["untruncated"]["kept"] == pytest.approx(float((p > 0).double().sum(-1).mean()), rel=1e-5)


def test_what_cannot_be_trained_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, folder = tmp_path / "lines.txt", tmp_path / "model"
    for lines, options, words in (
        (LINES[:9], [], "9 lines. Expected 10 or more"),
        (LINES, ["--block", "64"], "held-out lines: 35 tokens in 2 lines"),
        (LINES, ["--block", "1024"], "block=1024. Expected 2 or more, at most the 512 places"),
        (LINES, ["--block", "1"], "block=1. Expected 2 or more"),
    ):
        text.write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert main([str(text), "--out", str(folder), *options]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert "Traceback" not in error
    assert main([str(tmp_path / "none.txt"), "--out", str(folder)]) == 2
    (tmp_path / "no model").mkdir()
    text.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    for options, words in (
        (["--out", str(text), "--block", "16"], f"{text}: File exists"),
        (
            ["--out", str(folder), "--model", str(tmp_path / "no model")],
            "Expected a folder or a name of a causal",
        ),
    ):
        capsys.readouterr()
        assert main([str(text), *options]) == 2
        assert words in capsys.readouterr().err


def test_a_tokenizer_needs_an_end(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(tmp_path)
    tiny().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="without an end of text"):
        fine_tune(LINES, tmp_path / "out", model=str(tmp_path), block=16)


def test_figures_of_training_lines_are_said_to_be(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    fine_tune(LINES[:3], tmp_path, epochs=1, block=16)
    measured = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
    assert measured["measured on"] == "training lines"
    assert "methods" not in measured


def test_a_tiny_model_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate")
    from transformers import GPT2LMHeadModel

    from tsallis.integrations.transformers import certified_search

    text = tmp_path / "lines.txt"
    text.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    folder = tmp_path / "model"
    options = ["--lr", "3e-3", "--epochs", "12", "--batch-size", "2", "--accumulate", "2", "--block", "32"]
    assert main([str(text), "--out", str(folder), *options]) == 0
    assert "after: perplexity" in capsys.readouterr().out
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    assert measured["after"]["perplexity"] < measured["before"]["perplexity"] / 5
    assert measured["after"]["support"] < 60 < measured["before"]["support"]
    assert measured["measured on"] == HELD_OUT
    assert "methods" not in measured, "one block is no two halves"
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    assert model.config.use_cache
    found = model.generate(
        torch.tensor([list(b"the ")]), attention_mask=torch.ones(1, 4, dtype=torch.long), max_new_tokens=12,
        custom_generate=certified_search, num_beams=4, return_dict_in_generate=True,
    )  # fmt: skip
    (certificate,) = found.certificates
    assert 0 <= certificate.mass <= 1 + 1e-4
    assert certificate.unseen < math.inf
