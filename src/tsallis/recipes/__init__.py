"""Experiments, each one command away: ``tsallis list``, ``tsallis run RECIPE``."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from types import ModuleType

from ..core.errors import RegistryError, TsallisError

# What the extra `recipes` brings and every recipe imports.
_NEEDED = ("lightning", "jsonargparse", "rich", "matplotlib", "sklearn", "pooch", "safetensors", "yaml", "filelock")


def names() -> tuple[str, ...]:
    """All recipes; needs only the base install."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg and not m.name.startswith("_")))


def summary(recipe: str) -> str:
    """The first sentence of a recipe's package; needs only the base install."""
    return (import_module(f".{_known(recipe)}", __package__).__doc__ or "").split("\n\n")[0].replace("\n", " ")


def presets(recipe: str) -> tuple[str, ...]:
    """Names of a recipe's presets."""
    folder = files(f"{__package__}.{_known(recipe)}") / "presets"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def missing() -> tuple[str, ...]:
    """Packages that recipes need and that are not installed."""
    return tuple(name for name in _NEEDED if find_spec(name) is None)


def load(recipe: str) -> ModuleType:
    """A recipe's module: `Config`, `train(config, folder)`, `table(runs)` and, if it has any, `figures(runs)`,
    `details(runs)` and `predict(run, lines, *, beam=None, n_best=None, explain=False)`, which yields a
    `_shared.predictions.Prediction` for each line, in order, and PROOFS if a sentence has to say what proofs are about.
    """
    _known(recipe)
    require_extra()
    return import_module(f".{recipe}.recipe", __package__)


def require_extra() -> None:
    """Raise unless the extra `recipes` is installed."""
    if absent := missing():
        raise TsallisError(
            f"Not installed: {', '.join(absent)}", "what recipes need", "Run: pip install 'tsallis[recipes]'"
        )


def _known(recipe: str) -> str:
    if recipe not in names():
        raise RegistryError(f"Recipe {recipe!r}", f"one of: {', '.join(names())}", "See: tsallis list")
    return recipe
