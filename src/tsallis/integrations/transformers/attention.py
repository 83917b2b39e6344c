"""Attention as Hugging Face's models call it, and the masks that belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from ...attention import entmax_attention
from ...attention.formula import allowed, average, probabilities
from ...attention.inputs import checked
from ...core.dropping import dropped
from ...core.errors import ParameterError, RegistryError
from ...nn import Alpha
from .alphas import NAME, alpha_of, restore
from .cache import paged_attention

# What models pass that changes the distribution, and that is not computed here.
_FOREIGN = ("softcap", "s_aux", "sinks", "cache", "indices", "block_indices")
# Of a mask that is the causal one and nothing else.
_CAUSAL = "tsallis_causal"


class Seen(NamedTuple):
    """What one call of attention did: the module, its weights (B, H, Nq, Nk), and which keys queries may attend to,
    broadcastable to them; None for all.
    """

    module: nn.Module
    weights: Tensor
    kept: Tensor | None


_SEEN: ContextVar[list[Seen] | None] = ContextVar("seen", default=None)


@contextmanager
def seen_weights() -> Iterator[list[Seen]]:
    """Within it, each call of attention in a sparsified model appends what it did, in order; all weights are held.

    Example:
        >>> with seen_weights() as seen:  # doctest: +SKIP
        ...     model(**batch)
        >>> statistics.update(seen[0].weights, seen[0].kept)  # doctest: +SKIP
    """
    seen: list[Seen] = []
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """(B, Nq, H, d) and, if the model's caller asked for attentions, weights (B, H, Nq, Nk).

    Args:
        module: an attention module that `sparsify` gave an alpha.
        query: (B, H, Nq, d).
        key, value: (B, H or a divisor, Nk, d).
        attention_mask: boolean (True = take part) or added to scores; None where all keys take part.
        scaling: of scores.
        dropout: of weights.
        position_bias: added to scores.
        others: what else models pass. Their `is_causal` is not read: as in eager attention, the mask says it all.
    """
    if AttentionMaskInterface._global_mapping.get(NAME) is not mask:
        raise RegistryError(
            f"attention {NAME!r} without its masks", "both", "Call tsallis.integrations.transformers.register()"
        )
    for name in _FOREIGN:
        if others.get(name) is not None:
            raise ParameterError(
                f"{type(module).__name__} with {name}", "scores from queries, keys, a mask and a bias", "Use softmax"
            )
    alpha, (n, m) = alpha_of(module), (query.shape[2], key.shape[2])
    causal = False
    if attention_mask is not None:
        causal = getattr(attention_mask, _CAUSAL, False) and attention_mask.shape[-2:] == (n, m)
        attention_mask = attention_mask[..., :m]
    if position_bias is not None:
        attention_mask, causal = _biased(position_bias[..., :m], attention_mask), False
    if causal:
        # Known without reading the mask, whose half is not computed then.
        attention_mask, causal = None, n > 1
    if len(query) != len(key):
        # Learned queries that all sequences share.
        query = query.expand(len(key), *query.shape[1:])
    grouped = query.shape[1] != key.shape[1]
    weights = None
    seen = None if torch.compiler.is_compiling() else _SEEN.get()
    shown = bool(others.get("output_attentions")) or seen is not None
    if position_bias is None and not causal and not shown:
        paged = paged_attention(module, query, key, attention_mask, scaling, alpha)
        if paged is not None:
            return paged, None
    if shown:
        with torch.autocast(query.device.type, enabled=False):
            heads = checked(
                query, key, value, attention_mask, dropout, causal, scaling, grouped, alpha, None, None
            ).widened()
            p = probabilities(heads, None)
            out = average(dropped(p, dropout), heads).to(query.dtype)
            if seen is not None:
                seen.append(Seen(module, p.detach(), allowed(heads)))
            weights = p.to(query.dtype) if others.get("output_attentions") else None
    else:
        out = entmax_attention(
            query, key, value, attention_mask, dropout, causal, scale=scaling, enable_gqa=grouped, alpha=alpha
        )
    return out.transpose(1, 2).contiguous(), weights


def _biased(bias: Tensor, given: Tensor | None) -> Tensor:
    """What is added to scores."""
    if given is None:
        return bias
    if given.dtype == torch.bool:
        return torch.where(given, bias, -torch.inf)
    return bias + torch.where(given <= torch.finfo(given.dtype).min, -torch.inf, given)


def mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Which keys take part: boolean (B, 1, Nq, Nk), None where all do.

    Other implementations leave a causal mask out and read `is_causal` of the module, which some models set otherwise
    than they make their masks.
    """
    given = sdpa_mask(*args, **kwargs)
    if given is None and kwargs.get("allow_is_causal_skip", True):
        given = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
        if given is not None and not torch.compiler.is_compiling():
            setattr(given, _CAUSAL, True)
    return given


def register() -> None:
    """Make `"tsallis"` an attention implementation of transformers: the attention, the masks that belong to it, and
    alphas that are restored where a saved model is loaded. `sparsify` does it; call it before `from_pretrained`.

    Example:
        >>> from tsallis.integrations.transformers import register  # doctest: +SKIP
        >>> register()  # doctest: +SKIP
    """
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)
    if not hasattr(PreTrainedModel.post_init, "restores_alphas"):
        _restore_when_built()


def _restore_when_built() -> None:
    # There is no hook between a model's construction and the loading of its weights but this method, which every model
    # calls at the end of its construction; nor one for weights that a checkpoint lacks but the other.
    built, initialized = PreTrainedModel.post_init, PreTrainedModel._initialize_weights

    def post_init(self: PreTrainedModel) -> None:
        restore(self)
        built(self)

    def initialize(self: PreTrainedModel, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        if isinstance(module, Alpha) and not any(
            getattr(x, "_is_hf_initialized", False) for x in (module, module.theta)
        ):
            module.reset_parameters()
        initialized(self, module, *args, **kwargs)

    post_init.restores_alphas = True  # pyright: ignore[reportFunctionMemberAccess]
    PreTrainedModel.post_init, PreTrainedModel._initialize_weights = post_init, initialize
