"""Tables of results: grouped by row, seeds as mean and deviation."""

from __future__ import annotations

import statistics
import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .config import experiment
from .files import RunError
from .runs import Run

Row = dict[str, str]


def rows_of(runs: list[Run]) -> list[tuple[str, list[Run]]]:
    """Runs of one row and one configuration, seeds and machines apart, in order of appearance.

    Rows of one name that differ, because they come from different commands, are named after the difference.
    """
    groups: dict[str, list[list[Run]]] = {}
    for run in runs:
        alike = groups.setdefault(run.row, [])
        group = next((g for g in alike if experiment(g[0].config) == experiment(run.config)), None)
        if group is None:
            alike.append([run])
        elif any(run.result["seed"] == other.result["seed"] for other in group):
            raise RunError(
                f"{run.folder}: a second run of {run.row} with seed {run.result['seed']}",
                "each seed once",
                "Leave one of them out",
            )
        else:
            group.append(run)
    return [(_label(row, group, alike), group) for row, alike in groups.items() for group in alike]


def _label(row: str, group: list[Run], alike: list[list[Run]]) -> str:
    own = experiment(group[0].config)
    different = [k for k in own if any(g[0].config.get(k) != own[k] for g in alike)]
    return f"{row} ({', '.join(f'{k}={own[k]}' for k in different)})" if different else row


def mean_and_deviation(values: list[float], digits: int) -> str:
    """Mean over seeds, with the sample deviation if there are several."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def titles(runs: list[Run]) -> str:
    """What was run, and a warning where runs are not comparable."""
    title = "; ".join(dict.fromkeys(run.result["title"] for run in runs))
    if len({run.result["split"] for run in runs}) > 1:
        title += " — DIFFERENT DATA SPLITS: the rows are not comparable"
    return title


def show(rows: list[Row], title: str, note: str = "") -> str:
    """The table as text, as wide as the terminal, between its title and a note on its columns."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for number, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()))
    # Into a file or a pipe there is no width to keep to.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    with console.capture() as captured:
        console.print(Text(title, style="bold"), table, Text(note, style="dim"), sep="")
    return captured.get().rstrip()
