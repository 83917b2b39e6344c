"""The language model: data, heads, and its smoke preset."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import tsallis as ts
from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError
from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes._shared.runs import Run
from tsallis.recipes.language_model import recipe
from tsallis.recipes.language_model.config import Config
from tsallis.recipes.language_model.data import END, WIKITEXT, load
from tsallis.recipes.language_model.model import HEADS, Training, Transformer

from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "language_model", "smoke", {}).members


def test_windows_cover_the_text_once() -> None:
    text = load(Config(words=50, context=7))
    stream = text.validation
    windows, following = stream.windows(torch.arange(len(stream)))
    assert torch.equal(windows.flatten(), stream.tokens[: 7 * len(stream)])
    assert torch.equal(following.flatten(), stream.tokens[1 : 7 * len(stream) + 1])
    assert text.hash == load(Config(words=50, seed=3)).hash != load(Config(words=51)).hash
    # A chain: at most twelve words follow a word.
    pairs = set(zip(text.train.tokens[:-1].tolist(), text.train.tokens[1:].tolist(), strict=True))
    assert max(sum(a == word for a, _ in pairs) for word in range(50)) <= 12


def test_text_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSALLIS_DATA", raising=False)
    with pytest.raises(DataError, match="pass --data-dir DIR"):
        load(Config(dataset="wikitext-2"))
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    for name in WIKITEXT.files:
        (folder / name.removesuffix(".gz")).write_text("b a b\n\n a b c\n" * 3)
    text = load(Config(dataset="wikitext-2", data_dir=str(tmp_path), context=2))
    # The most frequent first, ties in alphabetical order: b, <eos>, a, c.
    assert END < "a"
    assert text.train.tokens[:8].tolist() == [0, 2, 0, 1, 2, 0, 3, 1]
    assert text.words == 4
    with pytest.raises(DataError, match="Lower context"):
        load(Config(dataset="wikitext-2", data_dir=str(tmp_path), context=100))
    (folder / "train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        load(Config(dataset="wikitext-2", data_dir=str(tmp_path)))


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_wikitext() -> None:
    text = load(Config(dataset="wikitext-2"))
    assert text.words == 33_278
    sizes = [len(part.tokens) for part in (text.train, text.validation, text.test)]
    assert sizes == [2_075_677, 216_347, 244_102]


@pytest.mark.parametrize("head", list(HEADS))
def test_no_word_sees_what_follows(head: str) -> None:
    config = Config(width=16, heads=2, layers=2, feedforward=32, context=6, dropout=0.0, head=head)
    torch.manual_seed(0)
    model = Transformer(config, 30).eval()
    windows = torch.randint(30, (2, 6))
    changed = windows.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 30
    before, after = model(windows), model(changed)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)


def test_heads_are_the_losses_they_name() -> None:
    hidden, weight, target = torch.randn(5, 8), torch.randn(40, 8), torch.randint(40, (5,))
    scores = hidden @ weight.t()
    softmax, entmax = (HEADS[name](Config(head=name, alpha=1.7)) for name in ("softmax", "entmax"))
    assert torch.allclose(softmax.loss(hidden, weight, target), functional.cross_entropy(scores, target))
    assert torch.allclose(entmax.loss(hidden, weight, target), ts.entmax_loss(scores, target, 1.7), rtol=1e-5)
    assert torch.equal(entmax.probabilities(scores), ts.entmax(scores, 1.7))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"alpha": 1.0}, "more than 1"), ({"heads": 3}, "multiple of heads"), ({"steps": 0}, "at least 1")],
)
def test_configurations_that_cannot_be(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Config(**change)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory):
    """Both rows of the smoke preset, trained in this process, and the fields of the configuration that were read."""
    folder = tmp_path_factory.mktemp("smoke")
    results, read = train_watched(recipe, SMOKE, folder)
    return results, read, folder


def test_smoke(smoke) -> None:
    results, read, folder = smoke
    assert read >= {f.name for f in fields(Config)} - {"data_dir"}, "a field that nothing reads"
    assert results["softmax"].metrics["support"] == 2100
    assert results["softmax"].metrics["covered"] == 1
    assert results["entmax"].metrics["support"] < 2100
    assert results["softmax"].split == results["entmax"].split
    runs = finished_runs(SMOKE, results, folder)
    rows = recipe.table(runs)
    assert [row["head"] for row in rows] == ["softmax", "entmax"]
    assert all(float(row["seconds a step"]) >= 0 for row in rows)
    assert set(recipe.figures(runs)) == {"seconds", "support", "surprise", "covered"}


def test_an_interrupted_training_ends_as_one_that_was_not(smoke, tmp_path: Path) -> None:
    results, _, folder = smoke
    member = next(m for m in SMOKE if m.row == "entmax")
    again, _ = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=5)
    assert replace(again, seconds=0) == replace(results["entmax"], seconds=0)
    for name in ("metrics.csv", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes()
    assert [epoch for epoch, _ in recipe.seconds_per_step(Run(tmp_path / "run", {}, {}, 0.0))] == [1, 2]
