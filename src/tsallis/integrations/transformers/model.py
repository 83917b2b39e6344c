"""Models of transformers made sparse."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...core.errors import ParameterError
from ...core.inputs import is_number
from .alphas import ALPHA, NAME, alpha_of, attach, attention_modules, record
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

    Args:
        model: any whose attention goes through transformers' attention interface.
        alpha: "learn" for one learned alpha in (1, 2) per head; a number; or one of both by layer: by number, or by a
            pattern that the module's name matches, such as "decoder.*". Modules that it does not name keep softmax.
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
    modules = attention_modules(model)
    if not modules or not model._can_set_attn_implementation():
        raise ParameterError(
            f"a {type(model).__name__}", "a model whose attention goes through transformers' attention interface",
            "See the list of supported models in the documentation",
        )  # fmt: skip
    if not unchecked:
        _check_listed(model)
    chosen = {name: _choice(choices, name, module) for name, module in modules.items()}
    if isinstance(alpha, Mapping):
        _check_all_used(alpha, modules)
    register()
    for name, module in modules.items():
        attach(module, name, chosen[name], init)
    model.set_attn_implementation(NAME)
    for module in modules.values():
        # Some models give parts copies of their configuration, which they then no longer know.
        if isinstance(config := getattr(module, "config", None), PreTrainedConfig):
            config._attn_implementation_internal = NAME
    record(model, chosen)
    return model


def _check_listed(model: PreTrainedModel) -> None:
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and (reason := refusal(part.config.model_type)) is not None:
            raise ParameterError(
                f"a {type(part).__name__}, whose type failed when it was probed: {reason}",
                "a model that is the same with sparse attention at alpha = 1, and keeps its masks",
                "Pass unchecked=True where this does not concern your model; see the list in the documentation",
            )  # fmt: skip


def _choice(choices: Mapping[int | str, Choice], name: str, module: nn.Module) -> Choice:
    for key, choice in choices.items():
        if _names(key, name, module):
            return choice
    return 1.0


def _names(key: int | str, name: str, module: nn.Module) -> bool:
    if isinstance(key, str):
        return fnmatchcase(name, key)
    return key == layer_of(name, module)


def layer_of(name: str, module: nn.Module) -> int | None:
    """Its number, or the first number in its name."""
    own = getattr(module, "layer_idx", None)
    return own if own is not None else next((int(part) for part in name.split(".") if part.isdigit()), None)


def _check_all_used(choices: Mapping[int | str, Choice], modules: Mapping[str, nn.Module]) -> None:
    for key in choices:
        if not any(_names(key, name, module) for name, module in modules.items()):
            raise ParameterError(
                f"alpha for {key!r}", f"layers of the model, such as {next(iter(modules))!r}", "Correct the key"
            )


def alphas(model: nn.Module) -> dict[str, Tensor]:
    """What a sparsified model's attention modules have as alpha, by name: (H) values, or one.

    Args:
        model: made by `sparsify`, or loaded again.

    Returns:
        copies without gradient.

    Example:
        >>> alphas(sparsify(model, 1.5))  # doctest: +SKIP
    """
    found = {name: alpha_of(m) for name, m in attention_modules(model).items() if hasattr(m, ALPHA)}
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
