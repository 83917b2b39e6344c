"""certified_search in generate(): processors, options that it refuses, half precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from transformers import LogitsProcessor, MaxTimeCriteria, StoppingCriteriaList

import tsallis as ts
from tsallis.core.errors import NumericalError, ParameterError
from tsallis.decoding import Status
from tsallis.integrations.transformers import EntmaxLogitsProcessor

from .transformers_oracle import EOS, LENGTH, PROMPTS, all_sequences, check, gpt2, model_of, search

pytestmark = pytest.mark.usefixtures("quiet_transformers")


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("min_new_tokens", 3, "MinNewTokensLength"), ("no_repeat_ngram_size", 1, "NoRepeatNGram"),
        ("suppress_tokens", [5], "SuppressTokens"), ("forced_eos_token_id", EOS, "ForcedEOSToken"),
    ],
)  # fmt: skip
def test_processors_prove_nothing_of_the_model(option: str, value: Any, name: str) -> None:
    model = model_of("gpt2")
    plain = search(model, endings="all")
    with pytest.warns(UserWarning, match=rf"generate has .*{name}LogitsProcessor, which.*=None.*certify_processed"):
        found = search(model, endings="all", **{option: value})
    assert found.hypotheses != plain.hypotheses
    for certificate in found.certificates:
        assert certificate.status == Status.UNKNOWN
        assert math.isnan(certificate.gap)
        assert math.isnan(certificate.unseen)
        assert certificate.proven == 0
        assert 0 < certificate.mass <= 1 + 1e-9


def test_certificates_of_the_model_with_its_processors() -> None:
    model = model_of("gpt2")

    def suppressed(prefixes: Any, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, 5] = -math.inf
        for row, prefix in enumerate(prefixes):
            scores[row, EOS] = -math.inf if len(prefix) < 2 else scores[row, EOS]
        return scores

    options = {"suppress_tokens": [5], "min_new_tokens": 2, "certify_processed": True}
    wide, narrow = search(model, num_beams=7**3, **options), search(model, num_beams=2, **options)
    for which, prompt in enumerate(PROMPTS):
        sequences, open_ = all_sequences(model, prompt, LENGTH, edit=suppressed)
        check(wide.certificates[which], wide.hypotheses[which], sequences, open_)
        check(narrow.certificates[which], narrow.hypotheses[which], sequences, open_)
        assert wide.certificates[which].mass == pytest.approx(sum(sequences.values()))


class Shift(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + 1


def test_processors_that_a_search_cannot_use() -> None:
    model = model_of("gpt2")
    for options in (
        {"prefix_allowed_tokens_fn": lambda which, tokens: [EOS, 3]}, {"repetition_penalty": 1.5},
        {"encoder_repetition_penalty": 1.5}, {"guidance_scale": 2.0},
    ):  # fmt: skip
        with pytest.raises(ParameterError, match="a row's own tokens"):
            search(model, **options)
    with pytest.raises(ParameterError, match="behind an EntmaxLogitsProcessor"):
        search(model, logits_processor=[EntmaxLogitsProcessor(), Shift()])
    for options in ({"alpha": 1.5}, {"mapping": ts.softmax}):
        with pytest.raises(ParameterError, match="one of them"):
            search(model, logits_processor=[EntmaxLogitsProcessor()], **options)
    with pytest.raises(ParameterError, match="one of them"):
        search(model, alpha=1.5, mapping=ts.softmax)
    # Entmax does not change when scores are shifted, but nobody knows that of a processor.
    with pytest.warns(UserWarning, match="generate has Shift, which"):
        found = search(model, logits_processor=[Shift()])
    assert [c.status for c in found.certificates] == [Status.UNKNOWN] * 3
    assert torch.equal(found.sequences, search(model).sequences)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "arguments for beam sample"),
        ({"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(60.0)])}, "MaxTimeCriteria"),
        ({"output_scores": True}, "output_scores"),
        ({"output_attentions": True}, "output_attentions"),
        ({"cache_implementation": "static"}, "fixed size"),
        ({"alpha": -1.0}, "alpha"),
        ({"beam": 0}, "beam"),
        ({"eos_token_id": None}, "no eos_token_id"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_what_a_search_cannot_heed_is_refused(options: dict[str, Any], message: str) -> None:
    model = gpt2()
    if "eos_token_id" in options:
        model.generation_config.eos_token_id = None
    with pytest.raises(ParameterError, match=message):
        search(model, **options)


def test_training_and_nan_are_refused() -> None:
    model = gpt2()
    model.train()
    with pytest.raises(ParameterError, match="in training"):
        search(model)
    model.eval()
    model.lm_head.bias.data[3] = math.nan
    with pytest.raises(NumericalError, match="no NaN"):
        search(model)


def test_half_precision() -> None:
    model = gpt2().to(torch.bfloat16)
    found = search(model, endings="all")
    assert all(c.mass <= 1 + 1e-4 for c in found.certificates)
    assert all(found.hypotheses)
