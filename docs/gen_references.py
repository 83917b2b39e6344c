"""The references page, from ``references.bib``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BIB = Path(__file__).parent / "references.bib"

_ENTRY = re.compile(r"@\w+\{(?P<key>[^,\s]+),(?P<body>.*?)\n\}", re.DOTALL)
_FIELD = re.compile(r"(\w+)\s*=\s*\{(.*)\}")


@dataclass(frozen=True)
class Reference:
    """One entry: its key and its fields."""

    key: str
    fields: dict[str, str]

    def markdown(self) -> str:
        """One line of the page, with an anchor named after the key."""
        get = self.fields.get
        people = get("author", "").split(" and ")
        authors = " and ".join(filter(None, [", ".join(people[:-1]), people[-1]]))
        venue = get("booktitle") or get("journal") or "Preprint"
        numbers = "".join([f" {get('volume')}" if get("volume") else "", f"({get('number')})" if get("number") else ""])
        pages = f", pages {get('pages', '').replace('--', '-')}" if get("pages") else ""
        links = [f"[doi](https://doi.org/{get('doi')})"] if get("doi") else []
        links += [f"[arXiv:{get('eprint')}](https://arxiv.org/abs/{get('eprint')})"] if get("eprint") else []
        title = re.sub(r"[{}]", "", get("title", ""))
        text = f"{authors}. *{title}*. {venue}{numbers}{pages}, {get('year')}. {' '.join(links)}".rstrip()
        return f'- <a id="{self.key}"></a>`{self.key}`: {text}'


def references(path: Path = BIB) -> list[Reference]:
    """All entries of the file, in its order. One field per line, values in braces."""
    entries = _ENTRY.finditer(path.read_text(encoding="utf-8"))
    return [Reference(m["key"], dict(_FIELD.findall(m["body"]))) for m in entries]


def page(entries: list[Reference]) -> str:
    """The page as Markdown."""
    lines = [entry.markdown() for entry in sorted(entries, key=lambda e: e.key)]
    return "# References\n\nDocstrings cite these works by key.\n\n" + "\n".join(lines) + "\n"
