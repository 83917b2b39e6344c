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


@pytest.mark.parametrize("beam", [1, 2])
def test_a_beam_of_one_is_greedy_and_a_wider_one_is_no_worse(beam: int) -> None:
    model = _ending(3, [0.97, 0.01, 0.01, 0.01])
    best = beam_search(*model, eos=0, beam=beam, max_length=9).best[0]
    assert best is not None
    assert best.tokens == (1, 1, 1, 0)


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
    # What is passed over is counted.
    certificate = found.certificates[0]
    assert certificate.status is Status.BOUNDED
    assert certificate.unseen >= math.log(1e-4)


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
    found = beam_search(step, START, START, eos=0, beam=2, max_length=2, n_best=3)
    assert {h.tokens for h in found.hypotheses[0]} == {(0,), (1, 0), (2, 0)}


def test_endings_are_named() -> None:
    with pytest.raises(ParameterError, match=r"endings = 'some'\. Expected 'beam' or 'all'\. Pass one of them"):
        beam_search(*_ending(1, [1.0, 0, 0, 0]), eos=0, max_length=5, endings="some")  # pyright: ignore
