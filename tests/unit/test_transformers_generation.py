"""EntmaxLogitsProcessor in generate(), and what generate() does behind it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    LogitsProcessorList,
    TopKLogitsWarper,
    WatermarkingConfig,
)

import tsallis as ts
from tsallis.core.errors import ParameterError
from tsallis.decoding import Status
from tsallis.integrations.transformers import EntmaxLogitsProcessor, certified_search, generation_options

from .transformers_oracle import (
    EOS,
    PROMPTS,
    WORDS,
    all_sequences,
    batch,
    gpt2,
    llama,
    mapped,
    ranked,
    scores_after,
    t5,
)

pytestmark = pytest.mark.usefixtures("quiet_transformers")


IDS = torch.zeros(2, 1, dtype=torch.long)
SCORES = torch.tensor([[1.0, 0.5, -1.0, -math.inf], [0.0, 3.0, 2.9, 2.8]], dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.3, 1.5, 2.0, torch.tensor(1.5)])
def test_logarithms_of_entmax(alpha: Any) -> None:
    out = EntmaxLogitsProcessor(alpha)(IDS, SCORES)
    torch.testing.assert_close(out.exp(), ts.entmax(SCORES, float(alpha)), rtol=1e-12, atol=0)
    # What generate draws from; and what beam search passes instead of scores.
    torch.testing.assert_close(out.softmax(-1), out.exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(EntmaxLogitsProcessor(alpha)(IDS, SCORES.log_softmax(-1)), out, rtol=1e-9, atol=1e-12)
    assert out[0, 3] == -math.inf
    for dtype in (torch.float16, torch.bfloat16):
        half = EntmaxLogitsProcessor(alpha)(IDS, SCORES.to(dtype))
        assert half.dtype == dtype
        torch.testing.assert_close(half.double().exp(), out.exp(), rtol=0, atol=0.02)


def test_softmax_does_not_underflow() -> None:
    out = EntmaxLogitsProcessor(1.0)(IDS, torch.tensor([[0.0, 200.0]]))
    assert out.tolist() == [[-200.0, 0.0]]


@pytest.mark.parametrize(("alpha", "above"), [(1.0, 200.0), (1.01, 80.0), (0.9, 1e6)])
def test_small_probabilities_are_no_zeros_to_a_search(alpha: float, above: float) -> None:
    model = llama().float()
    model.lm_head.bias.data[EOS] = above
    options = {"custom_generate": certified_search, "alpha": alpha, "num_beams": 2, "max_new_tokens": 3}
    found = model.generate(**batch(PROMPTS, model), return_dict_in_generate=True, **options)
    assert all(c.status == Status.ARGMAX_EXACT for c in found.certificates)


@pytest.mark.parametrize("alpha", [-0.1, math.inf, math.nan, "learn", True, torch.tensor(1.5, requires_grad=True)])
def test_alphas_that_cannot_be(alpha: Any) -> None:
    with pytest.raises(ParameterError, match="alpha"):
        EntmaxLogitsProcessor(alpha)


class Taken(Exception):
    """Carries what generate passes to a way of generating."""


def taken(model: Any, **options: Any) -> list[str]:
    """Names of the processors that a call of generate has."""

    def way(
        model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **_: Any
    ):
        raise Taken([type(p).__name__ for p in logits_processor])

    with pytest.raises(Taken) as caught:
        model.generate(**batch(PROMPTS, model), custom_generate=way, max_new_tokens=3, **options)
    return caught.value.args[0]


def test_generate_adds_top_k_behind_it() -> None:
    model = gpt2()
    processors = [EntmaxLogitsProcessor()]
    assert taken(model, logits_processor=processors, do_sample=True) == ["EntmaxLogitsProcessor", "TopKLogitsWarper"]
    # A model may ask for more, or for sampling where the caller does not.
    for name, value in {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.5}.items():
        setattr(model.generation_config, name, value)
    assert len(taken(model, logits_processor=processors)) == 6
    for options in ({}, {"do_sample": True}, {"do_sample": True, "num_beams": 3}, {"do_sample": False}):
        assert taken(model, **generation_options(1.5, **options)) == ["EntmaxLogitsProcessor"]
    assert taken(model, **generation_options(min_new_tokens=1))[-1] == "EntmaxLogitsProcessor"
    assert len(taken(model, **generation_options(logits_processor=[TopKLogitsWarper(3)]))) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 50}, {"top_p": 0.9}, {"temperature": 0.7}, {"renormalize_logits": True}, {"min_p": 0.1},
        {"num_beam_groups": 2}, {"penalty_alpha": 0.6}, {"generation_config": GenerationConfig(num_beams=4)},
        {"num_beams": 2, "length_penalty": 1.0}, {"num_beams": 2, "early_stopping": True},
        {"logits_processor": [EntmaxLogitsProcessor()]},
    ],
    ids=lambda options: list(options)[-1],
)  # fmt: skip
def test_options_that_change_the_distribution_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=list(options)[-1]):
        generation_options(1.5, do_sample=True, **options)


def test_a_configuration_for_softmax_is_reset() -> None:
    model = gpt2()
    plain = model.generate(**batch(PROMPTS, model), max_new_tokens=6, **generation_options(2.0))
    written = {
        "num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 1, "min_length": 8,
        "repetition_penalty": 1.5, "bad_words_ids": [[3]], "exponential_decay_length_penalty": (1, 1.5),
    }  # fmt: skip
    for name, value in written.items():
        setattr(model.generation_config, name, value)
    assert len(taken(model)) == 5
    assert taken(model, **generation_options(2.0)) == ["EntmaxLogitsProcessor"]
    found = model.generate(**batch(PROMPTS, model), max_new_tokens=6, **generation_options(2.0))
    assert torch.equal(found, plain)
    assert not torch.equal(model.generate(**batch(PROMPTS, model), max_new_tokens=6), plain)
    # What a caller asks for is kept, and entmax is of what it leaves.
    kept = ["NoRepeatNGramLogitsProcessor", "EntmaxLogitsProcessor"]
    assert taken(model, **generation_options(2.0, no_repeat_ngram_size=2)) == kept


def test_beams_of_a_summariser_rank_by_probability() -> None:
    """The configuration of BART's summarisers; what it forces says how its texts end, and stays."""
    config = BartConfig(
        vocab_size=WORDS, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=EOS, decoder_start_token_id=1, forced_bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config).double().eval()
    for name, value in {"num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 3, "min_length": 2}.items():
        setattr(model.generation_config, name, value)
    model.generation_config.forced_eos_token_id = EOS

    def generated(**options: Any) -> Any:
        given = {"max_new_tokens": 4, "output_scores": True, "return_dict_in_generate": True}
        return model.generate(**batch([PROMPTS[1]], model), **given, **options)

    assert taken(model, **generation_options(1.5)) == ["ForcedEOSTokenLogitsProcessor", "EntmaxLogitsProcessor"]
    found = generated(**generation_options(1.5, num_beams=3))
    # The sum of logarithms along the sequence, without division by length.
    steps = model.compute_transition_scores(
        found.sequences, found.scores, found.beam_indices, normalize_logits=False
    ).sum()
    assert found.sequences_scores.item() == pytest.approx(steps.item(), rel=1e-6)
    assert "sequences_scores" not in generated(**generation_options(1.5))


def test_options_pass_through() -> None:
    given = LogitsProcessorList([TopKLogitsWarper(3)])
    made = generation_options(2.0, do_sample=True, max_new_tokens=7, top_k=0, logits_processor=given)
    assert made["max_new_tokens"] == 7
    assert made["do_sample"] is True
    assert [type(p).__name__ for p in made["logits_processor"]] == ["TopKLogitsWarper", "EntmaxLogitsProcessor"]
    assert len(given) == 1
    assert "length_penalty" not in made
    assert generation_options(num_beams=2)["length_penalty"] == 0


def test_no_watermark_without_sampling_either() -> None:
    """`generate` appends its processor last, whether it samples or not."""
    marks = WatermarkingConfig(bias=50.0)
    with pytest.raises(ParameterError, match="watermarking_config"):
        generation_options(1.5, do_sample=False, watermarking_config=marks)
    model = gpt2()
    plain = taken(model, **generation_options(1.5, do_sample=False))
    model.generation_config.watermarking_config = marks
    assert taken(model, **generation_options(1.5, do_sample=False)) == plain


@pytest.mark.parametrize("make", [gpt2, t5])
def test_greedy(make: Any) -> None:
    model = make()
    found = model.generate(**batch(PROMPTS, model), max_new_tokens=3, **generation_options(1.5, do_sample=False))
    plain = model.generate(**batch(PROMPTS, model), max_new_tokens=3)
    assert torch.equal(found, plain)


@pytest.mark.parametrize("make", [gpt2, t5])
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_beams_of_generate_have_the_probabilities(make: Any, alpha: float) -> None:
    model, beams = make(), 40
    options = generation_options(alpha, num_beams=beams, num_return_sequences=beams)
    sequences, _ = all_sequences(model, PROMPTS[0], 3, alpha)
    found = model.generate(
        **batch([PROMPTS[0]], model), max_new_tokens=3, output_scores=True, return_dict_in_generate=True, **options
    )
    start = 1 if model.config.is_encoder_decoder else len(PROMPTS[0])
    scores = {}
    for row, score in zip(found.sequences[:, start:].tolist(), found.sequences_scores.exp().tolist(), strict=True):
        if EOS in row:
            scores.setdefault(tuple(row[: row.index(EOS) + 1]), score)
    assert {s for s, p in scores.items() if p > 0} >= set(ranked(sequences)[:3])
    for sequence, p in sequences.items():
        assert scores.get(sequence, p) == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_draws_are_those_of_entmax(beams: int) -> None:
    model, prompt, n = gpt2(), PROMPTS[1], 4000 if beams == 1 else 200
    p = mapped(scores_after(model, prompt, [()]), 2.0)[0]
    assert 1 < (p > 0).sum() < WORDS
    torch.manual_seed(0)
    drawn = model.generate(
        **batch([prompt] * n, model), max_new_tokens=1, **generation_options(2.0, do_sample=True, num_beams=beams)
    )[:, -1]
    counts = torch.bincount(drawn, minlength=WORDS).double()
    assert counts[p == 0].sum() == 0
    if beams == 1:
        assert ((counts / n - p).abs() < 4 * (p * (1 - p) / n).sqrt() + 1e-12).all()
