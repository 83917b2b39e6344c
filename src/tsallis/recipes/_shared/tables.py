"""Tables of results: grouped by row, seeds as mean and deviation."""

from __future__ import annotations

import statistics
import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .runs import Run

Row = dict[str, str]


def rows_of(runs: list[Run]) -> list[tuple[str, list[Run]]]:
    """Runs by the row they belong to, in order of appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.row, []).append(run)
    return list(groups.items())


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
