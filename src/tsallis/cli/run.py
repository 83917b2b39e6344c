"""``tsallis run``: train a recipe and print its table."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import recipes
from ..core.errors import TsallisError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def describe(parser: argparse.ArgumentParser) -> None:
    """A recipe's own options come from its configuration: `run` parses them."""
    parser.usage = "tsallis run RECIPE [--preset PRESET] [--data-dir DIR] [--seed N] [--KEY VALUE] [--resume RUN]"
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of: {', '.join(recipes.names())}")
    parser.epilog = "A recipe's options: tsallis run RECIPE --help"


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Train all rows and seeds of a preset, or what is left of a run."""
    recipe = recipes.load(arguments.recipe)
    from ..recipes._shared import execution, files, plan, tables

    given = _parse(recipe, arguments.recipe, rest)
    preset, resume, out = (given.pop(name, None) for name in ("preset", "resume", "out"))
    if resume is not None and (given or preset or out):
        raise TsallisError(
            f"--resume with {', '.join('--' + k for k in given) or '--preset or --out'}",
            "no other option: the run's own configuration is used",
            "Leave the others out",
        )
    # A process that was launched for another device finds its folder where the first process put it.
    place = resume or (None if files.first_process() else os.environ.get(execution.FOLDER))
    if place is not None:
        folder = Path(place)
        work = plan.Plan.load(folder, recipe)
    else:
        work = plan.make_plan(recipe, arguments.recipe, preset or "default", given)
        folder = execution.new_folder(Path(out) if out else None, f"{work.recipe}-{work.preset}")
        work.save(folder)
    _say(f"{work.title}: {len(work.members)} runs in {folder}")
    try:
        finished = execution.execute(recipe, work, folder, _say)
    except KeyboardInterrupt:
        _say(f"\ninterrupted; to go on: tsallis run {work.recipe} --resume {folder}")
        return 130
    except (TsallisError, OSError):
        if place is None:
            execution.discard(folder)
        raise
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not too_large(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        raise TsallisError(reason, "a model and a batch that fit into memory", "Choose smaller ones") from error
    if finished:
        print(tables.show(recipe.table(finished), tables.titles(finished), getattr(recipe, "NOTE", "")))
        _say(f"\nFigures: tsallis report {folder}")
    return 0


def too_large(error: Exception) -> bool:
    """Whether memory ran out."""
    words = ("allocate memory", "out of memory", "storage size", "overflow", "too large")
    return isinstance(error, MemoryError | OverflowError) or any(word in str(error).lower() for word in words)


def _parse(recipe: ModuleType, name: str, words: Sequence[str]) -> dict[str, Any]:
    """The options that were given, checked, without defaults."""
    from jsonargparse import ArgumentError

    from ..recipes._shared import config

    parser = config.options(recipe.Config, f"tsallis run {name}")
    parser.add_argument("--preset", help=f"one of: {', '.join(recipes.presets(name))} (default: default)")
    parser.add_argument("--out", metavar="DIR", help="a new folder for the run (default: below runs/)")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was interrupted")
    # Options are written with hyphens, fields with underscores; both are understood.
    plain = [re.sub(r"^--[\w-]+", lambda m: "--" + m[0][2:].replace("-", "_"), word) for word in words]
    # A negative number would be taken for an option.
    plain = re.sub(r"\0(-[\d.])", r"=\1", "\0".join(plain)).split("\0") if plain else []
    if "--help" in plain or "-h" in plain:
        print(_help(parser, recipe, name, _preset_in(plain)))
        raise SystemExit(0)
    known = [a.dest for a in parser._actions if a.dest != "help"]
    for word in plain:
        if option := re.match(r"--(\w+)", word):
            config.require_known(option[1], known, "Command line")
        elif word.startswith("-") and not re.match(r"-[\d.]", word):
            raise config.ConfigError(f"Command line: {word!r}", "options such as --epochs 5", "Correct it")
    try:
        parsed = parser.parse_args(plain, defaults=False)
    except ArgumentError as error:
        raise config.explain(error, "Command line") from error
    for key in ("out", "resume", "data_dir"):
        if parsed.get(key) == "":
            option = f"--{key.replace('_', '-')}"
            raise config.ConfigError(f"{option} without a name", "a folder", f"Name one, or leave {option} out")
    return {key: parsed[key] for key in known if key in parsed}


def _preset_in(words: Sequence[str]) -> str:
    return re.findall(r"--preset[= ](\S+)", " ".join(words) + " --preset default")[0]


def _help(parser: ArgumentParser, recipe: ModuleType, name: str, preset: str) -> str:
    """With the defaults of the preset, and options spelled as they are usually written."""
    from ..recipes._shared import plan

    parser.set_defaults(plan.defaults(recipe, name, preset))
    text = re.sub(r"--\w+", lambda m: m[0].replace("_", "-"), parser.format_help())
    return (
        text.replace(" (default: null)", "")
        + f"\nDefaults are those of the preset {preset}, as far as it has one value for all rows."
    )


def _say(text: str) -> None:
    from ..recipes._shared.files import first_process

    if first_process():
        print(text, file=sys.stderr, flush=True)
