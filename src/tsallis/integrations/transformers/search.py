"""Searches of `tsallis.decoding` as ways to generate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.utils.generic import ModelOutput

from ...core.errors import ParameterError
from ...decoding import Certificate, Decoded, Hypothesis, beam_search, exact_search
from ...decoding.beam import Endings
from ...decoding.certificates import voided
from ...decoding.exact import Order
from .rows import Rows
from .search_inputs import scorer, start_of
from .search_step import ModelStep


@dataclass
class CertifiedOutput(ModelOutput):
    """What `certified_search` gives `generate` to return with return_dict_in_generate=True.

    Attributes:
        sequences: (B * num_return_sequences, n) prompts and what was found, the best first, then padding. Where fewer
            were found than num_return_sequences, rows that hold a prompt only.
        sequences_scores: (B * num_return_sequences) log-probabilities, or what was ranked by where length_penalty is
            not 0; -inf in rows without a sequence.
        probabilities: (B * num_return_sequences) of the sequences.
        certificates: what is proved of each example.
        hypotheses: all that was found for each example, the best first; tokens without the prompt.
        rows: prefixes that the model was run on.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    probabilities: Tensor | None = None
    certificates: list[Certificate] | None = None
    hypotheses: list[list[Hypothesis]] | None = None
    rows: int | None = None


@torch.no_grad()
def certified_search(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    alpha: float | Tensor | None = None,
    mapping: Callable[[Tensor], Tensor] | None = None,
    beam: int | None = None,
    n_best: int | None = None,
    endings: Endings = "beam",
    max_rows: int | None = None,
    length_penalty: float | None = None,
    exact: Order | None = None,
    max_prefixes: int | None = 10_000,
    cached: bool = True,
    certify_processed: bool = False,
    **model_kwargs: Any,
) -> CertifiedOutput | Tensor:
    r"""Search the most probable sequences and say what is proved: for `model.generate(custom_generate=...)`.

    Seeks $\operatorname{argmax}_y \sum_t \log \operatorname{entmax}_\alpha(z_t)_{y_t}$ by `ts.decoding.beam_search`
    over the continuations y of each prompt that end with an end-of-sequence token within max_new_tokens. `generate`
    passes the first arguments, and those after them are its keywords. Models with or without an encoder, prompts padded
    at their beginning.

    Several end-of-sequence tokens are one end, with the sum of their probabilities; the most probable of them is
    written. Keys and values are cached whatever the model's configuration says of use_cache.

    Args:
        model, input_ids, logits_processor, stopping_criteria, generation_config: what `generate` passes.
        alpha: of entmax; 1.5 where neither mapping nor an `EntmaxLogitsProcessor` says otherwise.
        mapping: from scores, in float64, to probabilities in the place of entmax, `ts.normmax` for example. Its zeros
            are taken for proofs: for softmax, whose zeros are none, pass alpha=1.
        beam: prefixes kept of each length; None for num_beams.
        n_best: as in `ts.decoding.beam_search`; num_return_sequences says how many are in `sequences`.
        endings: as in `ts.decoding.beam_search`.
        max_rows: as there; smaller batches take less memory.
        length_penalty: as in `ts.decoding.beam_search`: not 0 proves nothing. The default of `generate` is not read.
        exact: "best" or "depth" to go on with `ts.decoding.exact_search`, in that order, from what the beam found.
        max_prefixes: of the exact search.
        cached: False runs the model on whole prefixes: slow, for models whose cache has no rows.
        certify_processed: certificates speak of the model without logits processors, and are UNKNOWN where `generate`
            has any, with a warning that names them. True makes them speak of the model with its processors, which must
            then depend on nothing but the tokens and scores of a row. A model's configuration may bring some: that of
            BART has forced_eos_token_id, with which every prefix ends at the greatest length and no mass is left open.
        model_kwargs: what the model is given.

    Returns:
        sequences (B * num_return_sequences, n), or with return_dict_in_generate=True a `CertifiedOutput`.

    Raises:
        ParameterError: something that a search cannot heed: sampling, stopping criteria, scores to return, a static or
            filled cache, processors that know examples by their place; a model in training.
        NumericalError: scores that are NaN, or all -inf.

    Differentiability:
        None: runs without gradients.

    Complexity:
        as in `ts.decoding.beam_search`, one token of the model a step.

    Example:
        >>> from tsallis.integrations.transformers import certified_search
        >>> found = model.generate(  # doctest: +SKIP
        ...     **inputs, custom_generate=certified_search, alpha=1.5, num_beams=8, return_dict_in_generate=True
        ... )
        >>> [str(c) for c in found.certificates]  # doctest: +SKIP
        ['ENUMERATED', 'ARGMAX_EXACT']

    References:
        peters2019sparse, stahlberg2019nmt
    """
    wanted = generation_config.num_return_sequences or 1
    width = generation_config.num_beams if beam is None else beam
    penalty = _penalty(length_penalty, generation_config)
    score, processed = scorer(model, logits_processor, alpha, mapping)
    start, ends = start_of(model, input_ids, stopping_criteria, generation_config, model_kwargs, cached=cached)
    step = ModelStep(model, score, logits_processor, ends)
    max_length = generation_config.max_length - input_ids.shape[1]
    first = torch.zeros(len(start.tokens), dtype=torch.long, device=input_ids.device)
    # A search may write to what it starts from.
    everyone = torch.arange(len(start.tokens), device=input_ids.device)
    found = beam_search(
        step, first, start.select(everyone), eos=ends[0], beam=width, max_length=max_length, n_best=n_best,
        endings=endings, length_penalty=penalty, max_rows=max_rows,
    )  # fmt: skip
    if exact is not None:
        if penalty:
            raise ParameterError(
                f"exact with length_penalty={penalty}", "length_penalty=0", "Leave one of the two out"
            )  # fmt: skip
        further = exact_search(
            step, first, start, eos=ends[0], max_length=max_length, found=found, order=exact,
            batch=max_rows or 64, max_prefixes=max_prefixes,
        )  # fmt: skip
        found = replace(further, rows=found.rows + further.rows)
    certificates = found.certificates
    if processed and not certify_processed:
        warnings.warn(
            f"Nothing is certified of the model: generate has {', '.join(processed)}, which change its distribution. "
            "Set the options that they come from to None, also those of model.generation_config, as "
            "forced_eos_token_id=None; or pass certify_processed=True for certificates of the model with them.",
            stacklevel=2,
        )
        certificates = [voided(certificate) for certificate in certificates]
    hypotheses = [
        [replace(h, tokens=step.ended(example, h.tokens)) for h in each]
        for example, each in enumerate(found.hypotheses)
    ]
    made = _output(replace(found, hypotheses=hypotheses, certificates=certificates), start, wanted, generation_config)
    if generation_config.return_dict_in_generate:
        return made
    assert made.sequences is not None
    if not all(hypotheses):
        warnings.warn(
            f"For {sum(not each for each in hypotheses)} of {len(hypotheses)} examples the search found no sequence "
            f"that ends within {max_length} tokens: their rows are the prompt alone. Raise max_new_tokens or num_beams,"
            " or pass endings='all'.",
            stacklevel=2,
        )
    return made.sequences


def _penalty(given: float | None, config: GenerationConfig) -> float:
    """The length penalty; transformers' default of 1 cannot be told from a choice, and is none."""
    if given is not None:
        return given
    if config.length_penalty not in (None, 0.0, 1.0):
        raise ParameterError(
            f"length_penalty={config.length_penalty} in the generation configuration",
            "0, for nothing is proved of a ranking that is not by probability",
            f"Pass length_penalty=0.0 to generate, or length_penalty={config.length_penalty} to rank by it anyhow",
        )  # fmt: skip
    return 0.0


def _output(found: Decoded, start: Rows, wanted: int, config: GenerationConfig) -> CertifiedOutput:
    prompts, pad = start.tokens, config._pad_token_tensor
    assert pad is not None
    shown: list[Hypothesis | None] = []
    for each in found.hypotheses:
        shown += (each + [None] * wanted)[:wanted]
    longest = max((len(h.tokens) for h in shown if h is not None), default=0)
    rows = prompts.repeat_interleave(wanted, 0)
    tail = torch.full((len(rows), longest), int(pad), dtype=rows.dtype, device=rows.device)
    for row, hypothesis in enumerate(shown):
        if hypothesis is not None:
            tail[row, : len(hypothesis.tokens)] = torch.tensor(hypothesis.tokens)
    numbers = [(-math.inf, -math.inf) if h is None else (h.score, h.log_prob) for h in shown]
    scores, log_probs = torch.tensor(numbers, dtype=torch.float64, device=rows.device).reshape(-1, 2).unbind(1)
    return CertifiedOutput(
        sequences=torch.cat([rows, tail], 1), sequences_scores=scores, probabilities=log_probs.exp(),
        certificates=found.certificates, hypotheses=found.hypotheses, rows=found.rows,
    )  # fmt: skip
