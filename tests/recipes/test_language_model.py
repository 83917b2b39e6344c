"""The language model: data, heads, and its smoke preset."""

from __future__ import annotations

import json
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
from tsallis.recipes.language_model.data import WIKITEXT, load
from tsallis.recipes.language_model.heads import LEARNED, head_of
from tsallis.recipes.language_model.model import Training, Transformer
from tsallis.recipes.language_model.vocabulary import END

from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "language_model", "smoke", {}).members


def test_windows_cover_the_text_once() -> None:
    text = load(Config(words=50, context=7, prompt=1))
    stream = text.validation
    windows, following = stream.windows(torch.arange(len(stream)))
    assert torch.equal(windows.flatten(), stream.tokens[: 7 * len(stream)])
    assert torch.equal(following.flatten(), stream.tokens[1 : 7 * len(stream) + 1])
    assert text.hash == load(Config(words=50, seed=3)).hash != load(Config(words=51)).hash
    # A chain: at most twelve words follow a word.
    pairs = set(zip(text.train.tokens[:-1].tolist(), text.train.tokens[1:].tolist(), strict=True))
    assert max(sum(a == word for a, _ in pairs) for word in range(50)) <= 12


def wikitext(folder: Path, text: str) -> None:
    """Three equal parts."""
    folder = folder / "wikitext-2"
    folder.mkdir()
    for name in WIKITEXT.files:
        (folder / name.removesuffix(".gz")).write_text(text, encoding="utf-8")


def test_text_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSALLIS_DATA", raising=False)
    config = Config(dataset="wikitext-2", data_dir=str(tmp_path), context=2, prompt=1, pieces=0)
    with pytest.raises(DataError, match="pass --data-dir DIR"):
        load(replace(config, data_dir=None))
    wikitext(tmp_path, "b a b\n\n a b c\n" * 3)
    text = load(config)
    # The most frequent first, ties in alphabetical order: <eos>, b, a, c. A blank line has an end too.
    assert END < "a"
    assert text.train.tokens[:9].tolist() == [1, 2, 1, 0, 0, 2, 1, 3, 0]
    assert text.words == 4
    assert text.vocabulary.words([3, 0]) == ["c", END]
    assert json.loads(text.vocabulary.save()) == [END, "b", "a", "c"]
    with pytest.raises(DataError, match="Lower context"):
        load(replace(config, context=100))
    (tmp_path / "wikitext-2" / "train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        load(config)


def test_pieces_spell_every_word(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    lines = "the lower the lowest <unk> @-@ é 日本\n the newest , newer\n"
    wikitext(tmp_path, lines * 20)
    (tmp_path / "wikitext-2" / "test.txt").write_text("unseen wörd the\n" * 5, encoding="utf-8")
    text = load(Config(dataset="wikitext-2", data_dir=str(tmp_path), context=2, prompt=1, pieces=300))
    words = lines.split()
    words = [*words[:8], END, *words[8:], END]
    assert text.vocabulary.words(text.train.tokens.tolist()) == words * 20
    assert text.vocabulary.words(text.test.tokens.tolist()) == ["unseen", "wörd", "the", END] * 5
    assert len(text.test.tokens) > int(text.vocabulary.starts[text.test.tokens].sum()) == 20
    # Frequent words are one piece; special ones always are.
    assert len(text.vocabulary.encode(["the"])) == len(text.vocabulary.encode(["<unk>"])) == 1
    again = load(Config(dataset="wikitext-2", data_dir=str(tmp_path), context=2, prompt=1, pieces=300))
    assert again.hash == text.hash


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_wikitext() -> None:
    text = load(Config(dataset="wikitext-2", pieces=0))
    assert text.words == 33_278
    sizes = [len(part.tokens) for part in (text.train, text.validation, text.test)]
    assert sizes == [2_088_628, 217_646, 245_569]


def test_an_epoch_goes_on_where_the_last_ended_and_a_pass_misses_nothing() -> None:
    config = Config(words=50, context=7, prompt=1, batch_size=9, steps=30)
    stream = replace(load(config).validation, tokens=torch.arange(7 * 100 + 1))
    loader = recipe._parts(stream, config)
    seen: list[int] = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        seen += [int(first) // 7 for windows, _ in loader for first in windows[:, 0]]
    # 270 windows an epoch, of a hundred: in five passes all come five times, and the first 40 of a sixth.
    counts = torch.tensor(seen).bincount()
    assert sorted(counts.tolist()) == [5] * 60 + [6] * 40
    # Each pass has an order of its own: not all that came first in the third came first in the sixth.
    third = torch.tensor(seen[:270]).bincount() == 3
    assert int(third.sum()) == 70
    assert bool((counts[~third] == 6).any())


@torch.no_grad()
def test_no_word_sees_what_follows() -> None:
    config = Config(width=16, heads=2, layers=2, feedforward=32, context=6, prompt=1, dropout=0.0)
    torch.manual_seed(0)
    model = Transformer(config, 30).eval()
    windows = torch.randint(30, (2, 6))
    changed = windows.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 30
    before, after = model(windows), model(changed)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)


@pytest.mark.parametrize("parts", [[1] * 6, [3, 1, 2], [2, 4]])
@torch.no_grad()
def test_words_one_by_one_or_at_once(parts: list[int]) -> None:
    config = Config(width=16, heads=2, layers=3, feedforward=32, context=6, prompt=1)
    torch.manual_seed(0)
    model = Transformer(config, 30).double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    windows = torch.randint(30, (2, 6))
    seen, found = None, []
    for tokens in windows.split(parts, 1):
        hidden, seen = model.extend(tokens, seen)
        found.append(hidden)
    assert torch.allclose(torch.cat(found, 1), model(windows), rtol=1e-10, atol=1e-10)


def test_heads_are_the_losses_they_name() -> None:
    hidden, weight, bias, target = torch.randn(5, 8), torch.randn(40, 8), torch.randn(40), torch.randint(40, (5,))
    scores = hidden @ weight.t() + bias
    softmax, entmax = (head_of(Config(alpha=alpha)) for alpha in (1.0, 1.7))
    assert torch.allclose(softmax.loss(hidden, weight, bias, target), functional.cross_entropy(scores, target))
    assert torch.allclose(entmax.loss(hidden, weight, bias, target), ts.entmax_loss(scores, target, 1.7), rtol=1e-5)
    assert torch.equal(entmax.probabilities(scores), ts.entmax(scores, 1.7))
    for name in LEARNED:
        head = head_of(Config(alpha=name, alpha_start=1.7))  # pyright: ignore[reportArgumentType]
        assert torch.allclose(head.loss(hidden, weight, bias, target), ts.entmax_loss(scores, target, 1.7), rtol=1e-5)
        assert float(head.order()) == pytest.approx(1.7)


@pytest.mark.parametrize("alpha", [1.0, 1.2, 1.5, 2.0])
def test_models_begin_with_frequencies(alpha: float) -> None:
    """Before the first step, and before what they read makes a difference."""
    frequencies = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01])
    task = Training(Config(alpha=alpha, width=16, heads=2, context=8, prompt=3), frequencies)
    torch.nn.init.zeros_(task.model.words.weight)
    with torch.no_grad():
        p = task.head.probabilities(task.scores(task.model(torch.randint(5, (2, 8)))))
    assert torch.allclose(p, frequencies.expand_as(p), atol=1e-6)


def test_gradients_in_learned_alphas() -> None:
    """By the loss that of the loss, which is never positive; by the score that of the score, and no other's."""
    torch.manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((50, 4), (30, 4), (30,))
    )
    target = torch.randint(30, (50,))

    def score(alpha: float) -> float:
        p = ts.entmax(hidden @ weight.t() + bias, alpha)
        right = p.gather(1, target[:, None])[:, 0]
        return float((right + (1 - p.square().sum(1)) / 2).mean().detach())

    def loss(alpha: float) -> float:
        return float(ts.entmax_loss(hidden @ weight.t() + bias, target, alpha).detach())

    for name, expected in (("learned", lambda alpha: -score(alpha)), ("learned-by-loss", loss)):
        head = head_of(Config(alpha=name, alpha_start=1.4)).double()  # pyright: ignore[reportArgumentType]
        (theta,) = head.parameters()
        found = torch.autograd.grad(head.loss(hidden, weight, bias, target), (theta, hidden, weight, bias))
        slope = (expected(1.4 + 1e-5) - expected(1.4 - 1e-5)) / 2e-5
        assert float(found[0]) == pytest.approx(slope * 0.4 * 0.6, rel=1e-6)
        plain = torch.autograd.grad(ts.entmax_loss(hidden @ weight.t() + bias, target, 1.4), (hidden, weight, bias))
        assert all(torch.allclose(a, b, rtol=1e-8) for a, b in zip(found[1:], plain, strict=True))
    assert loss(1.5) < loss(1.4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 0.5}, "1 or more"),
        ({"alpha_start": 2.0}, "between 1 and 2"),
        ({"heads": 3}, "multiple of heads"),
        ({"steps": 0}, "at least 1"),
        ({"prompt": 64}, "less than context"),
        ({"pieces": 10}, "at least 300"),
    ],
)
def test_configurations_that_cannot_be(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Config(**change)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory):
    """All rows of the smoke preset, trained in this process, and the fields of the configuration that were read."""
    folder = tmp_path_factory.mktemp("smoke")
    results, read = train_watched(recipe, SMOKE, folder)
    return results, read, folder


def test_smoke(smoke) -> None:
    results, read, folder = smoke
    assert read >= {f.name for f in fields(Config)} - {"data_dir", "pieces"}, "a field that nothing reads"
    assert results["softmax"].metrics["support"] == pytest.approx(2100, rel=1e-5)
    assert results["softmax"].metrics["covered"] == pytest.approx(1)
    assert results["entmax 1.5"].metrics["support"] < results["entmax 1.2"].metrics["support"] < 2100.1
    alphas = [results[name].metrics["alpha"] for name in ("softmax", "entmax 1.2", "entmax 1.5")]
    assert alphas == pytest.approx([1, 1.2, 1.5])
    # Six steps of at most 0.01 in its parameter.
    assert 1e-4 < abs(results["entmax, learned"].metrics["alpha"] - 1.5) < 0.016
    assert len({result.split for result in results.values()}) == 1
    runs = finished_runs(SMOKE, results, folder)
    rows = recipe.table(runs)
    assert [row["head"] for row in rows] == ["softmax", "entmax 1.2", "entmax 1.5", "entmax, learned"]
    assert all(float(row["seconds a step"]) >= 0 for row in rows)
    assert set(recipe.figures(runs)) == {"seconds", "support", "surprise", "covered", "alpha"}


def test_sampling_methods_side_by_side(smoke) -> None:
    results, _, folder = smoke
    runs = finished_runs(SMOKE, results, folder)
    details = recipe.details(runs)
    rows = details.pop("Sampling methods, on 128 tokens of test text")
    assert [row["sampling"].split()[0] for row in rows] == ["untruncated", "top-k", "nucleus", "greedy"] * 4 + ["human"]
    assert all(set(row) == set(rows[0]) for row in rows)
    assert rows[-1]["wrep"] == "0.0000"
    assert rows[-1]["epsilon-perplexity"] == "-"
    assert float(rows[3]["kept"]) == 1
    assert len(details) == 2
    for number, (title, texts) in enumerate(details.items(), 1):
        assert title.startswith(f"Prompt {number}: ")
        assert len(texts) == 17
        assert {len(row["text"].split()) for row in texts} == {12}
    written = json.loads((folder / SMOKE[0].name / recipe.SAMPLES).read_text())
    assert [set(row) for row in written] == [{"prompt", "human", "untruncated", "top-k", "nucleus", "greedy"}] * 2


def test_an_interrupted_training_ends_as_one_that_was_not(smoke, tmp_path: Path) -> None:
    results, _, folder = smoke
    member = next(m for m in SMOKE if m.row == "entmax, learned")
    again, _ = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=5)
    assert replace(again, seconds=0) == replace(results["entmax, learned"], seconds=0)
    for name in ("metrics.csv", "model.safetensors", recipe.SAMPLES, recipe.METHODS, recipe.VOCABULARY):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes()
    assert [epoch for epoch, _ in recipe.seconds_per_step(Run(tmp_path / "run", {}, {}, 0.0))] == [1, 2]
