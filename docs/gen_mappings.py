"""The page of mappings, from the registry: a registered mapping gets its section here without another line."""

from __future__ import annotations

import tsallis as ts
from tsallis.core.mapping import Mapping
from tsallis.core.params import Param
from tsallis.core.registry import get, names
from tsallis.nn import module_class

INTRODUCTION = r"""# Mappings

Every mapping solves $p(z) = \arg\max_{p \in C} \langle p, z \rangle - \Omega(p)$ along one
dimension. This page is made from the registry when the documentation is built: a mapping you register has the same
rows, module, loss and tests.
"""

_ROLES = {
    "omega": "shapes the regulariser; differentiable",
    "domain": "shapes the domain; differentiable",
    "selection": "discrete; no gradient",
}


def parameter_row(param: Param) -> list[str]:
    """Name, interval, default, role and meaning of a parameter."""
    interval = f"{param.interval}, n = kept entries" if param.at_most_kept else param.interval
    default = "required" if param.default is None else f"{param.default:g}"
    return [f"`{param.name}`", interval, default, _ROLES[param.role], param.meaning]


def mapping_row(mapping: Mapping) -> dict[str, str]:
    """What the overview says of a mapping, by column."""
    parameters = ", ".join(f"`{p.name}` in {p.interval}" for p in mapping.params)
    return {
        "mapping": f"[`{mapping.name}`](#{mapping.name})",
        "summary": mapping.summary,
        "parameters": parameters or "none",
        "module": f"`ts.nn.{module_class(mapping.name).__name__}`",
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def section(mapping: Mapping) -> str:
    """Everything the registry knows about one mapping, as Markdown."""
    parts = [
        f"## {mapping.name} {{ #{mapping.name} }}",
        mapping.summary,
        rf"$$p = \arg\max_{{p \in C}} \langle p, z \rangle - \Omega(p), \qquad \Omega(p) = {mapping.latex}, "
        rf"\qquad C = {mapping.domain.latex}$$",
    ]
    if mapping.params:
        header = ["parameter", "interval", "default", "role", "meaning"]
        parts.append(table(header, [parameter_row(p) for p in mapping.params]))
    if mapping.exempt:
        parts.append("Laws it does not obey:\n\n" + "\n".join(f"- {law}: {why}" for law, why in mapping.exempt.items()))
    facts = [
        f"Module: `ts.nn.{module_class(mapping.name).__name__}`.",
        f'Loss: `ts.fenchel_young_loss("{mapping.name}", ...)`.',
    ]
    if mapping.reference:
        facts.append(f"Reference: [{mapping.reference}](../references.md#{mapping.reference}).")
    parts.append(" ".join(facts))
    function = getattr(ts, mapping.name, None)
    if function is not None:
        # Its full path: a tool that only reads the source takes tsallis.mappings.entmax for the module of that name.
        parts.append(f"::: {function.__module__}.{function.__qualname__}")
    return "\n\n".join(parts)


def page() -> str:
    """The whole page."""
    mappings = [get(name) for name in names()]
    rows = [mapping_row(m) for m in mappings]
    overview = table(list(rows[0]), [list(row.values()) for row in rows])
    return "\n\n".join([INTRODUCTION, overview, *map(section, mappings)]) + "\n"
