"""Tiny models of any type that transformers has, with weights that make attention peaked."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Tokens of texts are drawn between, so that none is special.
FIRST, LAST, VOCABULARY = 8, 80, 99
_TOKENS = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 1, "image": 90, "video": 91, "audio": 92}
_HEADS = r"(\w*_)?(n|num)?_?(attention_|query_)?heads?"
# The first pattern that a field's whole name matches says what becomes of an integer: a number it is lowered to, or
# None where it stays.
_SIZES: list[tuple[str, int | None]] = [
    (r"chunk_size_feed_forward|type_vocab_size|pretraining_tp|\w*_(interval|frequency|step|factor|ratio)", None),
    (r"\w*codebook_size", 64),
    (r"\w*vocab_size\w*|num_embeddings|num_embeds_ada_norm", VOCABULARY),
    (r"sliding_window(_size)?|attention_window|local_window_size|attention_chunk_size", 4),
    (r"\w*(mrope|rope_scaling)\w*", None),
    (r"first_k_dense_replace|num_dense_layers|\w*group|num_kv_shared_layers", 1),
    (r"\w*experts_(per_tok\w*|\w*top_?k\w*)|moe_k|moe_topk", 2),
    (r"\w*shared_experts?", 1),
    (r"\w*experts?", 4),
    (r"index_topk", 8),
    (r"mamba_(n|num)_heads", 8),
    (r"linear_num_key_heads", 2),
    (_HEADS, 4),
    (r"num_conv_pos_embedding_groups", 4),
    (r"num_conv_pos_embeddings", 5),
    (r"num_codevectors_per_group", 8),
    (r"codevector_dim|proj_codevector_dim", 16),
    (r"\w*head_(dim|size)|d_kv|d_head|mamba_d_head|attention_head_dim|dim_head|\w*_dim_head", 8),
    (r"\w*lora_rank|mamba_d_state|\w*state_size", 16),
    (r"moe_intermediate_size|moe_ffn_hidden_size", 32),
    (r"\w*(intermediate|ffn|inner|mlp)_?(hidden)?_?(size|dim)\w*|d_ff|d_inner|n_inner|ffn_\w*", 64),
    (r"max_source_positions", 20),
    (r"\w*max\w*position\w*|n_positions|n_ctx|context_length|max_seq_len|seq_length|seq_len", 512),
    (r"\w*image_size|input_size|img_size", 32),
    (r"\w*patch_size|patch_length", 8),
    (r"image_seq_length|mm_tokens_per_image|image_token_len\w*", 16),
    (r"depth|\w*_depth|(num_|n_)?(\w*_)?(hidden_)?(layers?|blocks?)|layers_block_type", 2),
    (r"num_quer(y|ies)(_tokens)?|num_latents|\w*n_latents|query_length", 8),
    (r"relative_attention_num_buckets|num_buckets", 8),
    (r"upsample_groups|output_channels", 32),
    (r"conv_dim|num_frames|\w*kernel_size|window_size|\w*stride|\w*channels", None),
    (r"(\w*_)?(hidden_size|d_model|n_embd|embed_dim|embedding_size|embedding_dim|emb_dim|hidden_dim|dim|projection_dim)"
     r"\w*|projection_size|width|hidden_channels|d_embed", 32),
]  # fmt: skip
# Fields whose default is no number, where some models need one.
_ABSENT: dict[str, Any] = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "sliding_window": 4, "shared_expert_intermediate_size": 32, "attn_layer_indices": [1], "n_window": 8,
    "n_window_infer": 8, "num_key_value_heads": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
    "vocab_size": VOCABULARY, "head_dim": 8,
}  # fmt: skip
_GIVEN: dict[str, Any] = {"attn_layer_period": 2, "attn_layer_offset": 1}
# A backbone gives several maps of features; four layers are enough for all that ask for some.
_BACKBONE: dict[str, Any] = {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}
# What holds of one class only.
_SPECIAL: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "informer": {"prediction_length": 4, "context_length": 8},
    "autoformer": {"prediction_length": 4, "context_length": 8},
    "time_series_transformer": {"prediction_length": 4, "context_length": 8},
    "chameleon": {"vocabulary_map": {"<image>": 90}},
    "emu3": {"vocabulary_map": {"<image>": 90}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 95},
    "xmod": {"default_language": "en_XX"},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "musicgen_decoder": {"num_codebooks": 1},
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "mamba2": {"num_heads": 8},
    "glm5_next_text": {"index_topk": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 32},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "esmfold2": {"head_dim": 64},
}
_LISTS: list[tuple[str, str]] = [
    (r"depths|num_block_repeats|layers|\w*num_layers", "two"),
    (r"\w*heads?", "ratio"),
    (r"\w*(hidden_size|dim|embed)\w*", "eight"),
    (r"\w*(image_size|input_size)", "image"),
]


def tiny_config(
    kind: type[PreTrainedConfig], wide: int = 1, sections: tuple[int, ...] | None = None, filled: bool = False
) -> PreTrainedConfig:
    """A configuration of that class with small sizes.

    Args:
        kind: the class.
        wide: what sizes of hidden states and heads are multiplied with.
        sections: of rotary positions in time, height and width, for models that have such.
        filled: whether fields without a default get one.
    """
    return kind(**_fields(kind, (wide, sections, filled), {}))


Variant = tuple[int, tuple[int, ...] | None, bool]


def _parts(kind: type[PreTrainedConfig]) -> dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]]:
    """Configurations that it is made of, and what they are started with."""
    found = {}
    for key, spec in kind.sub_configs_defaults.items():
        part = spec.config_class
        if part is AutoConfig or not issubclass(part, PreTrainedConfig):
            part = CONFIG_MAPPING[spec.model_type]
        found[key] = part, spec.init_kwargs
    return found


def has_sections(kind: type[PreTrainedConfig]) -> bool:
    """Whether its rotary positions, or those of a part, have sections."""
    return "mrope_section" in source(kind) or any(has_sections(part) for part, _ in _parts(kind).values())


def _fields(kind: type[PreTrainedConfig], variant: Variant, given: dict[str, Any]) -> dict[str, Any]:
    wide, sections, filled = variant
    chosen: dict[str, Any] = {}
    for key, (part, start) in _parts(kind).items():
        start = {k: v for k, v in start.items() if not isinstance(v, int) or isinstance(v, bool)}
        if key == "backbone_config" and "num_hidden_layers" in _defaults(part):
            start.pop("out_features", None)
            start |= _BACKBONE
        chosen[key] = part(**_fields(part, variant, start))
    defaults = _defaults(kind)
    heads = max((v for k, v in defaults.items() if re.fullmatch(_HEADS, k) and isinstance(v, int)), default=1)
    for name, value in defaults.items():
        small = _GIVEN[name] if name in _GIVEN else _small(name, value, wide, heads)
        if value is None and filled:
            small = _ABSENT.get(name)
        if name not in chosen and small != value:
            chosen[name] = small
    if sections and "rope_parameters" in defaults and "mrope_section" in source(kind):
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
        chosen["rope_parameters"] = rope | (defaults["rope_parameters"] or {})
    kinds = _layer_types(kind)
    if kinds:
        chosen["layer_types"] = kinds
        chosen.update({name: len(kinds) for name in ("num_hidden_layers",) if name in defaults})
    return chosen | _SPECIAL.get(kind.model_type, {}) | given


@cache
def source(kind: type[PreTrainedConfig]) -> str:
    """The source of models with that configuration."""
    try:
        return inspect.getsource(importlib.import_module(kind.__module__.replace(".configuration_", ".modeling_")))
    except (ImportError, OSError):
        return ""


def _defaults(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def _layer_types(kind: type[PreTrainedConfig]) -> list[str] | None:
    """Each type of layer once, at least two layers."""
    if "layer_types" not in _defaults(kind):
        return None
    try:
        types = kind().layer_types
    except Exception:  # noqa: BLE001 - a class without defaults that fit each other
        return None
    if not types:
        return None
    each = list(dict.fromkeys(types))
    return each if len(each) > 1 else each * 2


def _small(name: str, value: Any, wide: int, heads: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and re.fullmatch(r"\w*logit\w*cap\w*", name):
        # Small scores hardly meet a large cap.
        return min(value, 2.0)
    if name.endswith(("token_id", "token_index", "_token")) and isinstance(value, int):
        stem = re.sub(r"_(token_(id|index)|token)$", "", name)
        return _TOKENS.get(stem, 81 + sum(map(ord, stem)) % 9) if value >= 0 else value
    if name == "eos_token_id" and isinstance(value, list | tuple):
        return 2
    if isinstance(value, int):
        if re.fullmatch(r"\w*(key_value_heads|kv_heads|num_kv)", name):
            return 2 if value < heads else min(value, 4)
        low = next((low for pattern, low in _SIZES if re.fullmatch(pattern, name)), None)
        if low is None or value <= low:
            return value
        return low * wide if low == 32 or "head_dim" in name else low
    if isinstance(value, list | tuple) and value and all(type(v) is int for v in value):
        how = next((how for pattern, how in _LISTS if re.fullmatch(pattern, name)), None)
        small = _small_list(how, list(value))
        return type(value)(small)
    return value


def _small_list(how: str | None, values: list[int]) -> list[int]:
    low = max(1, min(values))
    if how == "two":
        return [min(v, 2) for v in values]
    if how == "ratio":
        return [max(1, v // low) for v in values]
    if how == "eight":
        return [v if low <= 8 else max(8, 8 * v // low) for v in values]
    if how == "image":
        return [min(v, 32) for v in values]
    return values


def peaked(model: PreTrainedModel, gain: float = 1.5) -> PreTrainedModel:
    """The model in evaluation, with seeded weights that make attention far from uniform: a leak has to be visible."""
    generator = torch.Generator().manual_seed(0)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like.dtype)

    seen: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            for weight in module._parameters.values():
                if weight is None or id(weight) in seen or not weight.is_floating_point() or not weight.numel():
                    continue
                seen.add(id(weight))
                if weight.dim() < 2:
                    weight.add_(0.1 * normal(weight))
                elif isinstance(module, nn.Embedding):
                    weight.copy_(normal(weight))
                else:
                    # Convolutions are often many, one behind another: they keep the size of what goes through.
                    conv = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
                    weight.copy_(weight[0].numel() ** -0.5 * normal(weight))
                    if not conv:
                        weight.mul_(gain * (weight[0].numel() / weight.shape[-1]) ** 0.5)
    return model.eval()
