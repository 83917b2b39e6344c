"""Alphas of attention modules: where they are kept in a model, and in its configuration."""

from __future__ import annotations

import inspect
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...core.errors import ParameterError
from ...nn import Alpha

# Of a module; and of a configuration: names of modules with their alphas.
ALPHA, SAVED = "entmax_alpha", "tsallis_alphas"
# The implementation's name among transformers'.
NAME = "tsallis"
# What is saved of an alpha: a number, or {"learn": where it started}.
Saved = float | dict[str, float]
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "encoder_attention_heads")


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules of the model that call an attention of transformers' interface, by name."""
    return {name: module for name, module in model.named_modules() if _calls_interface(type(module))}


@cache
def _calls_interface(kind: type[nn.Module]) -> bool:
    if issubclass(kind, PreTrainedModel):
        # Models choose an attention; it is called by their parts.
        return False
    for base in kind.__mro__:
        if base is nn.Module:
            break
        for member in vars(base).values():
            code = getattr(inspect.unwrap(member), "__code__", None) if callable(member) else None
            if code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names:
                return True
    return False


def heads_of(module: nn.Module, name: str) -> int:
    """How many heads of queries it has."""
    for owner in (module, getattr(module, "config", None)):
        for attribute in _HEADS:
            if isinstance(found := getattr(owner, attribute, None), int):
                return found
    raise ParameterError(
        f"{name}: a {type(module).__name__} that does not say how many heads it has",
        f"one of {', '.join(_HEADS)} on it or its config", "Give it a number instead of a learned alpha",
    )  # fmt: skip


def made(module: nn.Module, name: str, saved: Saved) -> float | Alpha:
    """The alpha of a module, of what is saved of it."""
    if not isinstance(saved, dict):
        return float(saved)
    like = next(module.parameters(), torch.empty(0))
    return Alpha(saved["learn"], (heads_of(module, name),)).to(like.device)


def attach(module: nn.Module, alpha: float | Alpha) -> None:
    """Give a module its alpha."""
    if hasattr(module, ALPHA):
        delattr(module, ALPHA)
    setattr(module, ALPHA, alpha)
    # Some models give parts copies of their configuration, which they then no longer know.
    if isinstance(config := getattr(module, "config", None), PreTrainedConfig):
        config._attn_implementation_internal = NAME


def alpha_of(module: nn.Module) -> float | Tensor:
    """The alpha of an attention module."""
    held = getattr(module, ALPHA, None)
    if held is None:
        raise ParameterError(
            f"{type(module).__name__} without an alpha", "a model made by sparsify, or saved after it",
            "Call tsallis.integrations.transformers.sparsify(model)",
        )  # fmt: skip
    return held() if isinstance(held, nn.Module) else held


def record(model: PreTrainedModel, chosen: dict[str, Saved]) -> None:
    """Write what `restore` reads into the configurations of a model and of the models that are its parts: each may be
    saved alone, or in another.
    """
    known: set[int] = set()
    for prefix, part in model.named_modules():
        # A model and its base share one: names are those of the outer.
        if isinstance(part, PreTrainedModel) and id(part.config) not in known:
            known.add(id(part.config))
            start = f"{prefix}." if prefix else ""
            own = {name.removeprefix(start): saved for name, saved in chosen.items() if name.startswith(start)}
            if own:
                _record(part, own)


def _record(model: PreTrainedModel, own: dict[str, Saved]) -> None:
    setattr(model.config, SAVED, own)
    # Transformers saves it under this name, and refuses to load where no such implementation is registered.
    model.config.attn_implementation = NAME


def restore(model: PreTrainedModel) -> None:
    """Attach the alphas that a model's configuration names, to modules that have none yet; weights come later."""
    saved = getattr(model.config, SAVED, None)
    if not saved:
        return
    _record(model, saved)
    # Models that have it as a part would have set another.
    model.config._attn_implementation_internal = NAME
    # Half precision would round them.
    model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ()), ALPHA}
    # A model may be saved with a head and loaded without it, or the other way round.
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
    for name, module in attention_modules(model).items():
        keys = (name, prefix + name, name.removeprefix(prefix))
        if not hasattr(module, ALPHA) and (key := next((k for k in keys if k in saved), None)) is not None:
            attach(module, made(module, name, saved[key]))
