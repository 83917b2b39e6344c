"""A page that shows runs: one HTML file without anything outside it, and each figure as a PNG too."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .files import read_json, write
from .runs import ENVIRONMENT, Run
from .tables import Row

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
td { white-space: nowrap }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #888 }
figure { margin: 1.5rem 0 } figure img { max-width: 100% } figcaption { color: #555; font-size: .9rem }
.wide { overflow-x: auto } .wide img { max-width: none }
.warning { background: #fff3cd; border-left: 4px solid #d39e00; padding: .5rem 1rem }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #ddd } figure img { background: #fff } figcaption { color: #aaa }
  th, td { border-color: #444 } .warning { background: #3a3000 }
}
"""


def write_page(
    folder: Path,
    recipe: str,
    title: str,
    rows: list[Row],
    runs: list[Run],
    unfinished: list[str],
    note: str,
    figures: dict[str, tuple[Figure, str]],
    details: dict[str, list[Row]],
) -> Path:
    """Write index.html and the PNGs; returns the page."""
    shown: list[str] = []
    for name, (figure, caption) in figures.items():
        image = _png(figure)
        write(folder / f"{name}.png", image)
        source = base64.b64encode(image).decode()
        shown.append(
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{source}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    warning = f'<p class="warning">Not finished, left out: {escape(", ".join(unfinished))}</p>' if unfinished else ""
    sources = sorted({s for run in runs if (s := run.result["published"].get("source"))})
    notes = f"<p>Published figures: {escape('; '.join(sources))}. They are quoted, not ours.</p>" if sources else ""
    page = f"""{head(f"{recipe}: {title}", title)}
{warning}
{table(rows)}
<p>Mean ± sample deviation over seeds. {escape(note)}</p>
{notes}
{"".join(shown)}
{"".join(f"<h2>{escape(title)}</h2>{table(content)}" for title, content in details.items())}
<h2>Every run</h2>
{table(_every(runs))}
<h2>Configurations</h2>
{table(_settings(runs, lambda run: [run.config]))}
<h2>Machines</h2>
{table(_settings(runs, lambda run: read_json(run.folder / ENVIRONMENT)))}
{END}"""
    write(folder / "index.html", page)
    return folder / "index.html"


def head(name: str, title: str) -> str:
    """The beginning of a page, until below its title."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>"""


END = "</body>\n</html>\n"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def _every(runs: list[Run]) -> list[Row]:
    return [
        {
            "run": run.row,
            "seed": str(run.result["seed"]),
            **{name: f"{value:.6g}" for name, value in run.metrics.items()},
            "n": str(run.result["n"]),
            "seconds": f"{run.seconds:.0f}",
            "split": run.result["split"][:16],
        }
        for run in runs
    ]


def _settings(runs: list[Run], read: Any) -> list[Row]:
    """One line a key; a column for each row of the table, with all values that its runs have."""
    values: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for key, value in (item for mapping in read(run) for item in mapping.items()):
            seen = values.setdefault(key, {}).setdefault(run.row, [])
            if str(value) not in seen:
                seen.append(str(value))
    columns = list(dict.fromkeys(run.row for run in runs))
    return [{"": key, **{c: ", ".join(found.get(c, [])) for c in columns}} for key, found in values.items()]


def table(rows: list[Row]) -> str:
    """Rows as HTML."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    names = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(row.get(c, ''))}</td>" for c in columns) + "</tr>" for row in rows)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
