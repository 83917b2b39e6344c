"""Searches at their corners: bad models and arguments, states of all kinds, nothing to find, ties, long sequences."""

import math
import re
from collections import UserDict
from collections.abc import MutableMapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
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
        ({"max_length": math.inf}, "max_length = inf"),
        ({"max_length": 3.0}, "max_length = 3.0"),
        ({"eos": 0.0}, "eos = 0.0"),
        ({"eos": -1}, "eos = -1"),
        ({"eos": torch.tensor(0)}, "eos = tensor(0)"),
        ({"start": [0, 0]}, "start of type list"),
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


@pytest.mark.parametrize("search", SEARCHES)
def test_numbers_of_numpy_are_numbers(search) -> None:
    step = _constant([0.5, 0.5])
    found, expected = (search(step, START, eos=kind(0), max_length=kind(3)) for kind in (np.int64, int))
    sequences = found if search is sample else found.hypotheses
    assert search is sample or found == expected
    assert {type(token) for part in sequences for h in part for token in h.tokens} == {int}


@pytest.mark.parametrize(
    ("search", "arguments", "message"),
    [
        (beam_search, {"beam": 0}, "beam = 0"),
        (beam_search, {"beam": 2.0}, r"beam = 2\.0"),
        (beam_search, {"n_best": 0}, "n_best = 0"),
        (beam_search, {"max_rows": 2}, "max_rows = 2"),
        (beam_search, {"max_rows": 6.0}, r"max_rows = 6\.0"),
        (beam_search, {"min_length": 1.0}, r"min_length = 1\.0"),
        (beam_search, {"length_penalty": math.nan}, "length_penalty = nan"),
        (beam_search, {"length_penalty": 1000.0}, "length_penalty = 1000"),
        (beam_search, {"min_length": -3}, "min_length = -3"),
        (beam_search, {"min_length": 3}, "min_length = 3"),
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
    assert sample(_constant([0.0, 0.0]), START, eos=0, max_length=3) == [[Hypothesis((), 0.0, 0.0, False)]] * 2


def test_ties_are_exact() -> None:
    """At a tie with what was dropped the best is still one of the most probable."""
    result = beam_search(_constant([0.5, 0.25, 0.25]), START, eos=0, beam=1, max_length=9)
    assert [str(certificate) for certificate in result.certificates] == ["ARGMAX_EXACT"] * 2
    assert all(best is not None and best.tokens == (0,) for best in result.best)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("row", [[0.45, 0.6, 0.55], [0.3, 0.3, 0.41], [1.0, 0.002, 0.0]])
def test_values_that_add_up_to_more_than_one_are_refused(search, row: list[float]) -> None:
    with pytest.raises(NumericalError, match=r"add up to 1\..*natural logarithms"):
        search(_constant(row), START[:1], eos=0, max_length=3)


def test_a_proof_of_a_beam_stays() -> None:
    models = toys(300, 6)
    found = beam_search(models.step, models.start, models.state, eos=EOS, beam=3, max_length=5)
    again = exact_search(models.step, models.start, models.state, eos=EOS, max_length=5, found=found)
    searched = 0
    for i, (before, after) in enumerate(zip(found.certificates, again.certificates, strict=True)):
        assert after.status >= max(before.status, Status.ARGMAX_EXACT)
        if before.exact:
            assert (again.hypotheses[i], after) == (found.hypotheses[i], before)
        searched += not before.exact
    assert 0 < searched < 300
    assert again.rows <= sum(len(models.sequences(i)[1]) for i, c in enumerate(found.certificates) if not c.exact)
    with pytest.raises(ParameterError, match=r"a sequence of \d tokens.*at most max_length = 2"):
        exact_search(models.step, models.start, models.state, eos=EOS, max_length=2, found=found)


def test_a_limit_keeps_what_a_beam_has_proved() -> None:
    models = toys(100, 8, "softmax")
    found = beam_search(models.step, models.start, models.state, eos=EOS, beam=1, max_length=5)
    again = exact_search(models.step, models.start, models.state, eos=EOS, max_length=5, found=found, max_prefixes=1)
    for before, after in zip(found.certificates, again.certificates, strict=True):
        assert after.gap <= before.gap
    alone = exact_search(models.step, models.start, models.state, eos=EOS, max_length=5, max_prefixes=1)
    assert any(a.gap < b.gap for a, b in zip(again.certificates, alone.certificates, strict=True))


@pytest.mark.parametrize("order", ["best", "depth"])
def test_large_vocabularies_without_an_early_end(order: str) -> None:
    """Nothing is cut before a sequence has ended: of all that may follow, what the limit allows is kept."""
    generator = torch.Generator().manual_seed(3)
    table = (8 * torch.randn(50, 5000, generator=generator, dtype=torch.float64)).log_softmax(1)
    table[:, 0] = -math.inf
    last = torch.full((5000,), -math.inf, dtype=torch.float64)
    last[0] = 0.0

    def step(tokens, state):
        done = state >= 2
        return torch.where(done[:, None], last, table[tokens % 50]), state + 1

    state = torch.zeros(1, dtype=torch.long)
    arguments = {"eos": 0, "max_length": 4, "order": order, "batch": 7}
    result = exact_search(step, START[:1], state, max_prefixes=400, **arguments)
    best, certificate = result.best[0], result.certificates[0]
    pairs = table[0, 1:][:, None] + table[torch.arange(1, 5000) % 50][:, 1:]
    assert best is not None
    assert best.log_prob <= pairs.max().item() <= best.log_prob + certificate.gap + 1e-12
    assert result.rows <= 400
    if order == "best":
        assert certificate.exact
        assert best.log_prob == pytest.approx(pairs.max().item(), abs=1e-12)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("state", "message"),
    [
        (torch.tensor(0), "shape () for 2 prefixes"),
        (torch.zeros(7, 3), "shape (7, 3) for 2 prefixes"),
        ({"h": [torch.zeros(4, 2, 8)]}, "shape (4, 2, 8) for 2 prefixes"),
    ],
)
def test_states_of_other_rows_are_refused(search, state, message: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(message)):
        search(_constant([0.5, 0.5]), START, state, eos=0, max_length=3)


@pytest.mark.parametrize("search", SEARCHES)
def test_states_that_a_step_returns_are_checked(search) -> None:
    with pytest.raises(ShapeError, match=r"\(4, (2|1), 8\) for (2|1) prefixes"):
        search(lambda t, s: (torch.zeros(len(t), 1), torch.zeros(4, len(t), 8)), START, eos=0, max_length=3)
    with pytest.raises(ParameterError, match=r"returned Tensor.*\(log_probs, state\)"):
        search(lambda t, s: torch.zeros(len(t), 1), START, eos=0, max_length=3)


@pytest.mark.parametrize("search", SEARCHES)
def test_numbers_in_states_are_the_same_for_all_rows(search) -> None:
    lengths = []

    def step(tokens, state):
        lengths.append(state["length"])
        row = torch.tensor([0.25, 0.75, 0.0]).log()
        return row.expand(len(tokens), -1), {"length": state["length"] + 1, "name": state["name"]}

    search(step, START, {"length": 0, "name": "x"}, eos=0, max_length=3)
    assert set(lengths) == {0, 1, 2}


def test_draws_are_counted_once_and_only_if_they_ended() -> None:
    step, draws = _constant([0.4, 0.6]), []
    for _ in range(30):
        draws += sample(step, START[:1], eos=0, max_length=2)[0]
    assert {h.finished for h in draws} == {True, False}
    root = tree(draws)
    assert root.probability == pytest.approx(0.4 + 0.6 * 0.4)


def test_draws_of_few_in_a_large_vocabulary() -> None:
    """Supports of three of 4,000 are drawn from by themselves, with the right frequencies."""
    torch.manual_seed(0)
    row = torch.full((4000,), -math.inf, dtype=torch.float64)
    row[[0, 17, 3999]] = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    calls = []

    def step(tokens, state):
        calls.append(len(tokens))
        return row.expand(len(tokens), -1), state

    (draws,) = sample(step, START[:1], eos=0, max_length=1, samples=20_000)
    assert calls == [1]
    for token, share in ((0, 0.2), (17, 0.5), (3999, 0.3)):
        found = [h for h in draws if h.tokens == (token,)]
        assert abs(len(found) / 20_000 - share) < 4 * math.sqrt(share * (1 - share) / 20_000)
        assert found[0].log_prob == row[token].item()


def test_a_penalty_lists_no_more_than_the_beam() -> None:
    result = beam_search(
        _constant([0.25, 0.75]), START[:1], eos=0, beam=1, max_length=5, length_penalty=0.5, endings="all"
    )
    assert len(result.hypotheses[0]) == 1
    assert result.certificates[0].status is Status.UNKNOWN


class _Named(NamedTuple):
    past: torch.Tensor
    other: None


class _Output(dict):
    """A mapping with attributes, as what models of transformers return."""

    def __setitem__(self, key, value) -> None:
        super().__setitem__(key, value)
        setattr(self, key, value)

    def update(self, *_) -> None:
        raise TypeError("item by item")


class _Holder(MutableMapping):
    """A mapping whose copies have the same items."""

    def __init__(self, items: dict) -> None:
        self.items_ = items

    def __getitem__(self, key):
        return self.items_[key]

    def __setitem__(self, key, value) -> None:
        self.items_[key] = value

    def __delitem__(self, key) -> None:
        del self.items_[key]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)


def _output(past: torch.Tensor) -> _Output:
    output = _Output()
    output["past"] = past
    return output


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
        (lambda x: _output(x), lambda s: s.past),
        (lambda x: MappingProxyType({"a": x}), lambda s: s["a"]),
        (lambda x: UserDict({"a": x}), lambda s: s["a"]),
        (lambda x: _Holder({"a": x}), lambda s: s["a"]),
        (_Cache, lambda s: s.past),
    ],
)
@pytest.mark.parametrize("search", [beam_search, exact_search])
def test_states_follow_their_prefixes(search, wrap, unwrap) -> None:
    models = toys(20, 4)

    def step(tokens, state):
        log_probs, after = models.step(tokens, dict(zip(("model", "node"), unwrap(state).unbind(1), strict=True)))
        return log_probs, wrap(torch.stack([after["model"], after["node"]], 1))

    before = torch.stack([models.state["model"], models.state["node"]], 1)
    state = wrap(before)
    plain = search(models.step, models.start, models.state, eos=EOS, max_length=5)
    options = {"max_rows": 7} if search is beam_search else {}
    assert search(step, models.start, state, eos=EOS, max_length=5, **options) == plain
    assert unwrap(state) is before


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
