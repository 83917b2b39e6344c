"""Hyper-parameters: one frozen dataclass a recipe, from which options, presets and their errors are derived."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from ...core.errors import TsallisError


class ConfigError(TsallisError):
    """An option that does not exist, or a value that does not fit."""


@dataclass(frozen=True)
class RunConfig:
    """Hyper-parameters.

    Attributes:
        seed: of everything random: initial weights, order of the data, noise.
        data_dir: folder with the data sets; without it $TSALLIS_DATA, then a download.
        accelerator: what to compute on, as in Lightning's Trainer.
        devices: how many of them, of one machine; each takes its own batches, so a step sees devices times batch_size
            examples.
        precision: of the arithmetic.
        threads: of torch on the CPU; null leaves its own choice. Small models gain nothing from more than one, and on a
            busy machine threads that wait for each other lose much.
        checkpoint_minutes: at most so many minutes between two checkpoints; there is one after every epoch too
            (epochs of less than five seconds share one).
    """

    seed: int = 0
    data_dir: str | None = None
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: int | None = None
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        self._require("seed", self.seed >= 0, "0 or more")
        self._require("devices", self.devices >= 1, "at least 1")
        self._require("threads", self.threads is None or self.threads >= 1, "at least 1, or null")
        self._require("checkpoint_minutes", self.checkpoint_minutes >= 0, "0 or more")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name}={getattr(self, name)!r}", expected, "Choose another value")


# What may differ between runs of one experiment, and between a run and its continuation.
MACHINE = ("data_dir", "accelerator", "threads", "checkpoint_minutes")

C = TypeVar("C", bound=RunConfig)


def options(config_class: type[C], prog: str) -> ArgumentParser:
    """A parser with an option for every field."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, default_env=False)
    parser.add_class_arguments(config_class)
    return parser


def build(config_class: type[C], values: Mapping[str, Any], where: str) -> C:
    """The configuration with these values, the rest as declared; ``where`` names their origin in errors."""
    return config_class(**checked(config_class, values, where, complete=True))


def checked(config_class: type[C], values: Mapping[str, Any], where: str, *, complete: bool = False) -> dict[str, Any]:
    """The values with their declared types; ``complete`` adds the defaults of all others."""
    names = [f.name for f in fields(config_class)]
    for key in values:
        require_known(key, names, where)
    parser = options(config_class, where)
    try:
        parsed = parser.parse_object(dict(values), defaults=complete)
    except ArgumentError as error:
        raise explain(error, where) from error
    found = {name: parsed[name] for name in names if name in parsed}
    for name, kind in get_type_hints(config_class).items():
        # The parser takes null for "not given".
        if name in found and found[name] is None and type(None) not in get_args(kind):
            raise ConfigError(f"{where}: {name}=null", f"{getattr(kind, '__name__', kind)}", "Give a value")
    return found


def require_known(key: str, names: Sequence[str], where: str) -> None:
    """Raise unless the key is one of the names, with the nearest one as advice."""
    if key not in names:
        near = difflib.get_close_matches(key, names, 1)
        advice = f"Perhaps {near[0]} was meant" if near else "See: tsallis run RECIPE --help"
        raise ConfigError(f"{where}: {key!r}", f"one of: {', '.join(names)}", advice)


def explain(error: ArgumentError, where: str) -> ConfigError:
    """A parser's error in three parts."""
    text = " ".join(str(error).split())
    key, value = re.search(r'key "([\w.-]+)"', text), re.search(r"(?:Got value|Given value): (.*)", text)
    if key and value:
        kinds = re.findall(r"<class '(\w+)'>(?=[,\].])|typing\.([\w\[\], ']+)\.", text)
        expected = " or ".join(dict.fromkeys((a or b).replace("NoneType", "null") for a, b in kinds))
        return ConfigError(f"{where}: {key[1]}={value[1]}", expected or "another type", "Correct the value")
    return ConfigError(f"{where}: {text}", "the options of tsallis run RECIPE --help", "Correct the command")


def plain(config: RunConfig) -> dict[str, Any]:
    """The values as YAML and JSON can hold them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def experiment(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that make an experiment: all but the seed and what belongs to the machine."""
    return {key: value for key, value in values.items() if key not in (*MACHINE, "seed")}
