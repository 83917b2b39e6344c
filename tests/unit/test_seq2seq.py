"""Encoder-decoders: one distribution by every way to it, and what may not matter to it."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.decoding import Decoded, beam_search, exact_search, sample
from tsallis.nn import seq2seq_lstm, seq2seq_transformer
from tsallis.nn.seq2seq import PADDING

from .seq2seq_models import ALPHAS, KINDS, WORDS, again, before, drawn, made

SOURCE = [4, 7, 1, 5]
TARGET = [6, 2, 4, 1]


def _log_probs(model: ts.nn.Seq2Seq, source: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return model.log_probs(model(source, target))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ALPHAS)
@pytest.mark.parametrize("output", [1.0, 1.5])
def test_steps_are_teacher_forcing(kind: str, attention: Any, output: float) -> None:
    model = made(kind, attention, output)
    source, target = drawn(SOURCE), drawn(TARGET)
    expected, follows = _log_probs(model, source, target), model.prefix(target)
    with torch.no_grad():
        start, state = model.start(source)
        other, slow = again(model), before(source)
        assert torch.equal(start, follows[:, 0])
        for t in range(target.shape[1]):
            got, state = model.step(follows[:, t].clamp_min(0), state)
            plain, slow = other(follows[:, t].clamp_min(0), slow)
            inside = target[:, t] >= 0
            torch.testing.assert_close(got[inside], expected[inside, t], rtol=0, atol=1e-11)
            torch.testing.assert_close(got, plain, rtol=0, atol=1e-11)
    assert bool((expected == -torch.inf).any()) == (output > 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("attention", "output"), [(1.5, 1.0), (2.0, 1.5), ("learn", 2.0)])
def test_searches_are_those_without_a_cache(kind: str, attention: Any, output: float) -> None:
    model, source = made(kind, attention, output), drawn([4, 7, 1, 5, 6, 3])
    start, state = model.start(source)
    ways = [(model.step, state), (again(model), before(source))]
    for beam, length, rows in ((1, 6, None), (3, 8, None), (3, 8, 7), (20, 5, None)):
        for _ in range(2):
            # Twice: no search changes what it starts from.
            one, two = (
                beam_search(step, start, s, eos=0, beam=beam, max_length=length, max_rows=rows) for step, s in ways
            )
            _same(one, two)
        if rows is None:
            cached, plain = (
                exact_search(
                    step, start, s, eos=0, max_length=4, found=one if length <= 4 else None, batch=5, max_prefixes=60
                )
                for step, s in ways
            )
            _same(cached, plain)
            from_beam = exact_search(model.step, start, state, eos=0, max_length=length, found=one, max_prefixes=40)
            for mine, theirs in zip(from_beam.best, one.best, strict=True):
                assert theirs is None or (mine is not None and mine.log_prob >= theirs.log_prob)
    draws = [
        sample(step, start, s, eos=0, max_length=6, samples=40, generator=torch.Generator().manual_seed(1))
        for step, s in ways
    ]
    for mine, theirs in zip(*draws, strict=True):
        assert [h.tokens for h in mine] == [h.tokens for h in theirs]
        assert [h.log_prob for h in mine] == pytest.approx([h.log_prob for h in theirs], abs=1e-10)


def _same(one: Decoded, two: Decoded) -> None:
    assert one.rows == two.rows
    for mine, theirs, a, b in zip(one.hypotheses, two.hypotheses, one.certificates, two.certificates, strict=True):
        assert {h.tokens for h in mine} == {h.tokens for h in theirs}
        assert [h.log_prob for h in mine] == pytest.approx([h.log_prob for h in theirs], abs=1e-10)
        assert a.status is b.status
        assert (a.unseen, a.gap) == pytest.approx((b.unseen, b.gap), abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", [1.0, 1.5, 0])
def test_padding_and_company_do_not_matter(kind: str, attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(kind, attention)
    lengths = [*zip(SOURCE, TARGET, strict=True)]
    source, target = drawn(SOURCE), drawn(TARGET)
    together, wider = (
        _log_probs(model, source, target),
        _log_probs(
            model,
            nn.functional.pad(source, (0, 3), value=PADDING),
            nn.functional.pad(target, (0, 2), value=PADDING),
        ),
    )
    for i, (n, m) in enumerate(lengths):
        alone = _log_probs(model, source[i : i + 1, :n], target[i : i + 1, :m])[0]
        torch.testing.assert_close(together[i, :m], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(wider[i, :m], alone, rtol=0, atol=1e-12)
    # What is read in the place of padding may be anything.
    for module in (seq2seq_lstm, seq2seq_transformer):
        monkeypatch.setattr(module, "embedded", _poisoned)
    for i, m in enumerate(TARGET):
        torch.testing.assert_close(_log_probs(model, source, target)[i, :m], together[i, :m], rtol=0, atol=1e-12)


def _poisoned(table: nn.Embedding, tokens: Tensor) -> Tensor:
    return torch.where(tokens[..., None] < 0, 1e3, table(tokens.clamp_min(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_of_padding_alone_says_nothing(kind: str) -> None:
    model, target = made(kind), drawn([3, 4])
    source = torch.tensor([[5, 0, PADDING], [PADDING] * 3])
    found = _log_probs(model, source, target)
    assert found[1].exp().sum(-1).sub(1).abs().max() < 1e-12
    torch.testing.assert_close(found[0, :3], _log_probs(model, source[:1, :2], target[:1, :3])[0])
    torch.testing.assert_close(found[1:], _log_probs(model, source[1:, :1], target[1:]))
    assert not model.align(source, target)[1].any()
    start, state = model.start(source)
    assert torch.allclose(model.step(start, state)[0], found[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_later_tokens_do_not_matter(kind: str) -> None:
    model, source, target = made(kind), drawn([5, 3]), drawn([6, 6])
    changed = target.clone()
    changed[:, 3:] = torch.tensor([7, 8, 1])
    a, b = _log_probs(model, source, target), _log_probs(model, source, changed)
    assert torch.equal(a[:, :4], b[:, :4])
    assert not torch.equal(a[:, 4:], b[:, 4:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("attention", "output"), [("learn", 1.5), (1.0, 1.0), (2.0, 2.0)])
def test_gradients_are_right_and_reach_everything(kind: str, shared: bool, attention: Any, output: float) -> None:
    model = made(kind, attention, output, target_vocabulary=None if shared else WORDS)
    assert (model.source is model.target) == shared
    assert (model.output.weight is model.target.weight) == shared
    names = [name for name, _ in model.named_parameters()]
    assert ("source.weight" in names) != shared
    assert ("output.weight" in names) != shared
    assert any("theta" in name for name in names) == (attention == "learn")
    # Every token stands on both sides, else its embedding would rightly have none.
    source = torch.cat([torch.arange(1, WORDS), torch.tensor([0])])[None].repeat(2, 1)
    target = source.flip(0)[:, [3, 1, 2, 0, 5, 4, 7, 6, 8]]
    source[1, 6:] = PADDING
    model.loss(source, target).backward()
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    # Along random directions; the functions have kinks, so that the steps are small.
    for seed in range(3):
        moves = _moves(parameters, seed)
        slope = sum(float((p.grad * d).sum()) for p, d in moves)
        values = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                for parameter, direction in moves:
                    parameter += step * direction
                values.append(float(model.loss(source, target)))
            for parameter, direction in moves:
                parameter += 1e-6 * direction
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


def _moves(parameters: dict[str, Tensor], seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(p, torch.randn(p.shape, generator=generator, dtype=p.dtype)) for p in parameters.values()]


def test_the_loss_is_the_mean_over_tokens() -> None:
    source, target = drawn(SOURCE), drawn(TARGET)
    for kind in KINDS:
        for smoothing in (0.0, 0.1):
            model = made(kind, output=1.5, label_smoothing=smoothing)
            scores = model(source, target)[target >= 0]
            expected = ts.entmax_loss(scores, target[target >= 0], 1.5, label_smoothing=smoothing)
            torch.testing.assert_close(model.loss(source, target), expected)
        model = made(kind, output=1.0)
        expected = -_log_probs(model, source, target)[target >= 0].gather(1, target[target >= 0][:, None]).mean()
        torch.testing.assert_close(model.loss(source, target).detach(), expected)


@pytest.mark.parametrize("attention", [1.0, 1.5])
def test_alignments_are_what_is_attended_to(attention: float) -> None:
    source, target = drawn(SOURCE), drawn(TARGET)
    for kind in KINDS:
        model = made(kind, attention)
        weights = model.align(source, target)
        assert weights.shape == (4, 6, 7)
        inside = target >= 0
        torch.testing.assert_close(weights.sum(-1), inside.double())
        assert not weights[(source < 0)[:, None].expand_as(weights)].any()
        assert bool((weights[0, :, :4] == 0).any()) == (attention > 1)
        if kind == "transformer":
            torch.testing.assert_close(weights, _seen(model, source, target) * inside[:, :, None])


@pytest.mark.parametrize("kind", KINDS)
def test_alignments_are_without_dropout_in_any_mode(kind: str) -> None:
    source, target = drawn(SOURCE), drawn(TARGET)
    model = made(kind, dropout=0.5)
    expected = model.align(source, target)
    assert not model.training
    model.train()
    # A part that is not trained stays as it is.
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    torch.testing.assert_close(model.align(source, target), expected)
    assert [module.training for module in model.modules()] == modes


def _seen(model: ts.nn.Seq2Seq, source: Tensor, target: Tensor) -> Tensor:
    """Mean weights of the cross-attentions, from their inputs in a forward pass."""
    found = []

    def note(layer: ts.nn.MultiheadAttention, inputs: tuple[Tensor, ...]) -> None:
        q, k = (
            x @ w.mT + b
            for x, w, b in zip(
                inputs[:2], *(y.chunk(3)[:2] for y in (layer.in_proj_weight, layer.in_proj_bias)), strict=True
            )
        )
        q, k = (x.unflatten(2, (2, 4)).transpose(1, 2) for x in (q, k))
        scores = (q @ k.mT / 2).masked_fill((source < 0)[:, None, None], -torch.inf)
        found.append(ts.entmax(scores, layer.alpha, backend="reference").mean(1))

    hooks = [layer.cross_attention.register_forward_pre_hook(note) for layer in model.decoder]
    with torch.no_grad():
        model.hidden(source, model.prefix(target))
    for hook in hooks:
        hook.remove()
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_lstm_is_its_formula(layers: int) -> None:
    """One example at a time, gate by gate."""
    model = made("lstm", 1.0, 1.0, layers=layers)
    weights, n = model.state_dict(), 8

    def cell(x: Tensor, h: Tensor, c: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
        w, u, b, d = (weights[name] for name in names)
        i, f, g, o = (w @ x + b + u @ h + d).split(len(h))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    source, target = drawn(SOURCE), drawn(TARGET)
    scores = model(source, target).detach()
    for example, (s, t) in enumerate(zip(SOURCE, TARGET, strict=True)):
        memory = [weights["target.weight"][token] for token in source[example, :s]]
        state = []
        for layer in range(layers):
            ends, sides = [], []
            for way in ("", "_reverse"):
                h = c = torch.zeros(n // 2, dtype=torch.float64)
                names = [f"encoder.{x}_l{layer}{way}" for x in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                steps = []
                for x in memory[:: -1 if way else 1]:
                    h, c = cell(x, h, c, names)
                    steps.append(h)
                ends.append((h, c))
                sides.append(steps[:: -1 if way else 1])
            memory = [torch.cat(pair) for pair in zip(*sides, strict=True)]
            state.append(tuple(torch.cat(pair) for pair in zip(*ends, strict=True)))
        keys, feed, last = torch.stack(memory), torch.zeros(n, dtype=torch.float64), 0
        for at in range(t):
            x = torch.cat([weights["target.weight"][last], feed])
            for layer in range(layers):
                names = [f"cells.{layer}.{y}" for y in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                state[layer] = cell(x, *state[layer], names)
                x = state[layer][0]
            p = torch.softmax(keys @ (weights["query.weight"] @ x), 0)
            feed = torch.tanh(weights["combine.weight"] @ torch.cat([x, p @ keys]) + weights["combine.bias"])
            expected = weights["target.weight"] @ feed + weights["output.bias"]
            torch.testing.assert_close(scores[example, at], expected, rtol=0, atol=1e-12)
            last = int(target[example, at])


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_saved_and_copied(kind: str) -> None:
    model, source, target = made(kind, "learn"), drawn(SOURCE), drawn(TARGET)
    other = made(kind, "learn")
    other.load_state_dict(model.state_dict())
    for copied in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(source, target), model(source, target))
        assert copied.output.weight is copied.target.weight is copied.source.weight


def test_logarithms_have_no_zeros_but_those_of_entmax() -> None:
    scores = torch.tensor([0.0, -30.0, -60.0, -99.0, -101.0])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found = made("lstm", output=1.01).log_probs(scores.to(dtype))
        expected = 100 * torch.log1p(scores.to(dtype).double() / 100)[:4]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[:4].double(), expected, rtol=1e-5, atol=1e-5)
        assert found[4] == -torch.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_precisions(kind: str, dtype: torch.dtype) -> None:
    model, source, target = made(kind), drawn(SOURCE), drawn(TARGET)
    exact = model(source, target)
    model = model.to(dtype)
    scores = model(source, target)
    assert scores.dtype == dtype
    inside = target >= 0
    scale = 0.15 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(scores[inside].double(), exact[inside], rtol=scale, atol=scale)
    model.loss(source, target).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    found = beam_search(model.step, *model.start(source), eos=0, beam=3, max_length=6)
    assert all(found.best[i] is None or found.best[i].log_prob <= 0 for i in range(4))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_pair_is_refused(kind: str) -> None:
    model = made(kind)
    good = torch.tensor([[3, 0]])
    for source, target, error, message in (
        (good.float(), good, ShapeError, "source of shape"),
        (good[0], good, ShapeError, "source of shape"),
        (good, good[:, :0], ShapeError, "target of shape"),
        (good[:0], good[:0], ShapeError, "source of shape"),
        (good, good.repeat(2, 1), ShapeError, "2 targets"),
        (good + WORDS, good, ParameterError, f"source with numbers from {WORDS} to"),
        (good, good - 100, ParameterError, "target with numbers from -100 to"),
        (good.flip(1) - 1, good, ParameterError, "source with tokens behind padding"),
    ):
        for call in (model, model.loss, model.align):
            with pytest.raises(error, match=message):
                call(source, target)
        if target is good:
            with pytest.raises(error, match=message):
                model.start(source)
    with pytest.raises(ParameterError, match=r"in training.*model\.eval"):
        model.train().start(good)


@pytest.mark.parametrize(
    "options",
    [
        *({"eos": eos} for eos in (WORDS, -1, 1.5, True)),
        *({"output": alpha} for alpha in (ts.nn.Alpha(), "learn", nn.Parameter(torch.tensor(1.5)), 0, -1.0, math.nan)),
        *({"attention": alpha} for alpha in ("sparse", -1.0, math.nan, None)),
        *({"label_smoothing": share} for share in (3, None)),
        *({"target_vocabulary": 3, "eos": 3}, {"width": 7}, {"layers": 0}, {"heads": 3}),
    ],
)
def test_models_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    for kind in KINDS:
        if kind == "transformer" or "heads" not in options:
            with pytest.raises(ParameterError):
                made(kind, **options)
