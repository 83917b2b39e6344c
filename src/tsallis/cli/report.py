"""``tsallis report``: the table of finished runs, and a page with their figures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import recipes
from ..core.errors import TsallisError


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder that tsallis run wrote")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the page (default: RUN/report)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; write index.html and a PNG for each figure."""
    recipes.require_extra()
    from ..recipes._shared import report, runs, tables

    finished: dict[Path, runs.Run] = {}
    unfinished: list[str] = []
    for folder in arguments.runs:
        done, missing = runs.members(folder)
        finished |= {run.folder.resolve(): run for run in done}
        unfinished += [str(folder / name) for name in missing]
    for name in unfinished:
        print(f"{name}: not finished, left out", file=sys.stderr)
    if not finished:
        raise TsallisError("No finished run", "at least one", "Go on with: tsallis run RECIPE --resume RUN")
    names = list(dict.fromkeys(run.result["recipe"] for run in finished.values()))
    if len(names) > 1:
        raise TsallisError(f"Runs of {', '.join(names)}", "runs of one recipe", "Report them one after the other")
    recipe, chosen = recipes.load(names[0]), list(finished.values())
    note = getattr(recipe, "NOTE", "")
    try:
        rows, title = recipe.table(chosen), tables.titles(chosen)
        figures = recipe.figures(chosen) if hasattr(recipe, "figures") else {}
        details = recipe.details(chosen) if hasattr(recipe, "details") else {}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, TsallisError):
            raise
        raise TsallisError(
            f"Files of a run do not hold what {names[0]} shows ({error!r})",
            "files as tsallis run wrote them",
            "Run again",
        ) from error
    print(tables.show(rows, title, note))
    page = report.write_page(
        arguments.out or arguments.runs[0] / "report", names[0], title, rows, chosen, unfinished, note, figures, details
    )
    print(f"\n{page}")
    return 0
