"""Which sequences that end a beam search finds."""

import math

import pytest
import torch

from tsallis.core.errors import ParameterError
from tsallis.decoding import Status, beam_search, exact_search

START = torch.zeros(1, dtype=torch.long)
# To end at once is more probable than any long sequence, as under models with softmax and label smoothing.
GOING_ON = torch.tensor([1e-4, 0.5, 0.3, 0.2 - 1e-4], dtype=torch.float64).log()


def _ending(after: int, row: list[float]):
    """A model that goes on for so many tokens, and then has the probabilities of a row."""
    last = torch.tensor(row, dtype=torch.float64).log()

    def step(tokens, length):
        return torch.where((length < after)[:, None], GOING_ON, last), length + 1

    return step, START, START


def test_a_beam_of_one_is_greedy() -> None:
    best = beam_search(*_ending(20, [0.97, 0.01, 0.01, 0.01]), eos=0, beam=1, max_length=30).best[0]
    assert best is not None
    assert best.tokens == (*[1] * 20, 0)


def test_all_endings_end_at_once() -> None:
    model = _ending(20, [1.0, 0.0, 0.0, 0.0])
    found = beam_search(*model, eos=0, beam=3, max_length=30)
    every = beam_search(*model, eos=0, beam=3, max_length=30, endings="all")
    exact = exact_search(*model, eos=0, max_length=30, found=found)
    assert found.best[0] is not None
    assert found.best[0].tokens == (*[1] * 20, 0)
    assert every.best[0] is not None
    assert exact.best[0] is not None
    assert every.best[0].tokens == exact.best[0].tokens == (0,)


def test_what_is_passed_over_is_counted() -> None:
    first, then = torch.tensor([[0.4, 0.5, 0.1], [1.0, 0.0, 0.0]], dtype=torch.float64).log()

    def step(tokens, length):
        return torch.where((length == 0)[:, None], first, then), length + 1

    found = beam_search(step, START, START, eos=0, beam=1, max_length=3)
    assert found.certificates[0].unseen == first[0].item()
    # It is found where it is more probable than either prefix.
    first[1:] = torch.tensor([0.3, 0.3], dtype=torch.float64).log()
    found = beam_search(step, START, START, eos=0, beam=1, max_length=3, n_best=2)
    assert [h.tokens for h in found.hypotheses[0]] == [(0,), (1, 0)]
    assert found.certificates[0].exact


def test_what_a_beam_has_proved_of_nothing_stays_proved() -> None:
    row = torch.tensor([0.05, 0.6, 0.35], dtype=torch.float64).log()

    def step(tokens, state):
        return row.expand(len(tokens), -1), state

    found = beam_search(step, START, eos=0, beam=1, max_length=8)
    assert found.hypotheses == [[]]
    further = exact_search(step, START, eos=0, max_length=8, found=found, max_prefixes=1)
    assert further.certificates[0].unseen <= found.certificates[0].unseen


def test_nothing_is_found_where_no_end_is_in_the_beam() -> None:
    found = beam_search(*_ending(20, [1.0, 0.0, 0.0, 0.0]), eos=0, beam=3, max_length=9)
    assert found.hypotheses == [[]]
    assert found.certificates[0].gap == math.inf


def test_what_was_passed_over_is_found_where_nothing_was_dropped() -> None:
    """Two ways to go on and a beam of two: a small end is not among them."""
    rows = [[0.1, 0.5, 0.4], [0.1, 0.9, 0.0], [0.1, 0.0, 0.9], [1.0, 0.0, 0.0]]
    table = torch.tensor(rows, dtype=torch.float64).log()

    def step(tokens, length):
        return torch.where((length < 2)[:, None], table[tokens], table[3]), length + 1

    found = beam_search(step, START, START, eos=0, beam=2, max_length=9)
    assert found.certificates[0].status is Status.ENUMERATED
    assert {h.tokens for h in found.hypotheses[0]} == {(0,), (1, 0), (2, 0), (1, 1, 0), (2, 2, 0)}
    # Nor where only the length was too small for all.
    found = beam_search(_four, START, START, eos=0, beam=2, max_length=2, n_best=3)
    assert {h.tokens for h in found.hypotheses[0]} == {(0,), (1, 0), (2, 0)}


def _four(tokens, length):
    """Two prefixes of one token, four of two."""
    table = torch.tensor([[0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.1, 0.4, 0.5]], dtype=torch.float64).log()
    return table[tokens], length + 1


def test_endings_are_named() -> None:
    with pytest.raises(ParameterError, match=r"endings = 'some'\. Expected 'beam' or 'all'\. Pass one of them"):
        beam_search(*_ending(1, [1.0, 0, 0, 0]), eos=0, max_length=5, endings="some")  # pyright: ignore
