"""What `generate` passes to a search, checked: what a search cannot heed is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.cache_utils import Cache
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from ...core.errors import ParameterError
from ...core.inputs import constant_alpha
from ...decoding import log_entmax
from .generation import EntmaxLogitsProcessor
from .rows import Rows, chosen
from .search_step import CACHES

Score = Callable[[Tensor], Tensor]
# They know examples by the row they are in, or keep a state of their own.
PLACED = (
    PrefixConstrainedLogitsProcessor, EncoderRepetitionPenaltyLogitsProcessor, EncoderNoRepeatNGramLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)  # fmt: skip
_RETURNED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def scorer(
    model: PreTrainedModel,
    processors: LogitsProcessorList,
    alpha: float | Tensor | None,
    mapping: Callable[[Tensor], Tensor] | None,
) -> tuple[Score, list[str]]:
    """From processed scores to log-probabilities; and the names of what else changes the model's distribution."""
    if model.training:
        raise ParameterError(
            f"a {type(model).__name__} in training", "one in evaluation: dropout makes other scores each time",
            "Call model.eval()",
        )  # fmt: skip
    for processor in processors:
        placed = isinstance(processor, RepetitionPenaltyLogitsProcessor) and isinstance(
            processor.prompt_ignore_length, Tensor
        )
        if isinstance(processor, PLACED) or placed:
            raise ParameterError(
                f"a {type(processor).__name__}", "processors of a row's own tokens and scores, in whatever row it is",
                "Leave it out: in a search, examples have any number of rows",
            )  # fmt: skip
    own = [i for i, p in enumerate(processors) if isinstance(p, EntmaxLogitsProcessor)]
    if own:
        if own != [len(processors) - 1]:
            raise ParameterError(
                "processors behind an EntmaxLogitsProcessor", "one, at the end", "Put it behind the others"
            )
        if alpha is not None or mapping is not None:
            raise ParameterError(
                "alpha or mapping, and an EntmaxLogitsProcessor", "one of them", "Leave the processor out"
            )
        return _same, [type(p).__name__ for p in processors[:-1]]
    others = [type(p).__name__ for p in processors]
    if mapping is not None:
        if alpha is not None:
            raise ParameterError("alpha and mapping", "one of them", "Leave alpha out")
        return partial(_log_of, mapping), others
    return partial(log_entmax, alpha=constant_alpha(1.5 if alpha is None else alpha)), others


def _same(log_probs: Tensor) -> Tensor:
    return log_probs


def _log_of(mapping: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    # A probability too small for a number would be a zero, and zeros are taken for proofs.
    return mapping(scores.double()).log()


def start_of(
    model: PreTrainedModel,
    input_ids: Tensor,
    criteria: StoppingCriteriaList,
    config: GenerationConfig,
    inputs: dict[str, Any],
    *,
    cached: bool,
) -> tuple[Rows, list[int]]:
    """Prompts with what belongs to them, one row an example, and the tokens that end a sequence."""
    _check(config, criteria, inputs)
    ends: list[int] = [] if config._eos_token_tensor is None else config._eos_token_tensor.flatten().tolist()
    if not ends:
        raise ParameterError("no eos_token_id", "a token that ends sequences", "Pass eos_token_id to generate")
    inputs = {name: value for name, value in inputs.items() if name not in CACHES or cached}
    # `generate` has made as many rows of each example as it has beams or results.
    copies = max(config.num_beams or 1, config.num_return_sequences or 1)
    first = torch.arange(0, len(input_ids), copies, device=input_ids.device)
    inputs = {name: _first(value, name, first, len(input_ids)) for name, value in inputs.items()}
    inputs["use_cache"] = cached
    tokens = input_ids[first]
    example = torch.arange(len(first), device=input_ids.device)
    return Rows(tokens, example, inputs, input_ids.shape[1]), list(dict.fromkeys(ends))


def _first(value: Any, name: str, first: Tensor, count: int) -> Any:
    if name == "position_ids" and isinstance(value, Tensor):
        # One row may stand for all, and there may be one for each beam.
        dim = 1 if value.dim() == 3 else 0
        if value.shape[dim] != count:
            shape = list(value.shape)
            shape[dim] = len(first)
            return value.narrow(dim, 0, 1).expand(shape)
    return value if isinstance(value, Cache) else chosen(value, first, count, name)


def _check(config: GenerationConfig, criteria: StoppingCriteriaList, inputs: dict[str, Any]) -> None:
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.BEAM_SEARCH):
        raise ParameterError(
            f"arguments for {mode.value.replace('_', ' ')}", "those of a beam search",
            "Pass do_sample=False; to draw from entmax, leave custom_generate out and see generation_options",
        )  # fmt: skip
    for criterion in criteria:
        if not isinstance(criterion, MaxLengthCriteria | EosTokenCriteria):
            raise ParameterError(
                f"a {type(criterion).__name__}", "a greatest length and ends of sequences: a search stops at its proof",
                "Leave it out",
            )  # fmt: skip
    for name in _RETURNED:
        if getattr(config, name, False):
            raise ParameterError(
                f"{name}=True", "sequences with their probabilities", f"Leave {name} out, and run the model on them"
            )  # fmt: skip
    for name in CACHES:
        cache = inputs.get(name)
        if isinstance(cache, Cache) and cache.is_compileable:
            raise ParameterError(
                f"a {type(cache).__name__} of fixed size", "one whose rows can be chosen, as a DynamicCache",
                "Leave cache_implementation out",
            )  # fmt: skip
        if isinstance(cache, Cache) and cache.get_seq_length():
            raise ParameterError(
                f"{name} with {cache.get_seq_length()} tokens", "an empty cache", "Pass the whole prompt without it"
            )  # fmt: skip
