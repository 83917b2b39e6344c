"""Generic small inputs of tiny models, by the names that their forward has."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .tiny import FIRST, LAST

# Texts: one whole, one padded at its end, one at its beginning.
TEXTS, LENGTH, PADDED = 3, 12, 5
# Length of sound, of a picture's side where the configuration does not say it, and patches of a grid.
SAMPLES, SIDE, PATCHES = 4000, 96, (4, 4)

_BINS = ("num_mel_bins", "feature_size", "input_feat_per_channel", "feature_projection_input_dim", "input_dim")


def inputs_of(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Keywords of its forward to try, the richest first."""
    names = inspect.signature(model.forward).parameters
    text, other = _texts(model.config, names), _others(model, names)
    fixed = {"use_cache": False} if "use_cache" in names else {}
    if "input_ids" in text and "pixel_values" in other and (shown := _shown(model, text, other["pixel_values"])):
        yield shown | fixed
    decoder = {k: v for k, v in text.items() if k.startswith("decoder")}
    tried = [text | other, text, decoder | other, other, *({**decoder, k: v} for k, v in other.items())]
    for name, form in _other_forms(model, other):
        tried += [text | other | {name: form}, decoder | {name: form}]
    needed = {n for n, p in names.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    for inputs in tried:
        if inputs and needed <= inputs.keys():
            yield inputs | fixed


def _other_forms(model: PreTrainedModel, made: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The same as films, and with time before what is heard, or the other way round."""
    if (pictures := made.get("pixel_values")) is not None and pictures.dim() == 4:
        frames = _of(model.config, "num_frames", 2)
        yield "pixel_values", pictures[:, None].repeat(1, frames if isinstance(frames, int) else 2, 1, 1, 1)
    if (sound := made.get("input_features")) is not None:
        yield "input_features", sound.transpose(1, 2).contiguous()
    if (sound := made.get("input_values")) is not None:
        yield "input_values", sound[:, None]
        yield "input_values", _normal(TEXTS, _of(model.config, "max_length", 64), _of(model.config, "num_mel_bins", 16))


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _texts(config: Any, names: Mapping[str, Any]) -> dict[str, Tensor]:
    generator, made = torch.Generator().manual_seed(2), {}
    last = max(FIRST + 1, min(LAST, _of(config, "vocab_size", LAST)))
    for name, mask, length in (
        ("input_ids", "attention_mask", LENGTH),
        ("decoder_input_ids", "decoder_attention_mask", LENGTH - 2),
    ):
        if name in names:
            made[name] = torch.randint(FIRST, last, (TEXTS, length), generator=generator)
            if mask in names:
                made[mask] = padded(TEXTS, length)
    return made


def _shown(model: PreTrainedModel, text: Mapping[str, Tensor], pictures: Tensor) -> dict[str, Tensor] | None:
    """Texts that begin with as many tokens of a picture as the model makes of it; None for models of another kind."""
    names = inspect.signature(model.forward).parameters
    token = _of(model.config, "image_token_id", _of(model.config, "image_token_index", None))
    see = getattr(model, "get_image_features", None)
    if token is None or see is None:
        return None
    sizes, grid = torch.tensor([pictures.shape[-2:]] * TEXTS), torch.tensor([[1, *PATCHES]] * TEXTS)
    patches = next(
        (_patch(m) for n, m in model.named_modules() if n.endswith(("visual", "vision_tower", "vision_model"))), 1
    )
    forms: list[dict[str, Tensor]] = [
        {"pixel_values": pictures}, {"pixel_values": pictures[:, None]},
        {"pixel_values": pictures[:, None], "image_sizes": sizes}, {"pixel_values": pictures, "image_sizes": sizes},
        {"pixel_values": _normal(TEXTS * PATCHES[0] * PATCHES[1], patches), "image_grid_thw": grid},
    ]  # fmt: skip
    for form in forms:
        if not form.keys() <= names.keys():
            continue
        try:
            with torch.no_grad():
                features = see(**form)
        except Exception:  # noqa: BLE001 - models' own code, which may ask for pictures in another form
            continue
        features = getattr(features, "pooler_output", features)
        found = features if isinstance(features, list | tuple) else [features]
        count = sum(x.numel() // x.shape[-1] for x in found if isinstance(x, Tensor)) // TEXTS
        picture = torch.full((count,), token)
        # After the padding of the text that is padded at its beginning.
        starts = zip(text["input_ids"], (0, 0, PADDED), strict=True)
        tokens = torch.stack([torch.cat([row[:start], picture, row[start:]]) for row, start in starts])
        more = {"mm_token_type_ids": (tokens == token).long()} if "mm_token_type_ids" in names else {}
        return {**text, "input_ids": tokens, "attention_mask": padded(TEXTS, count + LENGTH), **form, **more}
    return None


def padded(texts: int, length: int) -> Tensor:
    """A mask of texts: the second one padded at its end, the third at its beginning."""
    mask = torch.ones(texts, length, dtype=torch.int64)
    mask[1, length - PADDED :] = 0
    mask[2, :PADDED] = 0
    return mask


def _others(model: PreTrainedModel, names: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pictures, films and sound."""
    config, made = model.config, {}
    side, channels = _of(config, "image_size", SIDE), _of(config, "num_channels", 3)
    if not isinstance(_of(config, "patch_size", None), int):
        # Models that make maps smaller and smaller need more than one place in the last.
        side = SIDE
    height, width = (side, side) if isinstance(side, int) else side
    if "pixel_values" in names and len(names) < 40:
        made["pixel_values"] = _normal(TEXTS, channels, height, width)
    if "pixel_values_videos" in names and model.main_input_name == "pixel_values_videos":
        made["pixel_values_videos"] = _normal(TEXTS, _of(config, "num_frames", 4), channels, height, width)
    if "input_features" in names:
        bins = next((b for k in _BINS if isinstance(b := _of(config, k, None), int)), 80)
        frames = 2 * _of(config, "max_source_positions", 20)
        first = _convolution(model)
        made["input_features"] = _normal(TEXTS, bins, frames) if first == bins else _normal(TEXTS, frames, bins)
        if "input_features_mask" in names:
            made["input_features_mask"] = torch.ones(TEXTS, frames, dtype=torch.int64)
    if "input_values" in names:
        made["input_values"] = _normal(TEXTS, SAMPLES)
    if "past_time_features" in names:
        past, future = config.context_length + max(config.lags_sequence), config.prediction_length
        made["past_values"], made["past_observed_mask"] = _normal(TEXTS, past), torch.ones(TEXTS, past)
        made["past_time_features"] = torch.zeros(TEXTS, past, 0)
        made["future_values"], made["future_time_features"] = _normal(TEXTS, future), torch.zeros(TEXTS, future, 0)
    if "flattened_patches" in names:
        places = torch.cartesian_prod(torch.arange(1.0, 5), torch.arange(1.0, 5)).expand(TEXTS, -1, -1)
        width = _of(config, "patch_embed_hidden_size", 32)
        made["flattened_patches"] = torch.cat([places, _normal(TEXTS, 16, width)], 2)
    return made | _states(model, names)


def _states(model: PreTrainedModel, names: Mapping[str, Any]) -> dict[str, Tensor]:
    """What parts of models get from other parts."""
    made: dict[str, Tensor] = {}
    grid = next((n for n in ("grid_thw", "image_grid_thw") if n in names and "input_ids" not in names), None)
    width = _of(model.config, "hidden_size", 32)
    if grid is not None:
        made[grid] = torch.tensor([[1, *PATCHES]] * TEXTS)
        name = "pixel_values" if "pixel_values" in names else "hidden_states"
        made[name] = _normal(TEXTS * PATCHES[0] * PATCHES[1], _patch(model))
    elif "input_ids" in names:
        return made
    elif "spatial_shapes" in names:
        made["pixel_values"] = _normal(TEXTS, PATCHES[0] * PATCHES[1], _patch(model))
        made["spatial_shapes"] = torch.tensor([PATCHES] * TEXTS)
        made["pixel_attention_mask"] = torch.ones(TEXTS, PATCHES[0] * PATCHES[1], dtype=torch.int64)
    else:
        for name in ("hidden_states", "inputs_embeds", "query_embeds", "context"):
            if name in names and "pixel_values" not in names:
                made[name] = _normal(TEXTS, LENGTH, width)
        if "encoder_hidden_states" in names:
            made["encoder_hidden_states"] = _normal(TEXTS, 7, _of(model.config, "encoder_hidden_size", width))
        if "attention_mask" in names and made and names["attention_mask"].default is inspect.Parameter.empty:
            made["attention_mask"] = torch.ones(TEXTS, LENGTH, dtype=torch.int64)
    return made


def _patch(model: nn.Module) -> int:
    """How many numbers a patch has: inputs of the first convolution or product."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            return module.weight[0].numel()
        if isinstance(module, nn.Linear):
            return module.in_features
    return 1


def _convolution(model: nn.Module) -> int | None:
    """Channels of the first convolution in time, which come before places."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv1d)), None)


def _of(config: Any, name: str, default: Any) -> Any:
    """A field of a configuration or of one of its parts."""
    parts = [getattr(config, key, None) for key in config.sub_configs]
    return next((v for c in (config, *parts) if (v := getattr(c, name, None)) is not None), default)
