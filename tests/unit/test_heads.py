"""Statistics of heads on weights whose statistics are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import tsallis as ts
from tsallis.attention import HeadStatistics
from tsallis.core.errors import ShapeError


def test_uniform_one_hot_and_disjoint_heads() -> None:
    statistics = HeadStatistics()
    statistics.update(torch.full((2, 3, 4, 5), 0.2))
    report = statistics.report()
    assert report.density.tolist() == [1.0] * 3
    assert report.confidence.tolist() == pytest.approx([0.2] * 3)
    assert report.disagreement == pytest.approx(0.0, abs=1e-12)
    assert report.queries == 8
    assert report.merging.isnan().all()
    assert report.interrogation.isnan().all()
    disjoint = torch.eye(4)[:, None].expand(4, 3, 4)[None]
    statistics = HeadStatistics()
    statistics.update(disjoint)
    assert statistics.report().disagreement == pytest.approx(math.log(4))
    assert statistics.report().density.tolist() == [0.25] * 4


def test_positional_heads_are_found_at_their_offset() -> None:
    n = 6
    previous = torch.zeros(n, n)
    previous[torch.arange(1, n), torch.arange(n - 1)] = 0.9
    previous[torch.arange(n), 0] += 1 - previous.sum(1)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    uniform = causal / causal.sum(1, keepdim=True)
    statistics = HeadStatistics()
    statistics.update(torch.stack([uniform, previous])[None], causal)
    report = statistics.report()
    head, offset, weight = report.best_offset()
    assert (head, offset) == (1, -1)
    assert weight == pytest.approx((1.0 + 0.9 * 4) / 5)
    # Keys that a query may not see are no places to look at.
    assert report.positional[1].isnan().all()
    assert report.density.tolist() == pytest.approx([1.0, (1 + 1 / 2 + 2 / 3 + 2 / 4 + 2 / 5 + 2 / 6) / n])


def test_padding_counts_nowhere_and_batches_add_up() -> None:
    q, k = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 5, 8)
    lengths = torch.tensor([5, 3, 1])
    inside = torch.arange(5) < lengths[:, None]
    kept = inside[:, None, :, None] & inside[:, None, None, :]
    p = ts.entmax((q @ k.mT).masked_fill(~kept, -torch.inf))
    words = torch.tensor([[0, 0, 1, 2, -1]] * 3).masked_fill(~inside, -1)
    marks, asked = lengths - 1, torch.tensor([True, False, True])
    whole, parts, cut = HeadStatistics(), HeadStatistics(), HeadStatistics()
    whole.update(p, kept, words=words, marks=marks, questions=asked)
    for i, n in enumerate(lengths.tolist()):
        own = slice(i, i + 1)
        parts.update(p[own], kept[own], words=words[own], marks=marks[own], questions=asked[own])
        cut.update(p[own, :, :n, :n], words=words[own, :n], marks=marks[own], questions=asked[own])
    expected = whole.report()
    assert expected.queries == 9
    for report in (parts.report(), cut.report()):
        for name in ("density", "confidence", "merging", "interrogation"):
            torch.testing.assert_close(getattr(report, name), getattr(expected, name))
        assert report.disagreement == pytest.approx(expected.disagreement)
        for offset, value in report.positional.items():
            torch.testing.assert_close(value, expected.positional[offset], equal_nan=True)


def test_merging_and_interrogation_heads() -> None:
    words = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 1]])
    same = (words[:, :, None] == words[:, None]).float()
    merging = same / same.sum(-1, keepdim=True)
    last = torch.zeros(2, 4, 4)
    last[0, :, 3] = 1.0
    last[1, :, 0] = 1.0
    statistics = HeadStatistics()
    statistics.update(
        torch.stack([merging, last], 1), words=words, marks=torch.tensor([3, 3]), questions=torch.tensor([True, False])
    )
    report = statistics.report()
    assert report.merging.tolist() == pytest.approx([1.0, 0.0])
    assert float(report.interrogation[1]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": torch.rand(2, 4, 4)}, "B, H, Nq, Nk"),
        ({"kept": torch.ones(3, 1, 4, 4, dtype=torch.bool)}, "booleans that broadcast"),
        ({"kept": torch.ones(4, 4)}, "booleans that broadcast"),
        ({"words": torch.zeros(2, 5)}, "words of shape"),
        ({"marks": torch.zeros(2)}, "both or neither"),
        ({"marks": torch.zeros(3), "questions": torch.zeros(2)}, "one per sequence"),
    ],
)
def test_errors_say_what_to_do(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        HeadStatistics().update(**{"weights": torch.rand(2, 3, 4, 4), **arguments})


def test_statistics_are_of_one_layer() -> None:
    statistics = HeadStatistics()
    with pytest.raises(ShapeError, match="no weights"):
        statistics.report()
    statistics.update(torch.rand(1, 2, 4, 4))
    with pytest.raises(ShapeError, match="one layer"):
        statistics.update(torch.rand(1, 3, 4, 4))


def test_attended_positions_are_counted_within_what_may_be_attended_to() -> None:
    """Of target tokens over source positions, in sequences of several lengths; one has no source at all."""
    sources, targets = [6, 2, 0, 4], [3, 5, 2, 0]
    kept = torch.zeros(4, 1, 5, 6, dtype=torch.bool)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        kept[row, :, :target, :source] = True
    scores = torch.randn(4, 2, 5, 6, dtype=torch.float64)
    p = ts.sparsemax(scores, mask=kept)
    counts, shares, pairs, keys = [0, 0], [0.0, 0.0], 0, []
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        for t in range(target if source else 0):
            keys.append(source)
            pairs += source
            for head in range(2):
                attended = sum(p[row, head, t, s].item() > 0 for s in range(source))
                counts[head] += attended
                shares[head] += attended / source
    assert counts[0] != counts[1]
    # Weights outside, of rows that are padding or of a model without a mask, count as little.
    for weights in (p, torch.where(kept, p, 0.5)):
        statistics = HeadStatistics()
        statistics.update(weights[:2], kept[:2])
        statistics.update(weights[2:], kept[2:])
        report = statistics.report()
        assert report.queries == len(keys) == 8
        assert report.attended.tolist() == pytest.approx([count / len(keys) for count in counts])
        assert report.density.tolist() == pytest.approx([share / len(keys) for share in shares])
        assert report.keys == sum(keys) / len(keys)
        assert (report.attended / report.keys).tolist() == pytest.approx([count / pairs for count in counts])
    nothing = HeadStatistics()
    nothing.update(p[2:], kept[2:])
    assert nothing.report().attended.isnan().all()
    assert math.isnan(nothing.report().keys)


def test_queries_that_are_padding_count_nowhere_without_a_mask_of_them_too() -> None:
    p = ts.entmax(torch.randn(3, 2, 5, 4))
    real = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    said, masked = HeadStatistics(), HeadStatistics()
    said.update(p, queries=real)
    masked.update(p, real[:, None, :, None].expand(3, 1, 5, 4))
    assert said.report().queries == masked.report().queries == 9
    assert torch.equal(said.report().density, masked.report().density)
    with pytest.raises(ShapeError, match=r"queries .* booleans \(3, 5\)"):
        said.update(p, queries=real[:, :4])


def test_watched_heads_are_told_what_is_known_of_the_batch() -> None:
    layer = ts.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x, words = torch.randn(3, 5, 8), torch.tensor([[0, 0, 1, 1, -1]] * 3)
    asked = []

    def about(name: str) -> dict[str, torch.Tensor]:
        asked.append(name)
        return {"words": words, "queries": words >= 0}

    with ts.nn.watch_heads(layer, about=about) as statistics:
        layer(x)
    report = statistics["self_attn"].report()
    weights = layer.self_attn(x, x, x, average_attn_weights=False)[1]
    within = torch.stack([weights[:, :, i, i // 2 * 2 : i // 2 * 2 + 2].sum(-1) for i in range(4)])
    assert asked == ["self_attn"]
    assert report.queries == 12
    assert torch.allclose(report.merging, within.mean((0, 1)).double())


def test_rows_of_zeros_are_no_distributions() -> None:
    """Heads on the token before, the one behind and itself: at an end of the sentence the first two have no token."""
    n, size = 12, 15
    eye = torch.eye(n, dtype=torch.float64)
    heads = torch.zeros(2, 3, size, size, dtype=torch.float64)
    heads[0, :, :n, :n] = torch.stack([eye.roll(-1, 1).tril(), eye.roll(1, 1).triu(), eye])
    # A sentence of one token: only the last head has weights.
    heads[1, 2, 0, 0] = 1.0
    inside = torch.arange(size) < torch.tensor([[n], [1]])
    statistics = HeadStatistics()
    for own in (slice(0, 1), slice(1, 2)):
        statistics.update(heads[own], (inside[:, None, :, None] & inside[:, None, None, :])[own])
    report = statistics.report()
    assert report.confidence.tolist() == [1.0] * 3
    assert report.density.tolist() == pytest.approx([1 / n, 1 / n, (n * 1 / n + 1) / (n + 1)])
    assert report.disagreement == pytest.approx(math.log(3), abs=1e-12)
    # These are means over all queries.
    assert report.queries == n + 1
    assert report.attended.tolist() == pytest.approx([(n - 1) / (n + 1)] * 2 + [1.0])
    assert report.positional[-1].tolist() == pytest.approx([1.0, 0.0, 0.0])
    nothing = HeadStatistics()
    nothing.update(heads[1:], inside[1:, None, :, None] & inside[1:, None, None, :])
    alone = nothing.report()
    assert alone.density.isnan().tolist() == alone.confidence.isnan().tolist() == [True, True, False]
    assert math.isnan(alone.disagreement)
    assert alone.queries == 1
