"""Sampling methods and their measures, against what their definitions say word by word."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import ParameterError
from tsallis.recipes.language_model import generation, measures
from tsallis.recipes.language_model.config import Config
from tsallis.recipes.language_model.data import Stream
from tsallis.recipes.language_model.measures import Tokens
from tsallis.recipes.language_model.model import Training
from tsallis.recipes.language_model.sampling import (
    METHODS,
    Greedy,
    Method,
    Nucleus,
    Ranked,
    TopK,
    Untruncated,
    _sorted,
    distribution,
)

EVERY = [Untruncated(), Greedy(), TopK(1), TopK(3), TopK(99), Nucleus(0.3), Nucleus(0.75), Nucleus(1.0)]


def rows() -> Tensor:
    """Dense, sparse, with ties, certain and uniform distributions of eight words."""
    z = torch.randn(40, 8, dtype=torch.float64) * 2
    ties = torch.tensor([[0.25, 0.0, 0.25, 0.25, 0.0, 0.25, 0.0, 0.0], [0.1, 0.3, 0.0, 0.3, 0.1, 0.1, 0.1, 0.0]])
    certain = torch.eye(8)[:1]
    return torch.cat([ts.softmax(z[:20]), ts.entmax(z[20:], 1.5), ties, certain, torch.full((1, 8), 1 / 8)])


def slow(p: list[float], method: Method) -> list[float]:
    """The definition, a word after the other; of equal words the first is the more probable one."""
    order = sorted(range(len(p)), key=lambda word: (-p[word], word))
    if isinstance(method, Nucleus):
        words: list[int] = []
        for word in order:
            if math.fsum(p[other] for other in words) >= method.share - 1e-12 and words:
                break
            words.append(word)
    else:
        words = order[: {Greedy: 1, Untruncated: len(p)}.get(type(method), getattr(method, "k", 0))]
    mass = math.fsum(p[word] for word in words)
    return [p[word] / mass if word in words else 0.0 for word in range(len(p))]


@pytest.mark.parametrize("method", EVERY, ids=str)
def test_distributions(method: Method) -> None:
    torch.manual_seed(0)
    p = rows()
    expected = torch.tensor([slow(row, method) for row in p.tolist()], dtype=p.dtype)
    found = distribution(p, method)
    assert torch.allclose(found, expected, atol=1e-12)
    if method not in (Untruncated(), TopK(99), Nucleus(1.0)):
        assert not torch.allclose(found, p, atol=1e-3)
    sorted_ = Ranked.of(p)
    _, kept = sorted_.truncated(method)
    for target in range(8):
        words = torch.full((len(p),), target)
        right, score, drawable = sorted_.scored(method, sorted_.rank(words))
        assert torch.allclose(right, expected[:, target], atol=1e-12)
        assert torch.equal(right > 0, expected[:, target] > 0)
        assert torch.allclose(score, ts.decoding.metrics.sparsemax_score(expected, words), atol=1e-12)
        assert torch.equal(drawable, (expected > 0).sum(1))
    # The inverse of the cumulative sums at a fine grid of numbers draws words in their proportions.
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for row in (0, 25, 40, 41):
        one = Ranked(*(x[row].expand(4000, -1).contiguous() for x in (sorted_.p, sorted_.order, sorted_.total)))
        drawn = one.draw(kept[row].expand(4000), grid)
        assert torch.allclose(drawn.bincount(minlength=8) / 4000, expected[row].float(), atol=1e-3)
        assert not bool((expected[row][drawn] == 0).any())


@pytest.mark.parametrize("method", EVERY, ids=str)
def test_only_words_with_probability_are_sorted(method: Method) -> None:
    """Where all rows have zeros: word 0 among them or not, in one row, and of more dimensions."""
    sparse = rows()[[40, 41, 42]]
    assert Ranked.of(sparse).p.shape == (3, 7)
    assert Ranked.of(sparse[2:]).p.shape == (1, 2)
    for p in (sparse, sparse[2:], sparse.flip(-1), sparse.view(3, 1, 8), sparse[0]):
        expected = torch.tensor([slow(row, method) for row in p.view(-1, 8).tolist()], dtype=p.dtype).view(p.shape)
        assert torch.allclose(distribution(p, method), expected, atol=1e-12)
        sorted_ = Ranked.of(p)
        rank = sorted_.rank(torch.zeros(p.shape[:-1], dtype=torch.long))
        assert torch.allclose(sorted_.scored(method, rank)[0], expected[..., 0], atol=1e-12)
        # Not even the largest number takes a draw past the words with probability.
        last = sorted_.draw(sorted_.truncated(method)[1], torch.ones(p.shape[:-1], dtype=torch.float64))
        assert bool((expected.gather(-1, last.unsqueeze(-1)) > 0).all())


def test_equal_probabilities_are_sorted_by_words() -> None:
    """In float32 as torch sorts: with many ties, zeros of both signs, the smallest numbers and the largest."""
    torch.manual_seed(0)
    p = torch.cat([ts.entmax(torch.randn(20, 300), 1.5), torch.randint(4, (20, 300)) / 7])
    p[:, :4] = torch.tensor([-0.0, 1.0, 1e-45, 0.0])
    p[:, -1] = 1e-38
    expected, order = p.sort(dim=-1, descending=True, stable=True)
    found, places = _sorted(p)
    assert torch.equal(found, expected)
    assert torch.equal(places, order)


def test_parameters_of_methods() -> None:
    with pytest.raises(ParameterError, match="k=0"):
        TopK(0)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(ParameterError, match="at most 1"):
            Nucleus(share)


@pytest.fixture
def task() -> Training:
    """A model whose distributions are far from uniform."""
    torch.manual_seed(0)
    config = Config(width=16, heads=2, layers=2, feedforward=32, context=8, prompt=3)
    task = Training(config, torch.full((20,), 1 / 20)).eval()
    for weight in task.model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return task


def model_of(task: Training) -> measures.Model:
    return lambda windows: task.head.probabilities(task.scores(task.model(windows)))


def test_measures_along_a_text(task: Training) -> None:
    stream = Stream(torch.randint(20, (8 * 13 + 1,)), 8)
    methods = {"untruncated": Untruncated(), "top-k": TopK(3), "nucleus": Nucleus(0.8)}
    followed = measures.follow(model_of(task), stream, 100, methods, seed=0)
    assert torch.equal(followed.gold.flatten(), stream.tokens[1:])
    found = {name: Tokens(*(x.flatten() for x in vars(part).values())) for name, part in followed.by.items()}
    gold = followed.gold.flatten()
    windows, _ = stream.windows(torch.arange(13))
    with torch.no_grad():
        p = task.head.probabilities(task.scores(task.model(windows))).flatten(0, 1)
    for name, method in methods.items():
        expected = torch.tensor([slow(row, method) for row in p.tolist()])
        right = expected[torch.arange(len(gold)), gold]
        assert torch.allclose(found[name].right.float(), right, atol=1e-6)
        assert torch.equal(found[name].kept, (expected > 0).sum(1))
        score = ts.decoding.metrics.sparsemax_score(expected.double(), gold)
        assert torch.allclose(found[name].score, score, atol=1e-6)
        assert not bool((expected[torch.arange(len(gold)), found[name].drawn] == 0).any())
        words = 60
        row = measures.of_tokens(name, followed, followed, 20, words)
        nats = sum(-math.log((float(x) + row["epsilon"]) / (1 + 20 * row["epsilon"])) for x in right)
        assert row["epsilon-perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-5)
        assert row["token epsilon-perplexity"] == pytest.approx(math.exp(nats / len(gold)), rel=1e-5)
        drawn, text = found[name].drawn.tolist(), gold.tolist()
        before = [drawn[t] in stream.tokens[max(0, t - 15) : t + 1].tolist() for t in range(len(text))]
        assert row["rep@16"] == pytest.approx(sum(before) / len(text))
        wrong = [hit and drawn[t] != text[t] for t, hit in enumerate(before)]
        assert row["wrep@16"] == pytest.approx(sum(wrong) / len(text))
        assert row["rep"] == pytest.approx(sum(row[f"rep@{w}"] for w in measures.WINDOWS) / 4)
    assert found["top-k"].kept.max() == 3


def test_windows_are_spread_over_the_text(task: Training) -> None:
    """A few windows of a text whose second half is another text than its first; what came before is the text's own."""
    tokens = torch.cat([torch.randint(10, (8 * 20,)), torch.randint(10, 20, (8 * 20 + 1,))])
    stream = Stream(tokens, 8)
    assert stream.spread(5).tolist() == [0, 8, 16, 24, 32]
    assert stream.spread(100).tolist() == list(range(40))
    for number in (4, 10):
        followed = measures.follow(model_of(task), stream, number, {"greedy": Greedy()}, seed=0)
        assert followed.gold.shape == (number, 8)
        assert abs(float((followed.gold >= 10).double().mean()) - 0.5) < 0.02
        history = max(measures.WINDOWS)
        for at, gold, before in zip(stream.spread(number).tolist(), followed.gold, followed.before, strict=True):
            assert torch.equal(gold, tokens[8 * at + 1 : 8 * at + 9])
            expected = tokens[: 8 * at + 1][-history:]
            assert torch.equal(before[history - len(expected) :], expected)
            assert bool((before[: history - len(expected)] == -1).all())
        drawn = followed.by["greedy"].drawn
        hits = [
            int(drawn[row, t]) in tokens[max(0, 8 * at + t - 31) : 8 * at + t + 1].tolist()
            for row, at in enumerate(stream.spread(number).tolist())
            for t in range(8)
        ]
        found = measures.repetition(drawn, followed.gold, followed.before)
        assert found["rep@32"] == pytest.approx(sum(hits) / len(hits))


def test_the_best_of_each_kind_is_chosen(task: Training) -> None:
    """By the mean score of whole distributions."""
    stream = Stream(torch.randint(20, (8 * 13 + 1,)), 8)
    chosen = measures.choose(model_of(task), stream, 100)
    windows, gold = stream.windows(torch.arange(13))
    with torch.no_grad():
        p = model_of(task)(windows).flatten(0, 1)
    for name, kind in METHODS.items():
        scores = {
            method: float(
                ts.decoding.metrics.sparsemax_score(
                    torch.tensor([slow(row, method) for row in p.tolist()], dtype=torch.float64), gold.flatten()
                ).mean()
            )
            for method in kind
        }
        assert scores[chosen[name]] == pytest.approx(max(scores.values()), abs=1e-7)
        assert len(kind) == 1 or max(scores.values()) > min(scores.values()) + 1e-3


@pytest.mark.parametrize("length", [1, 3])
def test_texts_are_written_by_the_model_that_sees_all_of_them(task: Training, length: int) -> None:
    """Greedily, token by token with what was kept of the past, as with whole texts at every step."""
    prompts = torch.randint(20, (5, length))
    found = generation.continued(task, prompts, 8 - length, Greedy(), torch.Generator().manual_seed(0))
    whole = prompts
    with torch.no_grad():
        while whole.shape[1] < 8:
            whole = torch.cat([whole, task.scores(task.model(whole)[:, -1:]).argmax(-1)], 1)
    assert torch.equal(found, whole[:, length:])
    drawn = [
        generation.continued(task, prompts, 8 - length, Untruncated(), torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_draws_follow_the_method(task: Training) -> None:
    prompts = torch.randint(20, (1, 3)).expand(4000, 3)
    drawn = generation.continued(task, prompts, 1, TopK(3), torch.Generator().manual_seed(0))[:, 0]
    with torch.no_grad():
        p = task.head.probabilities(task.scores(task.model(prompts[:1])[:, -1]))
    shares = torch.bincount(drawn, minlength=20) / 4000
    assert torch.allclose(shares, distribution(p, TopK(3))[0], atol=0.03)


def test_statistics_of_samples() -> None:
    repeated = ["a", "b", "c", "d", "a", "b", "c", "d", "a"]  # six 4-grams, four of them different
    found = measures.of_samples([repeated, list("wxyz"), ["a", "b"]])
    assert found["repeated 4-grams"] == pytest.approx((2 / 6 + 0) / 2)
    assert found["distinct-1"] == pytest.approx(8 / 15)
    assert found["distinct-2"] == pytest.approx(7 / 12)
    assert measures.of_samples([["a"]])["repeated 4-grams"] == 0
