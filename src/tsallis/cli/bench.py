"""``tsallis bench``: times beside `torch.softmax`, interleaved in one process, medians and quartiles as ratios. No
speed on a red gate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..core import registry
from ..core.errors import TsallisError

SHAPES = ((64, 64), (4096, 128), (1024, 1024), (256, 32000))
GATE = ("feasible", "duality_gap", "first_derivatives", "backends_agree")


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("suite", choices=["mappings"], help="what to time")
    parser.add_argument("--mapping", action="append", help="name of a mapping (repeat for several); all if left out")
    parser.add_argument("--shape", action="append", metavar="ROWSxN", help="such as 1024x1024 (repeat for several)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each cell (default 1)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(arguments: argparse.Namespace) -> int:
    """Gate, then time; 1 if the gate is red."""
    mappings = [registry.get(name) for name in arguments.mapping or registry.names()]
    shapes = [_shape(text) for text in arguments.shape] if arguments.shape else list(SHAPES)
    if not _gate(mappings):
        return 1
    print(
        f"\nratio to torch.softmax, median [quartiles]; {torch.get_num_threads()} threads, float32, normal scores; "
        "lower is better"
    )
    results = []
    for rows, n in shapes:
        for mapping in mappings:
            for backward in (False, True):
                result = _measure(mapping.name, rows, n, backward, arguments.seconds)
                if result is not None:
                    results.append(result)
                    low, middle, high = result["ratio"]
                    kind = "forward+backward" if backward else "forward"
                    print(
                        f"({rows}, {n})".ljust(16)
                        + f"{mapping.name:<16}{kind:<18}{middle:8.2f} [{low:.2f}, {high:.2f}]",
                        flush=True,
                    )
    if arguments.json:
        _write(arguments.json, results)
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


def _measure(name: str, rows: int, n: int, backward: bool, seconds: float) -> dict | None:
    from ..testing.harness import settings

    setting = next(settings(registry.get(name), n))
    z = torch.randn(rows, n, generator=torch.Generator().manual_seed(0)).requires_grad_(backward)
    g = torch.randn(rows, n, generator=torch.Generator().manual_seed(1))
    ours = _work(lambda: setting(z), z, g, backward)
    dense = _work(lambda: torch.softmax(z, -1), z, g, backward)
    times: tuple[list[float], list[float]] = ([], [])
    for work in (ours, dense, ours, dense):
        work()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for work, record in zip((ours, dense), times, strict=True):
            start = time.perf_counter()
            work()
            record.append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "mapping": name,
        "setting": setting.values,
        "shape": [rows, n],
        "backward": backward,
        "ratio": [low, middle, high],
        "milliseconds": [1e3 * statistics.median(t) for t in times],
        "repetitions": len(ratios),
    }


def _work(forward: Callable[[], Tensor], z: Tensor, g: Tensor, backward: bool) -> Callable[[], object]:
    return (lambda: torch.autograd.grad(forward(), z, g)) if backward else forward


def _write(path: Path, results: list[dict]) -> None:
    record = {"torch": torch.__version__, "threads": torch.get_num_threads(), "results": results}
    try:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        raise TsallisError(
            f"--json {path}: {error.strerror}", "a file that can be written", "Choose another place"
        ) from error
