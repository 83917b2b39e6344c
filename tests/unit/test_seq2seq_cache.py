"""What a search keeps of prefixes: no history of states makes a difference, and memory has a bound."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import ParameterError
from tsallis.decoding import beam_search
from tsallis.nn import seq2seq_cache
from tsallis.nn.seq2seq_cache import Cache
from tsallis.nn.seq2seq_grid import Grid
from tsallis.nn.seq2seq_lstm import State

from .seq2seq_models import KINDS, WORDS, drawn, made


class Walk:
    """States with what they should be states of."""

    def __init__(self, model: ts.nn.Seq2Seq, seed: int) -> None:
        self.model, self.random = model, random.Random(seed)
        # (state, sources, prefixes), by the length of prefixes.
        self.known: dict[int, list[tuple[Cache | State, list[Tensor], Tensor]]] = {}

    def start(self, lengths: list[int]) -> None:
        source = drawn(lengths)
        _, state = self.model.start(source)
        sources = [row[:n] for row, n in zip(source, lengths, strict=True)]
        self.known.setdefault(0, []).append((state, sources, torch.zeros(len(lengths), 0, dtype=torch.long)))

    def act(self) -> None:
        """Choose rows of one state, or of some, and take a step; the states remain."""
        length = self.random.choice([n for n in self.known for _ in range(n + 1)])
        states, sources, prefixes = [], [], []
        for _ in range(self.random.choice([1, 1, 2, 3])):
            state, of, prefix = self.random.choice(self.known[length])
            rows = [self.random.randrange(len(of)) for _ in range(self.random.choice([1, 2, 5, len(of)]))]
            if self.random.random() < 0.8:
                state = state.select(torch.tensor(rows))
                of, prefix = [of[row] for row in rows], prefix[rows]
            states.append(state)
            sources += of
            prefixes.append(prefix)
        state = states[0].join(states[1:]) if len(states) > 1 else states[0]
        prefix = torch.cat(prefixes)
        for _ in range(self.random.choice([1, 1, 3])):
            tokens = torch.randint(0, WORDS, (len(sources),))
            after = torch.cat([prefix, tokens[:, None]], 1)
            got, following = self.model.step(tokens, state)
            padded = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=-1)
            expected = self.model.log_probs(self.model.output.scores(self.model.hidden(padded, after)[:, -1]))
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
            if len(sources) < 40:
                self.known.setdefault(length + 1, []).append((following, sources, after))
            if self.random.random() < 0.5:
                # Go on; else take other tokens from the same state.
                state, prefix, length = following, after, length + 1


@pytest.mark.parametrize(("kind", "sizes"), [("lstm", (1, 2)), ("transformer", (1, 2)), ("transformer", (8, 16))])
@pytest.mark.parametrize("attention", [1.0, 2.0, "learn"])
@torch.no_grad()
def test_no_history_matters(kind: str, sizes: tuple[int, int], attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq2seq_cache, "ROOM", sizes[0])
    monkeypatch.setattr(seq2seq_cache, "MOST", sizes[1])
    walk = Walk(made(kind, attention, 1.0), seed=sizes[0])
    for lengths in ([4, 2, 6], [3], [5, 5]):
        walk.start(lengths)
    for _ in range(40):
        walk.act()
    assert max(walk.known) > 4


@torch.no_grad()
def test_linear_steps_copy_nothing_and_others_do() -> None:
    model = made("transformer")
    start, state = model.start(drawn([4, 3]))
    _, first = model.step(start, state)
    _, second = model.step(start + 3, first)
    assert first.nodes is second.nodes
    before = second.nodes.kept[..., :4, :].clone()
    # From a state that another went on from.
    _, other = model.step(start + 5, first)
    assert other.nodes is not second.nodes
    assert torch.equal(second.nodes.kept[..., :4, :], before)
    # Nor does a failed step leave anything behind that a state can see.
    with pytest.raises(IndexError):
        model.step(start + WORDS, second)
    one, two = (model.step(start + 1, x)[0] for x in (second, second))
    assert torch.equal(one, two)


@torch.no_grad()
def test_tokens_in_common_are_kept_once() -> None:
    model = made("transformer")
    start, state = model.start(drawn([4]))
    for _ in range(200):
        # Four prefixes, all of which go on from the first.
        _, state = model.step(start.repeat(4), state.select(torch.zeros(4, dtype=torch.long)))
    assert state.length == 200
    live = state.path.any(0).sum()
    assert live == 203
    # Not 800: half as many again, and some.
    assert state.nodes.kept.shape[4] <= 203 + 102 + seq2seq_cache.ROOM


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_groups_without_prefixes_are_left_out(kind: str) -> None:
    model = made(kind)
    start, state = model.start(drawn([3] * 8))
    _, state = model.step(start, state)
    assert state.select(torch.tensor([0, 1, 2, 5, 7])).memory is state.memory
    chosen = state.select(torch.tensor([7, 2, 7]))
    assert chosen.grid.group.tolist() == [1, 0, 1]
    assert [len(x) for x in _tensors(chosen)[:1]] == [2]
    assert sum(x.numel() for x in _tensors(chosen)) < sum(x.numel() for x in _tensors(state)) / 2
    assert len(state.select(torch.zeros(0, dtype=torch.long)).grid.group) == 0


def test_prefixes_of_other_lengths_are_not_joined() -> None:
    model = made("transformer")
    start, state = model.start(drawn([3]))
    with pytest.raises(ParameterError, match=r"\[0, 1\] tokens"):
        state.join([model.step(start, state)[1]])


def test_steps_have_no_gradient() -> None:
    model = made("transformer")
    start, state = model.start(drawn([3]))
    assert not model.step(start, state)[0].requires_grad


def test_grids() -> None:
    x = torch.arange(1.0, 6.0)
    for group, expected in (
        ([0, 0, 2, 2, 2], [[1, 2, 0], [0, 0, 0], [3, 4, 5]]),
        ([1, 0, 1, 0, 2], [[2, 4], [1, 3], [5, 0]]),
        ([2, 2, 2, 2, 2], [[0] * 5, [0] * 5, [1, 2, 3, 4, 5]]),
    ):
        grid = Grid(torch.tensor(group), 3)
        assert grid.put(x).tolist() == expected
        assert torch.equal(grid.take(grid.put(x)), x)
    for group, expected in (([0, 0, 1, 1], [[1, 2], [3, 4]]), ([0, 1, 0, 1], [[1, 3], [2, 4]])):
        grid = Grid(torch.tensor(group), 2)
        assert grid.put(x[:4]).tolist() == expected
        assert torch.equal(grid.take(grid.put(x[:4])), x[:4])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beam", [1, 4, 20])
@pytest.mark.parametrize("sharp", [0.0, 1.0])
def test_memory_has_the_limit_that_is_set(kind: str, beam: int, sharp: float) -> None:
    """At every step of a search: what the last state kept and what the next one keeps, together."""
    model, source = made(kind, 1.5, 1.0), drawn([5, 8] * 4)
    with torch.no_grad():
        # With flat scores prefixes part at once; no sequence ends.
        model.output.weight *= sharp
        model.output.bias.zero_()[0] = -1e3
    alone = _largest(model, source, beam, None)
    least = model.max_rows(2**40, beam=beam, max_length=20, source_length=8)
    each = 2**40 // (least // beam)
    with pytest.raises(ParameterError, match="of one beam or more"):
        model.max_rows(each // 2, beam=beam, max_length=20, source_length=8)
    for sentences in (1, 3):
        limit = int(1.01 * sentences * each)
        rows = model.max_rows(limit, beam=beam, max_length=20, source_length=8)
        assert rows == sentences * beam
        assert _largest(model, source, beam, rows) <= limit
    # An LSTM keeps so little of a single prefix that copies of sources count.
    assert alone > (1.5 if kind == "transformer" or beam > 1 else 1) * _largest(model, source, beam, 3 * beam)


def _largest(model: ts.nn.Seq2Seq, source: Tensor, beam: int, rows: int | None) -> int:
    """Bytes at most of two states that follow each other; no more are held."""
    largest, start = 0, model.start(source)

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        nonlocal largest
        found, following = model.step(tokens, state)
        kept = {x.data_ptr(): x.numel() * x.element_size() for y in (state, following) for x in _tensors(y)}
        # The state of all sources is the caller's.
        for x in _tensors(start[1]):
            kept.pop(x.data_ptr(), None)
        largest = max(largest, sum(kept.values()))
        return found, following

    found = beam_search(step, *start, eos=0, beam=beam, max_length=20, max_rows=rows)
    assert found.rows > 15 * beam * len(source)
    return largest


def _tensors(state: Cache | State) -> list[Tensor]:
    if isinstance(state, State):
        return [state.memory, state.h, state.c, state.feed]
    found = [x for layer in state.memory.keys for x in layer]
    return found if state.nodes is None else [*found, state.nodes.kept]
