"""Alphas of attention modules: where they are kept in a model, and in its configuration."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...core.errors import ParameterError
from ...nn import Alpha

# Of a module; and of a configuration: names of modules with their alphas.
ALPHA, SAVED = "entmax_alpha", "tsallis_alphas"
# The implementation's name among transformers'.
NAME = "tsallis"
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


def attach(module: nn.Module, name: str, alpha: Any, init: float) -> None:
    """Give a module its alpha: a number, or "learn" for one per head."""
    if hasattr(module, ALPHA):
        delattr(module, ALPHA)
    if alpha == "learn":
        like = next(module.parameters(), torch.empty(0))
        setattr(module, ALPHA, Alpha(init, (heads_of(module, name),)).to(like.device))
    else:
        setattr(module, ALPHA, float(alpha))


def alpha_of(module: nn.Module) -> float | Tensor:
    """The alpha of an attention module."""
    held = getattr(module, ALPHA, None)
    if held is None:
        raise ParameterError(
            f"{type(module).__name__} without an alpha", "a model made by sparsify, or saved after it",
            "Call tsallis.integrations.transformers.sparsify(model)",
        )  # fmt: skip
    return held() if isinstance(held, nn.Module) else held


def record(model: PreTrainedModel, chosen: dict[str, Any]) -> None:
    """Write into a model's configuration what `restore` reads."""
    setattr(model.config, SAVED, chosen)
    # Transformers saves it under this name, and refuses to load where no such implementation is registered.
    model.config.attn_implementation = NAME


def restore(model: PreTrainedModel) -> None:
    """Attach the alphas that a model's configuration names, to modules that have none yet; weights come later."""
    saved = getattr(model.config, SAVED, None)
    if not saved:
        return
    record(model, saved)
    # A model may be saved with a head and loaded without it, or the other way round.
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
    for name, module in attention_modules(model).items():
        keys = (name, prefix + name, name.removeprefix(prefix))
        if not hasattr(module, ALPHA) and (key := next((k for k in keys if k in saved), None)) is not None:
            attach(module, name, saved[key], 1.5)
