"""`entmax` as the last step of `generate`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ...core.errors import ParameterError
from ...core.inputs import constant_alpha
from ...decoding import log_entmax

# What else than entmax may choose among tokens, and the values at which each does nothing. Processors of some are added
# by `generate` behind those that a caller passes.
NEUTRAL: dict[str, Any] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "watermarking_config": None, "renormalize_logits": False,
}  # fmt: skip
# Those of them that `generate` heeds where it does not sample, too.
ALWAYS = ("watermarking_config", "renormalize_logits")
# What changes scores before entmax sees them, and the values at which each does nothing. Where a caller asks for such a
# thing, entmax is of what it leaves; where only a configuration does, written for softmax, it is not wanted. Not here:
# forced and suppressed tokens, which say how texts of a model begin and end.
BEFORE: dict[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "exponential_decay_length_penalty": None, "min_length": 0,
    "min_new_tokens": None, "bad_words_ids": None, "sequence_bias": None, "guidance_scale": None,
}  # fmt: skip
# Searches that choose by something else than probability. A configuration with these has `generate` raise.
OTHER_SEARCHES: dict[str, Any] = {
    "num_beam_groups": 1, "diversity_penalty": 0.0, "penalty_alpha": None, "dola_layers": None, "constraints": None,
    "force_words_ids": None,
}  # fmt: skip
# A beam search of `generate` that ranks by probability, and stops where no prefix can exceed what it found.
BY_PROBABILITY: dict[str, Any] = {"length_penalty": 0.0, "early_stopping": "never"}


class EntmaxLogitsProcessor(LogitsProcessor):
    r"""Turns scores into logarithms of their `entmax`, -inf where it is zero, for `model.generate`.

    What `generate` then draws, or adds up in a beam, are the probabilities of $\operatorname{entmax}_\alpha(z)$: their
    logarithms have themselves as log-softmax, and beam search, which passes log-probabilities instead of scores, gets
    the same since entmax does not change when scores are shifted.

    When sampling, `generate` adds a processor for top_k = 50 behind it unless told otherwise, which cuts larger
    supports; its beam search divides by length. `generation_options` gives the arguments with which neither happens.

    Args:
        alpha: the one that the model was trained with.

    Raises:
        ParameterError: an alpha that is no number in [0, inf).

    Example:
        >>> import torch
        >>> from tsallis.integrations.transformers import EntmaxLogitsProcessor
        >>> EntmaxLogitsProcessor(2.0)(torch.tensor([[0]]), torch.tensor([[1.0, 0.5, -1.0]])).exp()
        tensor([[0.7500, 0.2500, 0.0000]])

    References:
        martins2020sparse
    """

    def __init__(self, alpha: float | Tensor = 1.5) -> None:
        self.alpha = constant_alpha(alpha)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return log_entmax(scores, self.alpha, scores.dtype)

    def __repr__(self) -> str:
        return f"EntmaxLogitsProcessor(alpha={self.alpha})"


def generation_options(alpha: float | Tensor = 1.5, **options: Any) -> dict[str, Any]:
    """Arguments for `model.generate` with which tokens are chosen by entmax and by nothing else, whatever a model's
    generation configuration says.

    The number of beams is among them, 1 unless given, and what would change scores before entmax is set to do nothing:
    repetition_penalty, no_repeat_ngram_size, min_length and the like. Given as options, those are kept, and
    entmax is of the scores that they leave. Of a model's configuration stay its lengths, do_sample where that is not
    given, and tokens that it forces (forced_bos_token_id, forced_eos_token_id) or suppresses.

    Args:
        alpha: of entmax.
        options: others of `generate`, do_sample or num_beams for example.

    Returns:
        the options, an `EntmaxLogitsProcessor` behind their own processors, and what keeps `generate` from cutting or
        rescaling the distribution: top_k = 0 among them, and length_penalty = 0 where it searches with beams.

    Raises:
        ParameterError: an option that would change what entmax gave or choose by something else, as top_k or
            num_beam_groups; a generation_config, which could hide such.

    Example:
        >>> from tsallis.integrations.transformers import generation_options
        >>> generation_options(1.5, do_sample=True)["top_k"]
        0
        >>> model.generate(**inputs, **generation_options(1.5, do_sample=True))  # doctest: +SKIP
    """
    # Without do_sample a model's own configuration decides; with False `generate` complains of what concerns draws.
    fixed = {name: NEUTRAL[name] for name in (NEUTRAL if options.get("do_sample") is not False else ALWAYS)}
    beams = options.get("num_beams") or 1
    fixed |= BY_PROBABILITY if beams > 1 else {}
    if options.get("generation_config") is not None:
        raise ParameterError(
            "generation_config", "options by their names: what it says might change what entmax gives",
            "Pass those of its values that are wanted, max_new_tokens=40 for example",
        )  # fmt: skip
    for name, neutral in (fixed | OTHER_SEARCHES).items():
        if options.get(name, neutral) not in (neutral, None):
            raise ParameterError(
                f"{name}={options[name]!r}", f"{neutral!r}, as anything else changes what entmax gives",
                f"Leave it out, or pass EntmaxLogitsProcessor to generate yourself to have entmax and {name}",
            )  # fmt: skip
    processors = LogitsProcessorList(options.get("logits_processor") or [])
    if any(isinstance(p, EntmaxLogitsProcessor) for p in processors):
        raise ParameterError("logits_processor with an entmax", "others only", "Leave it out: this adds one")
    processors.append(EntmaxLogitsProcessor(alpha))
    return BEFORE | options | fixed | {"num_beams": beams, "logits_processor": processors}
