"""What a command runs: the rows of a preset's table, each with every seed, changed by the options given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from ...core.errors import TsallisError
from .. import presets
from .config import ConfigError, RunConfig, build, checked, experiment, plain
from .files import RunError, read_yaml, write_yaml

FILE = "run.yaml"
_PRESET_KEYS = {"extends", "title", "config", "method", "rows", "seeds"}


@dataclass(frozen=True)
class Member:
    """One training of a plan, in the folder ``name``; ``published`` says what its row's source reports."""

    name: str
    row: str
    config: RunConfig
    published: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All trainings of one command."""

    recipe: str
    preset: str
    title: str
    members: tuple[Member, ...]

    def save(self, folder: Path) -> None:
        """Write run.yaml."""
        members = [
            {"name": m.name, "row": m.row, "published": m.published, "config": plain(m.config)} for m in self.members
        ]
        write_yaml(
            folder / FILE, {"recipe": self.recipe, "preset": self.preset, "title": self.title, "members": members}
        )

    @classmethod
    def load(cls, folder: Path, recipe: ModuleType) -> Plan:
        """Read run.yaml; the configurations are checked as if they came from the command line."""
        path = folder / FILE
        try:
            content = read_yaml(path)
            if content["recipe"] != (wanted := recipe.__name__.split(".")[-2]):
                raise RunError(f"{folder} is a run of {content['recipe']}", wanted, "Name the other recipe")
            members = tuple(
                Member(m["name"], m["row"], build(recipe.Config, m["config"], str(path)), m["published"])
                for m in content["members"]
            )
            return cls(content["recipe"], content["preset"], content["title"], members)
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: {error!r}", "a file written by tsallis run", "Start a new run") from error


def make_plan(recipe: ModuleType, name: str, preset: str, given: Mapping[str, Any]) -> Plan:
    """The plan of a preset and the options given.

    Values of the preset's ``method``, a field or several, choose the rows that have them; values that no row has make a
    row of its own, with what the preset sets for all rows. Any other option replaces that value in every row, ``seed``
    the list of seeds. What a source published is shown beside its own protocol only.
    """
    content, where = _preset(name, preset), f"Preset {preset}"
    common = checked(recipe.Config, content.get("config", {}), where)
    given = checked(recipe.Config, given, "Command line")
    if given.get("data_dir"):
        given["data_dir"] = str(Path(given["data_dir"]).resolve())
    rows = {
        row: (checked(recipe.Config, entry.get("set", {}), f"{where}, row {row}"), entry.get("published", {}))
        for row, entry in content.get("rows", {name: {}}).items()
    }
    declared = content.get("method", [])
    wanted = {key: given[key] for key in ([declared] if isinstance(declared, str) else declared) if key in given}
    if wanted:
        chosen = {row: entry for row, entry in rows.items() if wanted.items() <= entry[0].items()}
        rows = chosen or {", ".join(f"{key}={value}" for key, value in wanted.items()): ({}, {})}
    seeds = [given["seed"]] if "seed" in given else content.get("seeds", [common.get("seed", 0)])
    changed = {key: value for key, value in experiment(given).items() if key not in wanted}
    members = tuple(
        Member(
            re.sub(r"[^\w=.+-]+", "_", f"{row}-seed{seed}"),
            row,
            build(recipe.Config, {**common, **values, **given, "seed": seed}, where),
            {} if changed else published,
        )
        for row, (values, published) in rows.items()
        for seed in seeds
    )
    title = content.get("title", preset)
    if changed:
        title += f" ({', '.join(f'{key}={value}' for key, value in changed.items())})"
    return Plan(name, preset, title, members)


def defaults(recipe: ModuleType, name: str, preset: str) -> dict[str, Any]:
    """What a preset sets for all its rows."""
    return checked(recipe.Config, _preset(name, preset).get("config", {}), f"Preset {preset}")


def _preset(recipe: str, preset: str) -> dict[str, Any]:
    known = presets(recipe)
    if preset not in known:
        raise ConfigError(f"Preset {preset!r}", f"one of: {', '.join(known)}", "Correct the spelling")
    source = files(f"tsallis.recipes.{recipe}") / "presets" / f"{preset}.yaml"
    content: dict[str, Any] = yaml.safe_load(source.read_text(encoding="utf-8"))
    if unknown := set(content) - _PRESET_KEYS:
        raise TsallisError(f"Preset {preset}: {sorted(unknown)}", f"{sorted(_PRESET_KEYS)}", "Correct the preset")
    if base := content.pop("extends", None):
        inherited = _preset(recipe, base)
        content = {**inherited, **content, "config": {**inherited.get("config", {}), **content.get("config", {})}}
    return content
