"""``tsallis bench mappings``: times beside `torch.softmax` and the `entmax` package. No speed on a red gate."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core import registry
from ..core.errors import TsallisError
from .peers import peers, runs
from .timing import DTYPES, awaited, device_named, interleaved, keep_pages, quartiles, seconds_of, write_json

if TYPE_CHECKING:
    from ..testing import Setting

SHAPES = ((64, 64), (4096, 128), (1024, 1024), (256, 32000), (16, 131072))
INPUTS = ("normal", "near_uniform", "peaked", "ties", "two_level")
# Where solvers use a general power; 1.5 and 2 are mappings of their own.
ALPHAS = {"entmax": (1.3, 1.7)}
GATE = ("feasible", "duality_gap", "first_derivatives", "backends_agree")


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from ..testing import FAMILIES

    parser.add_argument("--mapping", action="append", help="name of a mapping (repeat for several); all if left out")
    parser.add_argument("--alpha", action="append", type=float, help="for mappings that have one (repeat for several)")
    parser.add_argument("--shape", action="append", metavar="ROWSxN", help="such as 1024x1024 (repeat for several)")
    parser.add_argument(
        "--input", action="append", choices=list(FAMILIES), metavar="FAMILY",
        help=f"scores to draw (repeat for several): {', '.join(FAMILIES)}; default: {', '.join(INPUTS)}",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="such as cuda; then the share of the copy speed is told too")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the scores (default float32)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each cell (default 1)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(arguments: argparse.Namespace) -> int:
    """Gate, then time; 1 if the gate is red."""
    mappings = [registry.get(name) for name in arguments.mapping or registry.names()]
    device, dtype = device_named(arguments.device), DTYPES[arguments.dtype]
    shapes = [_shape(text) for text in arguments.shape] if arguments.shape else list(SHAPES)
    if not _gate(mappings):
        return 1
    keep_pages()
    where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"\ntime over that of torch.softmax, median [quartiles]: lower is better; {where}, {arguments.dtype}")
    print("package: the entmax package (on a GPU also adasplash) over ours, at its best setting, where it is installed")
    print("and has the mapping: higher is better for us. copy: time of a copy of the scores over ours")
    print(
        f"\n{'shape':<14}{'input':<14}{'mapping':<28}{'pass':<18}{'ratio':>8} {'':<16}{'package':>8}{'copy':>8}",
    )
    from ..testing import draw

    results = []
    for rows, n in shapes:
        for family in arguments.input or INPUTS:
            for mapping in mappings:
                for setting in _settings(mapping, n, arguments.alpha):
                    for backward in (False, True):
                        z = draw(family, rows, n, dtype=torch.float32).to(device, dtype)
                        results.append(_measure(setting, family, z, backward, arguments.seconds))
                        print(_line(results[-1]), flush=True)
    if arguments.json:
        write_json(arguments.json, results)
    return 0


def _gate(mappings: list[registry.Mapping]) -> bool:
    from .. import testing

    green = True
    for mapping in mappings:
        for law in GATE:
            if law in mapping.exempt:
                continue
            try:
                testing.LAWS[law].check(next(testing.settings(mapping)))
            except testing.CheckFailed as failure:
                print(f"gate: {mapping.name} breaks {law}: {failure}; no speed is reported")
                green = False
    print(f"gate: {len(mappings)} mappings, {'green' if green else 'RED'}")
    return green


def _shape(text: str) -> tuple[int, int]:
    rows, _, n = text.partition("x")
    if not (rows.isdigit() and n.isdigit() and int(rows) and int(n)):
        raise TsallisError(f"--shape {text}", "two positive numbers such as 1024x1024", "Correct it")
    return int(rows), int(n)


def _settings(mapping: registry.Mapping, n: int, alphas: list[float] | None) -> Iterator[Setting]:
    from ..testing import settings

    first = next(settings(mapping, n))
    chosen = alphas or ALPHAS.get(mapping.name)
    if not chosen or "alpha" not in first.values:
        yield first
        return
    for alpha in chosen:
        yield replace(first, values={**first.values, "alpha": alpha})


def _measure(setting: Setting, family: str, z: Tensor, backward: bool, seconds: float) -> dict[str, Any]:
    z = z.requires_grad_(backward)
    g = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)

    def timed(action: Callable[[], object]) -> Callable[[], object]:
        return awaited(action, z.device)

    def work(forward: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return timed((lambda: torch.autograd.grad(forward(z), z, g)) if backward else (lambda: forward(z)))

    rivals = [rival for peer in peers(setting, z) if runs(rival := work(peer))]
    best = min(rivals, key=lambda rival: min(seconds_of(rival) for _ in range(2))) if rivals else None
    ours, softmax = work(setting), work(lambda z: torch.softmax(z, -1))
    target = torch.empty_like(z, requires_grad=False)
    copy = timed(lambda: target.copy_(z.detach()))
    others = {"softmax": softmax, "package": best, "copy": None if backward else copy}
    # Two by two: a third contestant that sweeps the caches would do so before one of the others only.
    pairs = {name: interleaved(ours, other, seconds) for name, other in others.items() if other}
    medians = {"ours": pairs["softmax"][0], **{name: times for name, (_, times) in pairs.items()}}
    over = {name: [b / a for a, b in zip(*times, strict=True)] for name, times in pairs.items()}
    return {
        "mapping": setting.mapping.name,
        "setting": setting.values,
        "input": family,
        "shape": list(z.shape),
        "backward": backward,
        "ratio": quartiles([1 / x for x in over["softmax"]]),
        "package": quartiles(over["package"]) if "package" in over else None,
        "copy": quartiles(over["copy"]) if "copy" in over else None,
        "milliseconds": {name: 1e3 * statistics.median(times) for name, times in medians.items()},
        "repetitions": len(pairs["softmax"][0]),
    }


def _line(result: dict[str, Any]) -> str:
    rows, n = result["shape"]
    setting = ", ".join(f"{k}={v:g}" for k, v in result["setting"].items())
    low, middle, high = result["ratio"]
    package, copy = (f"{result[name][1]:8.2f}" if result[name] else f"{'-':>8}" for name in ("package", "copy"))
    return (
        f"({rows}, {n})".ljust(14)
        + f"{result['input']:<14}{result['mapping'] + ' ' + setting:<28}"
        + f"{'forward+backward' if result['backward'] else 'forward':<18}"
        + f"{middle:8.2f} {f'[{low:.2f}, {high:.2f}]':<16}{package}{copy}"
    )
