"""Models of transformers made sparse."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...core.errors import ParameterError
from ...core.inputs import is_number
from .alphas import ALPHA, NAME, Saved, alpha_of, attach, attention_modules, made, record
from .attention import register
from .listed import refusal

Choice = float | Literal["learn"]
Model = TypeVar("Model", bound=PreTrainedModel)


def sparsify(
    model: Model,
    alpha: Choice | Mapping[int | str, Choice] = "learn",
    *,
    init: float = 1.5,
    unchecked: bool = False,
) -> Model:
    """Put `entmax` in the place of softmax in every attention module of a model, in place.

    Weights stay what they are. `save_pretrained` keeps alphas with them, and `from_pretrained` restores both where
    `register` was called before; where it was not, loading fails with an error instead of giving a softmax model.
    `model.set_attn_implementation("sdpa")` brings softmax back, until "tsallis" is set again.

    Args:
        model: any whose attention goes through transformers' attention interface.
        alpha: "learn" for one learned alpha in (1, 2) per head; a number; or one of both by layer: by number, or by a
            pattern that the module's name matches, such as "decoder.*". Of several the first holds; modules that none
            names keep softmax.
        init: where learned alphas start.
        unchecked: whether to take a type of models that failed when it was probed.

    Returns:
        the model.

    Raises:
        ParameterError: a model without such modules, or of a type that failed a probe; a choice that cannot be.

    Example:
        >>> from transformers import AutoModelForSequenceClassification  # doctest: +SKIP
        >>> model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")  # doctest: +SKIP
        >>> sparsify(model)  # doctest: +SKIP

    References:
        correia2019adaptively
    """
    choices: Mapping[int | str, Choice] = alpha if isinstance(alpha, Mapping) else {"*": alpha}
    for choice in choices.values():
        if choice != "learn" and not (is_number(choice) and 0 <= choice < float("inf")):
            raise ParameterError(f"alpha={choice!r}", 'a number in [0, inf), or "learn"', "Choose one")
    modules = sparse_modules(model, unchecked=unchecked)
    saved = {name: _saved(choice, init) for name, choice in _chosen(choices, modules).items()}
    # All of them before any is attached: an error leaves the model as it was.
    own = {name: made(module, name, saved[name]) for name, module in modules.items()}
    register()
    model.set_attn_implementation(NAME)
    for name, module in modules.items():
        attach(module, own[name])
    record(model, saved)
    return model


def sparse_modules(model: PreTrainedModel, *, unchecked: bool = False) -> dict[str, nn.Module]:
    """The attention modules of a model that `sparsify` takes, by name; raises as it does."""
    modules = attention_modules(model)
    if not modules or not model._can_set_attn_implementation():
        raise ParameterError(
            f"a {type(model).__name__}", "a model whose attention goes through transformers' attention interface",
            "See the list of supported models in the documentation",
        )  # fmt: skip
    if not unchecked:
        _check_listed(model)
    return modules


def _check_listed(model: PreTrainedModel) -> None:
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and (reason := refusal(part.config.model_type)) is not None:
            raise ParameterError(
                f"a {type(part).__name__}, whose type failed when it was probed: {reason}",
                "a model that is the same with sparse attention at alpha = 1, and keeps its masks",
                "Pass unchecked=True where this does not concern your model; see the list in the documentation",
            )  # fmt: skip


def _chosen(choices: Mapping[int | str, Choice], modules: Mapping[str, nn.Module]) -> dict[str, Choice]:
    """The choice of each module: the first that names it."""
    keys: dict[str, int | str | None] = {
        name: next((key for key in choices if _names(key, name, module)), None) for name, module in modules.items()
    }
    for key in choices:
        if key not in keys.values():
            raise ParameterError(
                f"alpha for {key!r}, which no layer takes", f"layers of the model, such as {next(iter(modules))!r}",
                "Correct the key, or put it before those that name the same layers",
            )  # fmt: skip
    return {name: 1.0 if key is None else choices[key] for name, key in keys.items()}


def _saved(choice: Choice, init: float) -> Saved:
    return {"learn": float(init)} if choice == "learn" else float(choice)


def _names(key: int | str, name: str, module: nn.Module) -> bool:
    if isinstance(key, str):
        return fnmatchcase(name, key)
    return key == layer_of(name, module)


def layer_of(name: str, module: nn.Module) -> int | None:
    """Its number, or the first number in its name."""
    own = getattr(module, "layer_idx", None)
    return own if own is not None else next((int(part) for part in name.split(".") if part.isdigit()), None)


def alphas(model: nn.Module) -> dict[str, Tensor]:
    """What a sparsified model's attention modules have as alpha, by name: (H) values, or one.

    Args:
        model: made by `sparsify`, or loaded again.

    Returns:
        copies without gradient.

    Raises:
        ParameterError: a model without alphas, or one that was told to compute another attention.

    Example:
        >>> alphas(sparsify(model, 1.5))  # doctest: +SKIP
    """
    modules = {name: m for name, m in attention_modules(model).items() if hasattr(m, ALPHA)}
    for name, module in modules.items():
        used = getattr(getattr(module, "config", None), "_attn_implementation", NAME)
        if used != NAME:
            raise ParameterError(
                f"{name}, which computes {used!r}: softmax", "a model with attention 'tsallis'",
                "Call model.set_attn_implementation('tsallis')",
            )  # fmt: skip
    found = {name: alpha_of(m) for name, m in modules.items()}
    if not found:
        raise ParameterError(f"a {type(model).__name__} without alphas", "a sparsified model", "Call sparsify(model)")
    return {name: torch.as_tensor(alpha).detach().clone() for name, alpha in found.items()}


def alpha_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters behind learned alphas: for a group of their own in the optimiser, without weight decay and with a
    larger learning rate than weights that are fine-tuned.
    """
    return [p for m in attention_modules(model).values() for p in _own(m)]


def _own(module: nn.Module) -> list[nn.Parameter]:
    held = getattr(module, ALPHA, None)
    return list(held.parameters()) if isinstance(held, nn.Module) else []
