"""Searches at their corners: bad models and arguments, states of all kinds, nothing to find, ties, long sequences."""

import math
import re
from typing import NamedTuple

import pytest
import torch

from tsallis.core.errors import NumericalError, ParameterError, ShapeError
from tsallis.decoding import Hypothesis, Status, beam_search, exact_search, sample, tree

from .toy_sequences import EOS, toys

SEARCHES = [beam_search, exact_search, sample]
START = torch.zeros(2, dtype=torch.long)


def _constant(row: list[float]):
    def step(tokens, state):
        return torch.tensor(row).log().expand(tokens.shape[0], -1), state

    return step


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("bad", [math.nan, 3.0, math.inf])
def test_what_is_no_log_probability_is_refused(search, bad: float) -> None:
    with pytest.raises(NumericalError, match="natural logarithms"):
        search(lambda tokens, state: (torch.full((tokens.shape[0], 3), bad), state), START, eos=0, max_length=3)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("shape", [(2,), (3, 4), (2, 1)])
def test_steps_of_other_shapes_are_refused(search, shape: tuple) -> None:
    with pytest.raises(ShapeError, match=re.escape(str(shape))):
        search(lambda tokens, state: (torch.zeros(shape), state), START, eos=1, max_length=3)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 0}, "max_length = 0"),
        ({"eos": -1}, "eos = -1"),
        ({"start": torch.zeros(2)}, "torch.float32"),
        ({"start": START[:, None]}, "(2, 1)"),
        ({"state": object()}, "select(rows)"),
    ],
)
def test_arguments_are_checked(search, arguments: dict, message: str) -> None:
    given = {"start": START, "state": None, "eos": 0, "max_length": 3} | arguments
    start, state = given.pop("start"), given.pop("state")
    with pytest.raises((ParameterError, ShapeError), match=re.escape(message)):
        search(_constant([0.5, 0.5]), start, state, **given)


@pytest.mark.parametrize(
    ("search", "arguments", "message"),
    [
        (beam_search, {"beam": 0}, "beam = 0"),
        (beam_search, {"n_best": 0}, "n_best = 0"),
        (beam_search, {"max_rows": 2}, "max_rows = 2"),
        (beam_search, {"length_penalty": math.nan}, "length_penalty = nan"),
        (exact_search, {"batch": 0}, "batch = 0"),
        (exact_search, {"max_prefixes": 0}, "max_prefixes = 0"),
        (exact_search, {"order": "breadth"}, "order = 'breadth'"),
        (sample, {"samples": 0}, "samples = 0"),
    ],
)
def test_options_are_checked(search, arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        search(_constant([0.5, 0.5]), START, eos=0, max_length=3, **arguments)


def test_found_must_be_of_the_same_examples() -> None:
    found = beam_search(_constant([1.0]), START, eos=0, max_length=1)
    with pytest.raises(ParameterError, match="found for 2 examples"):
        exact_search(_constant([1.0]), START[:1], eos=0, max_length=1, found=found)


def test_a_model_that_rounds_otherwise_in_another_batch() -> None:
    """What a beam found with a value a little better stays the best, and is proved to be."""
    shift = torch.tensor(0.0)
    row = torch.tensor([0.4, 0.4, 0.2]).log()

    def step(tokens, state):
        return (row - shift).expand(tokens.shape[0], -1), state

    found = beam_search(step, START[:1], eos=0, beam=1, max_length=4)
    shift += 1e-6
    again = exact_search(step, START[:1], eos=0, max_length=4, found=found)
    assert again.best == found.best
    assert again.certificates[0].exact


@pytest.mark.parametrize("search", [beam_search, exact_search])
def test_no_example(search) -> None:
    result = search(_constant([1.0]), START[:0], eos=0, max_length=3)
    assert (result.hypotheses, result.certificates, result.rows) == ([], [], 0)
    assert sample(_constant([1.0]), START[:0], eos=0, max_length=3) == []


@pytest.mark.parametrize("search", [beam_search, exact_search])
def test_a_vocabulary_of_the_end_alone(search) -> None:
    result = search(_constant([1.0]), START, eos=0, max_length=3)
    assert result.hypotheses == [[Hypothesis((0,), 0.0, 0.0)]] * 2
    assert [certificate.status for certificate in result.certificates] == [Status.ENUMERATED] * 2


@pytest.mark.parametrize("search", [beam_search, exact_search])
def test_nothing_ends(search) -> None:
    result = search(_constant([0.0, 0.5, 0.5]), START, eos=0, max_length=3)
    assert result.best == [None, None]
    for certificate in result.certificates:
        assert certificate.status is Status.BOUNDED
        assert certificate.gap == math.inf
        assert str(certificate) == "BOUNDED(inf)"
    draws = sample(_constant([0.0, 0.5, 0.5]), START, eos=0, max_length=3)
    assert all(len(draw.tokens) == 3 and 0 not in draw.tokens for (draw,) in draws)


@pytest.mark.parametrize("search", [beam_search, exact_search])
def test_a_model_without_continuation(search) -> None:
    result = search(_constant([0.0, 0.0]), START, eos=0, max_length=3)
    assert result.best == [None, None]
    assert [certificate.status for certificate in result.certificates] == [Status.ENUMERATED] * 2
    assert sample(_constant([0.0, 0.0]), START, eos=0, max_length=3) == [[Hypothesis((), 0.0, 0.0)]] * 2


def test_ties_are_exact() -> None:
    """At a tie with what was dropped the best is still one of the most probable."""
    result = beam_search(_constant([0.5, 0.25, 0.25]), START, eos=0, beam=1, max_length=9)
    assert [str(certificate) for certificate in result.certificates] == ["ARGMAX_EXACT"] * 2
    assert all(best is not None and best.tokens == (0,) for best in result.best)


def test_masses_that_exceed_one_prove_nothing_by_themselves() -> None:
    """A step whose values add up to more than one: the prefixes bound, not the mass that seems to be left."""
    result = beam_search(_constant([0.6, 0.9, 0.9]), START[:1], eos=0, beam=1, max_length=3)
    certificate = result.certificates[0]
    assert certificate.mass > 1
    assert certificate.unseen == pytest.approx(math.log(0.9))
    assert certificate.status is Status.BOUNDED


class _Named(NamedTuple):
    past: torch.Tensor
    other: None


class _Cache:
    """A state with methods of its own."""

    def __init__(self, past: torch.Tensor) -> None:
        self.past = past

    def select(self, rows):
        return _Cache(self.past[rows])

    def join(self, others):
        return _Cache(torch.cat([self.past, *(other.past for other in others)]))


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda x: x, lambda s: s),
        (lambda x: (None, [x]), lambda s: s[1][0]),
        (lambda x: {"a": {"b": x}}, lambda s: s["a"]["b"]),
        (lambda x: _Named(x, None), lambda s: s.past),
        (_Cache, lambda s: s.past),
    ],
)
@pytest.mark.parametrize("search", [beam_search, exact_search])
def test_states_follow_their_prefixes(search, wrap, unwrap) -> None:
    models = toys(20, 4)

    def step(tokens, state):
        log_probs, after = models.step(tokens, dict(zip(("model", "node"), unwrap(state).unbind(1), strict=True)))
        return log_probs, wrap(torch.stack([after["model"], after["node"]], 1))

    state = wrap(torch.stack([models.state["model"], models.state["node"]], 1))
    plain = search(models.step, models.start, models.state, eos=EOS, max_length=5)
    assert search(step, models.start, state, eos=EOS, max_length=5) == plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_in_double_precision(dtype: torch.dtype) -> None:
    """Tokens of probability 0.999 by the thousand: a sum in the model's type would be far off."""
    row = torch.tensor([0.001, 0.999], dtype=torch.float64).log().to(dtype)
    result = beam_search(lambda t, s: (row.expand(t.shape[0], -1), s), START[:1], eos=0, beam=1, max_length=4000)
    longest = min(result.hypotheses[0], key=lambda h: h.log_prob)
    tokens = len(longest.tokens)
    assert tokens > 3000 or len(result.hypotheses[0]) == 1
    expected = row[0].double().item() + (tokens - 1) * row[1].double().item()
    assert longest.log_prob == pytest.approx(expected, rel=1e-12)


def test_gradients_do_not_flow() -> None:
    scores = torch.randn(3, 3, requires_grad=True)
    result = beam_search(lambda t, s: (scores[t].log_softmax(-1), s), START, eos=0, max_length=4)
    assert all(isinstance(h.log_prob, float) for found in result.hypotheses for h in found)


def test_trees_of_long_sequences() -> None:
    """Longer than Python's limit on recursion, and beside a branch."""
    long = Hypothesis((*[1] * 5000, 0), math.log(0.25), 0.0)
    short = Hypothesis((0,), math.log(0.75), 0.0)
    root = tree([long, short])
    assert root.probability == pytest.approx(1)
    assert list(root.children) == [0, 1]
    lines = root.text(lambda token: "$a"[token], width=40).split("\n")
    assert lines[:2] == ["1.0000", "├ 0.7500 $"]
    assert lines[2].startswith("└ 0.2500 aaa")
    assert len(lines[2]) == 40
    assert lines[2].endswith("…")
    assert tree([]).text() == "0.0000"
