"""What a model of transformers remembers of prefixes, as a state whose rows a search can choose."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache
from transformers.utils.generic import ModelOutput

from ...core.errors import ParameterError

# Layers whose tensors are replaced, never written to: a copy may share them.
PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)
# Where batches are the second dimension if there are three.
POSITIONS = ("position_ids", "decoder_position_ids")


@dataclass(frozen=True)
class Rows:
    """Prefixes and what belongs to them.

    Attributes:
        tokens: (R, n), prompts and what follows; to start with, prompts alone.
        example: (R,) which example each belongs to.
        inputs: of the model: caches, masks, positions, what an encoder gave.
        prompt: how many tokens of each are its prompt.
    """

    tokens: Tensor
    example: Tensor
    inputs: dict[str, Any]
    prompt: int
    started: bool = False

    def select(self, rows: Tensor) -> Rows:
        """Prefixes at these places, which may repeat; nothing is shared that a model would write to."""
        count = len(self.tokens)
        inputs = {name: chosen(value, rows, count, name) for name, value in self.inputs.items()}
        return replace(self, tokens=self.tokens[rows], example=self.example[rows], inputs=inputs)

    def join(self, others: Sequence[Rows]) -> Rows:
        """These prefixes and those of others, which are of the same length."""
        parts = [self, *others]
        counts = [len(part.tokens) for part in parts]
        inputs = {
            name: joined([part.inputs[name] for part in parts], counts, name) for name in self.inputs
        }  # fmt: skip
        tokens, example = torch.cat([p.tokens for p in parts]), torch.cat([p.example for p in parts])
        return replace(self, tokens=tokens, example=example, inputs=inputs)


def _batch(value: Tensor, name: str) -> int:
    return 1 if name in POSITIONS and value.dim() == 3 else 0


def chosen(value: Any, rows: Tensor, count: int, name: str = "") -> Any:
    """Rows of something that a model is given, which has that many; what has none stays what it is."""
    if isinstance(value, Tensor):
        dim = _batch(value, name)
        own = value.dim() > dim and value.shape[dim] == count
        return value.index_select(dim, rows.to(value.device)) if own else value
    if isinstance(value, Cache):
        return chosen_cache(value, rows)
    if isinstance(value, Mapping):
        made = {key: chosen(item, rows, count) for key, item in value.items()}
        return type(value)(**made) if isinstance(value, ModelOutput) else made
    if isinstance(value, list | tuple):
        return type(value)(chosen(item, rows, count) for item in value)
    return value


def chosen_cache(cache: Cache, rows: Tensor) -> Cache:
    """A cache of these rows; the old one stays as it is."""
    if isinstance(cache, EncoderDecoderCache):
        made = copy.copy(cache)
        made.self_attention_cache = chosen_cache(cache.self_attention_cache, rows)
        made.cross_attention_cache = chosen_cache(cache.cross_attention_cache, rows)
        made.is_updated = dict(cache.is_updated)
        return made
    if all(type(layer) in PLAIN for layer in cache.layers):
        made = copy.copy(cache)
        made.layers = [copy.copy(layer) for layer in cache.layers]
    else:
        made = copy.deepcopy(cache)
    made.reorder_cache(rows)  # pyright: ignore[reportArgumentType]
    return made


def joined(values: list[Any], counts: list[int], name: str = "") -> Any:
    """What models are given for several sets of rows, as one."""
    first = values[0]
    if isinstance(first, Tensor):
        dim = _batch(first, name)
        own = all(v.dim() > dim and v.shape[dim] == n for v, n in zip(values, counts, strict=True))
        return torch.cat(values, dim) if own else first
    if isinstance(first, Cache):
        return joined_caches(values)
    if isinstance(first, Mapping):
        made = {key: joined([value[key] for value in values], counts) for key in first}
        return type(first)(**made) if isinstance(first, ModelOutput) else made
    if isinstance(first, list | tuple):
        return type(first)(joined(list(items), counts) for items in zip(*values, strict=True))
    return first


def joined_caches(caches: list[Any]) -> Any:
    """One cache with the rows of several that hold as many tokens."""
    made = copy.copy(caches[0])
    if isinstance(made, EncoderDecoderCache):
        made.self_attention_cache = joined_caches([cache.self_attention_cache for cache in caches])
        made.cross_attention_cache = joined_caches([cache.cross_attention_cache for cache in caches])
        made.is_updated = dict(made.is_updated)
        return made
    made.layers = []
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        if type(layers[0]) not in PLAIN:
            raise ParameterError(
                f"a cache with a {type(layers[0]).__name__}", "layers of a DynamicCache, which can be joined",
                "Pass cached=False, or leave exact out",
            )  # fmt: skip
        layer = copy.copy(layers[0])
        # Models that share keys between layers leave some empty.
        if layer.keys is not None and layer.keys.numel():
            layer.keys = torch.cat([one.keys for one in layers])
            layer.values = torch.cat([one.values for one in layers])
        made.layers.append(layer)
    return made
