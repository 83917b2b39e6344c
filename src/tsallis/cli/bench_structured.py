"""``tsallis bench structured``: `sparsemap` by kernels beside the reference, item by item. No speed on a red gate."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import TsallisError
from ..core.settings import use_backend
from ..structured import Bits, Budget, DependencyTree, Factor, Matching, Sequence, StructuredSolution, sparsemap
from .timing import interleaved, quartiles, write_json

# What marginals and gradients may differ by from those of the reference in the gate, both with a gap of at most 1e-13.
TOLERANCE = 1e-6


class Row(NamedTuple):
    """A factor, how many items, and the deviation of their scores."""

    factor: Factor
    batch: int
    scale: float = 1.0


ROWS = {
    "bits": (Row(Bits(32, "onoff"), 64, 0.1), Row(Bits(32, "onoff"), 64), Row(Bits(128, "onoff"), 16, 0.1)),
    "budget": (Row(Budget(32, 8), 64), Row(Budget(128, 32), 16)),
    "sequence": (Row(Sequence(20, 5), 64), Row(Sequence(20, 5), 64, 0.3)),
    "matching": (Row(Matching(10), 64), Row(Matching(10), 64, 0.3)),
    "tree": (Row(DependencyTree(20), 64), Row(DependencyTree(20, projective=True), 64)),
}
GATE = (
    Bits(12), Bits(12, "onoff"), Budget(12, 4), Budget(12, 4, exact=True), Sequence(5, 3), Matching(4), Matching(3, 5),
    DependencyTree(5), DependencyTree(5, single_root=False), DependencyTree(5, projective=True),
)  # fmt: skip


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--factor", action="append", choices=list(ROWS), help="default: all (repeat for several)")
    parser.add_argument("--items", type=int, default=2, help="how many the reference solves (default 2)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each cell (default 2)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(arguments: argparse.Namespace) -> int:
    """Gate, then time; 1 if the gate is red."""
    if arguments.items < 1:
        raise TsallisError(f"--items {arguments.items}", "1 at least", "Choose more")
    if not _gate():
        return 1
    print("\ntime per item over that of the reference, called item by item, median [quartiles]: lower is better")
    print(f"\n{'factor':<34}{'items':>6}{'scale':>7}  {'pass':<18}{'ratio':>9} {'':<18}{'ms':>9}{'ms/item':>9}", end="")
    print(f"{'reference':>11}")
    results = []
    for name in arguments.factor or ROWS:
        for row in ROWS[name]:
            for cell in _cells(row, arguments.items):
                results.append(_measure(*cell, arguments.seconds))
                print(_line(results[-1]), flush=True)
    if arguments.json:
        write_json(arguments.json, results)
    return 0


def _gate() -> bool:
    """Marginals and their gradients against the reference; gaps within the tolerance."""
    green = True
    for factor in GATE:
        for scale in (0.1, 1.0, 10.0):
            for what in _faults(factor, _draw(factor, 8, scale, torch.float64)):
                print(f"gate: {factor!r}, scale {scale}: {what}; no speed is reported")
                green = False
    print(f"gate: {'green' if green else 'RED'}")
    return green


def _faults(factor: Factor, inputs: list[Tensor]) -> Iterator[str]:
    (got, ours), (expected, theirs) = (_gradients(factor, inputs, backend, 1e-13) for backend in (None, "reference"))
    pairs = {"marginals": (got.marginals, expected.marginals)}
    pairs |= {f"gradient {i}": pair for i, pair in enumerate(zip(ours, theirs, strict=True))}
    for name, (a, b) in pairs.items():
        error = float((a - b).detach().abs().max())
        if not error <= TOLERANCE:
            yield f"{name} off by {error:.1e}"
    found = sparsemap(factor, *inputs)
    if not bool((found.gap <= 1e-9 * factor.spread).all()) or not found.result.ok:
        yield f"{found.result}; largest gap {float(found.gap.max()):.1e}"


def _draw(factor: Factor, batch: int, scale: float, dtype: torch.dtype) -> list[Tensor]:
    """Scores of variables and, if there are, of pairs."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, *factor.natural)]
    if isinstance(factor, Sequence):
        shapes.append((batch, factor.length - 1, factor.states, factor.states))
    return [(scale * torch.randn(shape, generator=generator)).to(dtype) for shape in shapes]


def _gradients(
    factor: Factor, inputs: list[Tensor], backend: str | None, tol: float = 1e-9
) -> tuple[StructuredSolution, tuple[Tensor, ...]]:
    own = [x.clone().requires_grad_() for x in inputs]
    with use_backend(backend):
        found = sparsemap(factor, own[0], *own[1:], tol=tol)
    weights = torch.linspace(-1, 1, found.marginals.numel(), dtype=found.marginals.dtype).reshape(found.marginals.shape)
    return found, torch.autograd.grad((found.marginals * weights).sum(), own)


Cell = tuple[dict[str, Any], Callable[[], object], Callable[[], object]]


def _cells(row: Row, items: int) -> Iterator[Cell]:
    """(facts, ours, the reference's for some of the items)."""
    factor, batch, scale = row
    inputs = _draw(factor, batch, scale, torch.float32)
    items = min(items, batch)
    found = sparsemap(factor, *inputs)
    facts = {
        "factor": _named(factor), "batch": batch, "scale": scale, "items": items,
        "support": float(found.mask.sum(-1).double().mean()), "iterations": float(found.iterations.double().mean()),
    }  # fmt: skip

    def theirs(call: Callable[[list[Tensor], str | None], object]) -> Callable[[], object]:
        return lambda: [call([x[i : i + 1] for x in inputs], "reference") for i in range(items)]

    def forward(given: list[Tensor], backend: str | None) -> object:
        with use_backend(backend):
            return sparsemap(factor, *given)

    def both(given: list[Tensor], backend: str | None) -> object:
        return _gradients(factor, given, backend)

    for name, call in (("forward", forward), ("forward + backward", both)):
        yield {**facts, "pass": name}, lambda call=call: call(inputs, None), theirs(call)


def _named(factor: Factor) -> str:
    sizes = ", ".join(map(str, factor.natural))
    if isinstance(factor, DependencyTree):
        sizes = f"{factor.n}{', projective' if factor.projective else ''}"
    return f"{type(factor).__name__}({sizes}{f', {factor.k}' if isinstance(factor, Budget) else ''})"


def _measure(
    facts: dict[str, Any], ours: Callable[[], object], theirs: Callable[[], object], seconds: float
) -> dict[str, Any]:
    times = interleaved(ours, theirs, seconds)
    each = facts["batch"] / facts["items"]
    ratios = [a / (each * b) for a, b in zip(*times, strict=True)]
    ours_ms, theirs_ms = (1e3 * statistics.median(t) for t in times)
    per_item = {"ours, per item": ours_ms / facts["batch"], "reference, per item": theirs_ms / facts["items"]}
    return {
        **facts, "ratio": quartiles(ratios), "milliseconds": {"ours": ours_ms, **per_item}, "repetitions": len(ratios),
    }  # fmt: skip


def _line(result: dict[str, Any]) -> str:
    low, middle, high = result["ratio"]
    ms = result["milliseconds"]
    return (
        f"{result['factor']:<34}{result['batch']:>6}{result['scale']:>7g}  {result['pass']:<18}{middle:9.5f} "
        f"{f'[{low:.5f}, {high:.5f}]':<18}{ms['ours']:9.3f}{ms['ours, per item']:9.4f}{ms['reference, per item']:11.2f}"
    )
