"""certified_search in generate(), against all sequences of tiny models by plain passes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from transformers import DynamicCache

import tsallis as ts
from tsallis.core.errors import ParameterError
from tsallis.decoding import Status
from tsallis.integrations.transformers import EntmaxLogitsProcessor, PagedKeyValues

from .transformers_oracle import (
    EOS,
    LENGTH,
    MODELS,
    PAD,
    PROMPTS,
    all_sequences,
    batch,
    check,
    found_in,
    gpt2,
    model_of,
    ranked,
    search,
    t5,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("quiet_transformers")


@cache
def truth(name: str, which: int, alpha: float) -> Any:
    return all_sequences(model_of(name), PROMPTS[which], LENGTH, alpha)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
@pytest.mark.parametrize("name", MODELS)
def test_a_beam_that_drops_nothing_has_every_sequence(name: str, alpha: float) -> None:
    found = search(model_of(name), alpha=alpha, num_beams=7**3)
    for which, (hypotheses, certificate) in enumerate(zip(found.hypotheses, found.certificates, strict=True)):
        sequences, open_ = truth(name, which, alpha)
        assert len(sequences) > 0
        assert (certificate.status == Status.ENUMERATED) == (open_ == 0)
        assert certificate.mass == pytest.approx(sum(sequences.values()), rel=1e-9)
        check(certificate, hypotheses, sequences, open_)
        assert found_in(hypotheses).keys() == sequences.keys()


def claims() -> Iterator[tuple[str, int, float, Any, Any]]:
    for name in MODELS:
        for alpha in (1.5, 2.0):
            found = search(model_of(name), alpha=alpha, num_beams=2)
            for which in range(len(PROMPTS)):
                yield name, which, alpha, found.hypotheses[which], found.certificates[which]


def test_certificates_of_a_narrow_beam_hold() -> None:
    seen = set()
    for name, which, alpha, hypotheses, certificate in claims():
        check(certificate, hypotheses, *truth(name, which, alpha))
        seen.add(certificate.status)
    assert seen == {Status.BOUNDED, Status.ARGMAX_EXACT, Status.ENUMERATED}


@pytest.mark.parametrize("order", ["best", "depth"])
@pytest.mark.parametrize("name", MODELS)
def test_the_exact_search_finds_the_most_probable(name: str, order: str) -> None:
    narrow, exact = search(model_of(name), num_beams=1), search(model_of(name), num_beams=1, exact=order, max_rows=2)
    better = 0
    for which in range(len(PROMPTS)):
        sequences, open_ = truth(name, which, 1.5)
        best = ranked(sequences)[0]
        assert exact.hypotheses[which][0].tokens == best
        assert exact.hypotheses[which][0].log_prob == pytest.approx(math.log(sequences[best]), rel=1e-9)
        check(exact.certificates[which], exact.hypotheses[which], sequences, open_)
        better += not narrow.hypotheses[which] or narrow.hypotheses[which][0].tokens != best
    # It goes on where the beam has no proof.
    assert (exact.rows > narrow.rows) == (not all(c.exact for c in narrow.certificates))
    assert better > 0 or name != "gpt2"


@pytest.mark.parametrize("options", [{}, {"exact": "best", "max_rows": 4}, {"max_rows": 4}, {"n_best": 1}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_with_a_cache_as_without(name: str, options: dict[str, Any]) -> None:
    model, widths = model_of(name), []
    body = model.get_decoder() if model.config.is_encoder_decoder else model
    hook = body.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).shape[1]),
        with_kwargs=True,
    )
    found = search(model, **options)
    cached, widths[:] = list(widths), []
    other = search(model, cached=False, **options)
    hook.remove()
    assert torch.equal(found.sequences, other.sequences)
    torch.testing.assert_close(found.sequences_scores, other.sequences_scores, rtol=0, atol=1e-9)
    assert [c.status for c in found.certificates] == [c.status for c in other.certificates]
    # One token a step behind the prompt.
    prompt = 1 if model.config.is_encoder_decoder else 6
    assert set(cached) == {1, prompt}
    assert max(widths) > prompt


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name: str) -> None:
    model = model_of(name)
    together = search(model)
    for which, prompt in enumerate(PROMPTS):
        alone = search(model, [prompt])
        assert [h.tokens for h in alone.hypotheses[0]] == [h.tokens for h in together.hypotheses[which]]
        for a, b in zip(alone.hypotheses[0], together.hypotheses[which], strict=True):
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-9)


def test_several_ends_are_one() -> None:
    found = search(model_of("gpt2"), eos_token_id=[EOS, 5, 3], num_beams=64)
    last = set()
    for which, prompt in enumerate(PROMPTS):
        sequences, open_ = all_sequences(model_of("gpt2"), prompt, LENGTH, 1.5, ends=(EOS, 5, 3))
        check(found.certificates[which], found.hypotheses[which], sequences, open_)
        assert len(found.hypotheses[which]) > 1
        last |= {h.tokens[-1] for h in found.hypotheses[which]}
    assert len(last) > 1
    exact = search(model_of("gpt2"), eos_token_id=[EOS, 5, 3], num_beams=1, exact="best")
    for which, prompt in enumerate(PROMPTS):
        sequences, _ = all_sequences(model_of("gpt2"), prompt, LENGTH, 1.5, ends=(EOS, 5, 3))
        assert exact.hypotheses[which][0].tokens == ranked(sequences)[0]


# --- what generate gives and takes


def test_rows_of_the_result() -> None:
    model = model_of("gpt2")
    found = search(model, num_return_sequences=3, endings="all")
    tensor = search(model, num_return_sequences=3, endings="all", return_dict_in_generate=False)
    assert torch.equal(found.sequences, tensor)
    assert tensor.shape[0] == 9
    prompts = batch(PROMPTS, model)["input_ids"]
    for row in range(9):
        hypothesis = found.hypotheses[row // 3][row % 3]
        tokens = [*prompts[row // 3].tolist(), *hypothesis.tokens]
        assert tensor[row].tolist() == tokens + [PAD] * (tensor.shape[1] - len(tokens))
        assert found.sequences_scores[row].item() == hypothesis.log_prob
        assert found.probabilities[row].item() == pytest.approx(math.exp(hypothesis.log_prob))
    assert (tensor == PAD).any()


def test_beam_is_num_beams() -> None:
    model = model_of("gpt2")
    found, other = search(model, num_beams=4), search(model, num_beams=1, beam=4)
    assert torch.equal(found.sequences, other.sequences)
    assert found.certificates == other.certificates
    assert search(model, num_beams=1).rows < found.rows
    assert all(len(h) == 1 for h in search(model, n_best=1, endings="all").hypotheses)


def test_alpha_says_which_distribution() -> None:
    model = model_of("gpt2")
    for alpha in (1.0, 2.0):
        found = search(model, alpha=alpha, num_beams=7**4)
        for which in range(len(PROMPTS)):
            check(found.certificates[which], found.hypotheses[which], *truth("gpt2", which, alpha))
    other = search(model, mapping=ts.sparsemax, num_beams=7**4)
    assert other.hypotheses == search(model, alpha=2.0, num_beams=7**4).hypotheses
    third = search(model, logits_processor=[EntmaxLogitsProcessor(2.0)], num_beams=7**4)
    assert third.hypotheses == other.hypotheses
    assert third.certificates == other.certificates


def test_probabilities_of_a_mapping_do_not_underflow_to_zeros() -> None:
    model = gpt2().float()

    def nearly_over(scores: torch.Tensor) -> torch.Tensor:
        # exp(-300) is a number of float64, and a zero of float32.
        return ts.softmax(torch.zeros_like(scores).index_fill(1, torch.tensor([EOS]), 300.0))

    found = search(model, mapping=nearly_over)
    assert all(certificate.status == Status.ARGMAX_EXACT for certificate in found.certificates)


def test_the_cache_is_used_whatever_configurations_say() -> None:
    # Trainer leaves it off.
    for make in (gpt2, t5):
        model = make()
        expected = search(model)
        model.config.use_cache = model.generation_config.use_cache = False
        widths = []
        body = model.get_decoder() if model.config.is_encoder_decoder else model
        body.register_forward_pre_hook(
            lambda _, args, kwargs, widths=widths: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        found = search(model)
        assert torch.equal(found.sequences, expected.sequences)
        assert widths[1:] == [1] * (LENGTH - 1)


@pytest.mark.parametrize("make", [PagedKeyValues, DynamicCache])
def test_caches_that_a_caller_gives(make: Any) -> None:
    model = model_of("llama")
    assert torch.equal(search(model, past_key_values=make()).sequences, search(model).sequences)
    full = make()
    given = batch(PROMPTS, model)
    with torch.no_grad():
        model(**given, past_key_values=full)
    with pytest.raises(ParameterError, match="6 tokens"):
        search(model, past_key_values=full)


def test_a_cache_that_cannot_be_joined() -> None:
    with pytest.raises(ParameterError, match="PagedLayer"):
        search(model_of("gpt2"), past_key_values=PagedKeyValues(), exact="best", num_beams=1, max_rows=2)


# --- mass that is left open


def test_what_the_greatest_length_leaves_open_is_counted() -> None:
    model = model_of("gpt2")
    found = search(model, [PROMPTS[0]], num_beams=7**3, max_new_tokens=2)
    sequences, open_ = all_sequences(model, PROMPTS[0], 2)
    (certificate,) = found.certificates
    assert found_in(found.hypotheses[0]).keys() == sequences.keys()
    assert certificate.status == Status.BOUNDED
    assert certificate.mass < 0.5
    assert certificate.unseen == pytest.approx(math.log(open_), abs=1e-9)
    # The limit is the same by another name.
    total = batch([PROMPTS[0]], model)["input_ids"].shape[1] + 2
    assert search(model, [PROMPTS[0]], num_beams=7**3, max_new_tokens=None, max_length=total).certificates == [
        certificate
    ]


def test_no_sequence_ends() -> None:
    model = gpt2()
    model.lm_head.bias.data[EOS] = -100.0
    found = search(model)
    assert found.hypotheses == [[], [], []]
    assert all(c.gap == math.inf and c.status == Status.BOUNDED for c in found.certificates)
    assert found.sequences.tolist() == batch(PROMPTS, model)["input_ids"].tolist()
    assert found.sequences_scores.tolist() == [-math.inf] * 3
    assert found.probabilities.tolist() == [0.0] * 3
    with pytest.warns(UserWarning, match="3 of 3 examples the search found no sequence that ends within 5 tokens"):
        search(model, return_dict_in_generate=False)


# --- what voids bounds


def test_the_default_length_penalty_is_none_and_others_prove_nothing() -> None:
    model = gpt2()
    assert model.generation_config.length_penalty in (None, 1.0)
    found = search(model, endings="all")
    assert found.certificates == search(model, endings="all", length_penalty=0.0).certificates
    assert Status.UNKNOWN not in [c.status for c in found.certificates]
    ranked_otherwise = search(model, endings="all", length_penalty=1.0)
    assert {c.status for c in ranked_otherwise.certificates} == {Status.UNKNOWN}
    for hypotheses in ranked_otherwise.hypotheses:
        for h in hypotheses:
            assert h.score == pytest.approx(h.log_prob / len(h.tokens))
    assert ranked_otherwise.sequences_scores[0].item() == ranked_otherwise.hypotheses[0][0].score
    model.generation_config.length_penalty = 2.0
    with pytest.raises(ParameterError, match=r"length_penalty=2\.0 in the generation configuration"):
        search(model)
    assert search(model, endings="all", length_penalty=0.0).certificates == found.certificates
    with pytest.raises(ParameterError, match="exact with length_penalty"):
        search(model, length_penalty=1.0, exact="best")
