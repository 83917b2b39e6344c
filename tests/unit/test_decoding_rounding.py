"""Proofs about models whose probabilities are rounded."""

import math

import pytest
import torch

from tsallis.decoding import beam_search, exact_search

from .toy_sequences import EOS, Toys

START = torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_mass_that_is_left_is_known_no_better_than_sums_are(dtype: torch.dtype) -> None:
    """Near ties of the end and a prefix that is dropped, by two per cent, rounded to the dtype: what claims to be exact
    is, by the values that the search was given.
    """
    generator = torch.Generator().manual_seed(0)
    ends = torch.empty(4000, dtype=torch.float64).uniform_(0.28, 0.33, generator=generator)
    others = ends * torch.empty(4000, dtype=torch.float64).uniform_(0.98, 1.02, generator=generator)
    first = torch.stack([ends, 1 - ends - others, others], 1).log().to(dtype)
    # The prefix that is kept is more probable than either, and has two sequences; that which is dropped has one.
    half = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log().to(dtype)
    certain = torch.tensor([0.0, -math.inf, -math.inf], dtype=dtype)

    def step(tokens, state):
        row, length = state
        log_probs = torch.where(((length == 1) & (tokens == 1))[:, None], half, certain)
        log_probs = torch.where(length[:, None] == 0, first[row], log_probs)
        return log_probs, (row, length + 1)

    rows = torch.arange(4000)
    result = beam_search(
        step, torch.zeros(4000, dtype=torch.long), (rows, torch.zeros_like(rows)), eos=0, beam=1, n_best=5,
        max_length=4, endings="all",
    )  # fmt: skip
    truth = first[:, [0, 2]].double().amax(1).tolist()
    claims = 0
    for best, certificate, most in zip(result.best, result.certificates, truth, strict=True):
        assert best is not None
        claims += certificate.exact
        assert not certificate.exact or best.log_prob == most
        assert most <= best.log_prob + certificate.gap
    assert claims > 100


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_search_knows_the_sums_of_its_own_steps_alone(dtype: torch.dtype) -> None:
    """What a beam found, at steps that `exact_search` does not take, leaves no less for others."""
    models, generator = 300, torch.Generator().manual_seed(0)
    # Nodes 0 to 39: after the first, the end and two others are near each other, and the second others are dropped.
    p = torch.zeros(models, 40, 4, dtype=torch.float64)
    p[:, 0, 1] = 1
    spread = torch.empty(models, 3, dtype=torch.float64).uniform_(0.97, 1.03, generator=generator)
    p[:, 1, [EOS, 2, 3]] = spread / spread.sum(1, keepdim=True)
    p[:, 5, EOS], p[:, 5, 1] = 0.6, 0.4
    p[:, [6, 16], EOS] = 1
    toys = Toys(p.log().to(dtype), 3)
    given = toys.step, toys.start, toys.state
    found = beam_search(*given, eos=EOS, max_length=5, beam=1, endings="all", n_best=5)
    result = exact_search(*given, eos=EOS, max_length=5, found=found, max_prefixes=1)
    claims = 0
    for model, (best, certificate) in enumerate(zip(result.best, result.certificates, strict=True)):
        most = max(toys.sequences(model)[0].values())
        assert best is not None
        claims += certificate.exact
        assert not certificate.exact or best.log_prob == most
        assert most <= best.log_prob + certificate.gap
    assert claims > 50


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
