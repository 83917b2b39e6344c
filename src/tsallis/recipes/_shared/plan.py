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
from .config import ConfigError, RunConfig, build, checked, plain
from .files import RunError, read_yaml, write_yaml

FILE = "run.yaml"
_PRESET_KEYS = {"extends", "title", "config", "rows", "seeds"}


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
            members = tuple(
                Member(m["name"], m["row"], build(recipe.Config, m["config"], str(path)), m["published"])
                for m in content["members"]
            )
            return cls(content["recipe"], content["preset"], content["title"], members)
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: {error!r}", "a file written by tsallis run", "Start a new run") from error


def recipe_of(folder: Path) -> str:
    """The recipe that a run belongs to."""
    content = read_yaml(folder / FILE)
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), str):
        raise RunError(f"{folder / FILE} names no recipe", "a file written by tsallis run", "Start a new run")
    return content["recipe"]


def make_plan(recipe: ModuleType, name: str, preset: str, given: Mapping[str, Any]) -> Plan:
    """The plan of a preset and the options given.

    An option whose value some rows have chooses those rows. Another value replaces that of every row; rows that are
    then equal become one, named after the option. ``seed`` replaces the list of seeds.
    """
    content = _preset(name, preset)
    where = f"Preset {preset}"
    common = checked(recipe.Config, content.get("config", {}), where)
    given = checked(recipe.Config, given, "Command line")
    rows = {
        row: (checked(recipe.Config, entry.get("set", {}), f"{where}, row {row}"), entry.get("published", {}))
        for row, entry in content.get("rows", {name: {}}).items()
    }
    seeds = [given["seed"]] if "seed" in given else content.get("seeds", [common.get("seed", 0)])
    rows = _choose(rows, given)
    members: list[Member] = []
    for row, (values, published) in rows.items():
        for seed in seeds:
            config = build(recipe.Config, {**common, **given, **values, "seed": seed}, where)
            if config not in [m.config for m in members]:
                folder = re.sub(r"[^\w=.+-]+", "_", f"{row}-seed{seed}")
                members.append(Member(folder, row, config, published))
    changed = [f"{key}={value}" for key, value in given.items() if key not in ("data_dir", "seed")]
    title = content.get("title", preset) + (f" ({', '.join(changed)})" if changed else "")
    return Plan(name, preset, title, tuple(members))


def defaults(recipe: ModuleType, name: str, preset: str) -> dict[str, Any]:
    """What a preset sets for all its rows."""
    return checked(recipe.Config, _preset(name, preset).get("config", {}), f"Preset {preset}")


Rows = dict[str, tuple[dict[str, Any], dict[str, Any]]]


def _choose(rows: Rows, given: Mapping[str, Any]) -> Rows:
    for key, value in given.items():
        rows = {row: entry for row, entry in rows.items() if entry[0].get(key) == value} or rows
    replaced = {k: v for k, v in given.items() if any(values.get(k, v) != v for values, _ in rows.values())}
    if not replaced:
        return rows
    label = ", ".join(f"{key}={value}" for key, value in replaced.items())
    merged: Rows = {}
    for row, (values, _) in rows.items():
        # What a source published belongs to its own values.
        entry = ({**values, **replaced}, {})
        same = next((name for name, other in merged.items() if other == entry), None)
        if same is not None:
            del merged[same]
        merged[f"{row}, {label}" if same is None else label] = entry
    return merged


def _preset(recipe: str, preset: str) -> dict[str, Any]:
    folder = files(f"tsallis.recipes.{recipe}") / "presets"
    known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    if preset not in known:
        raise ConfigError(f"Preset {preset!r}", f"one of: {', '.join(known)}", "Correct the spelling")
    content: dict[str, Any] = yaml.safe_load((folder / f"{preset}.yaml").read_text(encoding="utf-8"))
    if unknown := set(content) - _PRESET_KEYS:
        raise TsallisError(f"Preset {preset}: {sorted(unknown)}", f"{sorted(_PRESET_KEYS)}", "Correct the preset")
    if base := content.pop("extends", None):
        inherited = _preset(recipe, base)
        content = {**inherited, **content, "config": {**inherited.get("config", {}), **content.get("config", {})}}
    return content
