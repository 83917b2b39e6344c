"""Searches against the enumeration of all sequences: no certificate claims more than the truth, and none less."""

import math

import pytest
import torch

from tsallis.decoding import Decoded, Status, beam_search, exact_search, sample

from .toy_sequences import EOS, Toys, plain_beam, toys

# Ten thousand models in all, half of whose sequences may be cut by the greatest length.
GRID = [
    (mapping, beam, max_length, seed)
    for seed, (mapping, beam, max_length) in enumerate(
        (mapping, beam, max_length)
        for mapping in ("sparsemax", "entmax15")
        for beam, max_length in ((1, 5), (2, 5), (3, 3), (5, 5), (5, 4))
    )
]


def _by_score(sequences: dict) -> list[float]:
    return sorted(sequences.values(), reverse=True)


@pytest.mark.parametrize("endings", ["beam", "all"])
@pytest.mark.parametrize(("mapping", "beam", "max_length", "seed"), GRID)
def test_certificates_are_exactly_the_truth(mapping: str, beam: int, max_length: int, seed: int, endings: str) -> None:
    models = toys(1000, seed, mapping)
    result = beam_search(
        models.step, models.start, models.state, eos=EOS, beam=beam, max_length=max_length, endings=endings
    )
    seen = set()
    for model, (hypotheses, certificate) in enumerate(zip(result.hypotheses, result.certificates, strict=True)):
        truth, prefixes = models.sequences(model)
        found, dropped, left = plain_beam(truth, prefixes, beam, max_length, endings)
        seen.add(certificate.status)
        listed = {hypothesis.tokens: hypothesis.log_prob for hypothesis in hypotheses}
        assert listed.items() <= truth.items()
        assert [h.log_prob for h in hypotheses] == _by_score(found)[: len(hypotheses)]
        assert len(hypotheses) <= certificate.found <= len(found)
        best = max(found.values(), default=-math.inf)
        # No less than the truth.
        if not dropped and not left:
            assert certificate.status is Status.ENUMERATED
        elif best >= max(dropped + left):
            assert certificate.status is Status.ARGMAX_EXACT
        # And no more.
        if certificate.status is Status.ENUMERATED:
            assert listed == truth
            assert certificate.found == len(truth)
            assert certificate.mass == pytest.approx(1)
        if certificate.exact:
            assert best == max(truth.values())
        unseen = max((value for key, value in truth.items() if key not in found), default=-math.inf)
        assert unseen <= certificate.unseen
        assert certificate.gap == max(0, certificate.unseen - best)
        assert [h.log_prob for h in hypotheses[: certificate.proven]] == _by_score(truth)[: certificate.proven]
    assert Status.UNKNOWN not in seen
    assert len(seen) >= (3 if beam < 5 else 2)


@pytest.mark.parametrize("order", ["best", "depth"])
@pytest.mark.parametrize(("mapping", "beam", "max_length", "seed"), GRID)
def test_exact_search_finds_the_argmax(mapping: str, beam: int, max_length: int, seed: int, order: str) -> None:
    # Every model by the one order or the other, with a beam's result or without.
    count = 500
    models = toys(1000, seed, mapping)
    first = 0 if order == "best" else count
    rows = torch.arange(first, first + count)
    state = {key: value[rows] for key, value in models.state.items()}
    found = None
    if seed % 2:
        found = beam_search(models.step, models.start[rows], state, eos=EOS, beam=beam, max_length=max_length)
    rows_seen, non_zero = 0, 0
    for example in range(count):
        chosen = torch.tensor([example])
        single = exact_search(
            models.step,
            models.start[chosen],
            {key: value[chosen] for key, value in state.items()},
            eos=EOS,
            max_length=5,
            found=None if found is None else Decoded([found.hypotheses[example]], [found.certificates[example]], 0),
            order=order,
            batch=4,
        )
        truth, prefixes = models.sequences(first + example)
        best = single.best[0]
        assert best is not None
        assert best.log_prob == max(truth.values()) == truth[best.tokens]
        certificate, listed = single.certificates[0], {hypothesis.tokens for hypothesis in single.hypotheses[0]}
        assert certificate.exact
        assert (certificate.status is Status.ENUMERATED) <= (listed == truth.keys())
        # What a beam found and does not show is no more probable than what it shows.
        kept = found is not None and certificate is found.certificates[example]
        shown = min(h.log_prob for h in single.hypotheses[0]) if kept else -math.inf
        unseen = max((truth[key] for key in truth.keys() - listed), default=-math.inf)
        assert unseen <= max(certificate.unseen, shown)
        assert single.rows <= len(prefixes)
        rows_seen, non_zero = rows_seen + single.rows, non_zero + len(prefixes)
    # Branch and bound sees a part of the prefixes, else nothing was cut.
    assert rows_seen < 0.9 * non_zero


def test_best_first_sees_the_fewest() -> None:
    models = toys(100, 7)
    rows = {
        order: exact_search(models.step, models.start, models.state, eos=EOS, max_length=5, order=order, batch=1).rows
        for order in ("best", "depth")
    }
    assert rows["best"] < rows["depth"]


@pytest.mark.parametrize("order", ["best", "depth"])
def test_a_limit_bounds_what_is_left(order: str) -> None:
    models = toys(200, 8, "softmax")
    statuses = set()
    for limit in (1, 3, 10):
        result = exact_search(
            models.step, models.start, models.state, eos=EOS, max_length=5, order=order, max_prefixes=limit, batch=2
        )
        for model, (best, certificate) in enumerate(zip(result.best, result.certificates, strict=True)):
            truth, _ = models.sequences(model)
            assert best is not None
            assert max(truth.values()) <= best.log_prob + certificate.gap + 1e-12
            assert not certificate.exact or best.log_prob == max(truth.values())
            statuses.add(certificate.status)
        assert result.rows <= limit * models.models
    assert {Status.BOUNDED, Status.ARGMAX_EXACT} <= statuses


def test_the_length_leaves_longer_sequences_open() -> None:
    models = toys(200, 9)
    result = exact_search(models.step, models.start, models.state, eos=EOS, max_length=2)
    for model, (best, certificate) in enumerate(zip(result.best, result.certificates, strict=True)):
        truth, _ = models.sequences(model)
        assert best is None or best.log_prob == max(value for key, value in truth.items() if len(key) <= 2)
        assert max(truth.values()) <= certificate.unseen or (best and best.log_prob == max(truth.values()))
        assert certificate.exact == (best is not None and best.log_prob >= certificate.unseen)
    assert {certificate.exact for certificate in result.certificates} == {True, False}


@pytest.mark.parametrize("options", [{"length_penalty": 0.6}, {"length_penalty": -1.0}, {"min_length": 2}])
def test_breaking_options_prove_nothing(options: dict) -> None:
    models = toys(100, 10)
    result = beam_search(models.step, models.start, models.state, eos=EOS, beam=50, max_length=5, n_best=1, **options)
    for model, (found, certificate) in enumerate(zip(result.hypotheses, result.certificates, strict=True)):
        assert certificate.status is Status.UNKNOWN
        assert not certificate.exact
        truth, _ = models.sequences(model)
        power, shortest = options.get("length_penalty", 0), options.get("min_length", 0)
        ranks = {key: value / len(key) ** power for key, value in truth.items() if len(key) > shortest}
        assert len(found) == min(1, len(ranks))
        # With a beam that drops nothing the ranking itself is right.
        assert not ranks or found[0].score == pytest.approx(max(ranks.values()), abs=1e-12)


def test_samples_follow_the_model() -> None:
    models = toys(1, 3, "entmax15")
    truth, _ = models.sequences(0)
    draws = sample(
        models.step,
        models.start,
        models.state,
        eos=EOS,
        max_length=5,
        samples=20_000,
        generator=torch.Generator().manual_seed(0),
    )[0]
    counts = {}
    for draw in draws:
        assert draw.log_prob == pytest.approx(truth[draw.tokens], abs=1e-12)
        counts[draw.tokens] = counts.get(draw.tokens, 0) + 1
    assert len(truth) > 3
    for tokens, log_prob in truth.items():
        p = math.exp(log_prob)
        # The normal approximation needs a count of some tens.
        assert p < 1e-3 or abs(counts.get(tokens, 0) / 20_000 - p) <= 4.5 * math.sqrt(p * (1 - p) / 20_000)


def test_examples_do_not_touch_each_other() -> None:
    models = toys(50, 11, "softmax")
    together = beam_search(models.step, models.start, models.state, eos=EOS, beam=3, max_length=5)
    apart = beam_search(models.step, models.start, models.state, eos=EOS, beam=3, max_length=5, max_rows=7)
    assert together == apart
    largest = 0

    def step(tokens, state):
        nonlocal largest
        largest = max(largest, tokens.shape[0])
        return models.step(tokens, state)

    beam_search(step, models.start, models.state, eos=EOS, beam=3, max_length=5, max_rows=7)
    assert 3 < largest <= 7


def test_zero_prefixes_cost_nothing() -> None:
    sparse, dense = toys(50, 12), toys(50, 12, "softmax")

    def rows(models: Toys) -> int:
        return beam_search(models.step, models.start, models.state, eos=EOS, beam=5, max_length=5).rows

    assert rows(sparse) < 0.7 * rows(dense)
