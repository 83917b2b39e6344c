"""``tsallis bench attention``: `entmax_attention` beside torch's own, in time and memory. No speed on a red gate."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..attention import entmax_attention
from .timing import DTYPES, awaited, device_named, interleaved, keep_pages, memory_of, quartiles, sizes_of, write_json

SHAPES = ((1, 8, 4096, 64), (64, 8, 64, 64))
SHARES = (0.006, 0.04, 0.22, 0.0)
# What values and gradients may differ by from the reference in float64, relative to the largest.
TOLERANCE = 1e-5


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--shape", action="append", metavar="BxHxNxd", help="of q, k and v (repeat for several)")
    parser.add_argument("--alpha", action="append", type=float, help="default 1.5 (repeat for several)")
    parser.add_argument(
        "--share", action="append", type=float,
        help="mean share of keys attended to, 0: q times 0.1; default 0.006, 0.04, 0.22, 0 (repeat for several)",
    )  # fmt: skip
    parser.add_argument("--causal", action="store_true", help="both causal")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of q, k and v")
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each cell (default 2)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(arguments: argparse.Namespace) -> int:
    """Gate, then time; 1 if the gate is red."""
    device, dtype = device_named(arguments.device), DTYPES[arguments.dtype]
    shapes = [sizes_of(text, "--shape", "1x8x4096x64") for text in arguments.shape or ()] or list(SHAPES)
    if not _gate(device):
        return 1
    keep_pages()
    causal = ", causal" if arguments.causal else ""
    print(f"\ntime over that of scaled_dot_product_attention{causal}, median [quartiles]: lower is better")
    print("memory: beyond inputs and results, in MB; all scores once would be the figure in brackets")
    print(f"\n{'shape':<20}{'support':>10}{'alpha':>8}  {'pass':<18}{'ratio':>8} {'':<16}{'ms':>8}{'memory':>8}")
    results = []
    for shape in shapes:
        for alpha in arguments.alpha or (1.5,):
            for share in arguments.share or SHARES:
                for cell in _cells(shape, alpha, share or None, arguments.causal, device, dtype):
                    results.append(_measure(*cell, arguments.seconds, device))
                    print(_line(results[-1]), flush=True)
    if arguments.json:
        write_json(arguments.json, results)
    return 0


def _gate(device: torch.device) -> bool:
    """Values and gradients in float32 against autograd through all scores in float64."""
    from ..testing.heads import draw_heads

    green = True
    for share in (0.01, 0.2, None):
        for causal in (False, True):
            inputs = [x.to(device) for x in draw_heads((1, 2), 600, 600, 32, share)]
            got, exact = (
                _gradients(x, causal, b) for x, b in ((inputs, None), ([x.double() for x in inputs], "reference"))
            )
            for name, a, b in zip(("result", "dq", "dk", "dv"), got, exact, strict=True):
                error = float((a - b).abs().max() / b.abs().max())
                if not error <= TOLERANCE:
                    print(f"gate: {name}, share {share}, causal {causal}: off by {error:.1e}; no speed is reported")
                    green = False
    print(f"gate: {'green' if green else 'RED'}")
    return green


def _gradients(inputs: list[Tensor], causal: bool, backend: str | None) -> list[Tensor]:
    own = [x.clone().requires_grad_() for x in inputs]
    out = entmax_attention(own[0], own[1], own[2], is_causal=causal, backend=backend)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), own)]


Cell = tuple[dict[str, Any], Callable[[], object], Callable[[], object], int]


def _cells(
    shape: tuple[int, ...], alpha: float, share: float | None, causal: bool, device: torch.device, dtype: torch.dtype
) -> Iterator[Cell]:
    """(facts, ours, torch's, bytes of results)."""
    from ..testing.heads import draw_heads

    batch, heads, n, width = shape
    drawn = draw_heads((batch, heads), n, n, width, share, alpha)
    q, k, v = (x.to(device, dtype).requires_grad_() for x in drawn)
    g = torch.ones_like(q)
    with torch.no_grad():
        _, stats = entmax_attention(q, k, v, is_causal=causal, alpha=alpha, return_stats=True)
    support = float(stats.support_size.double().mean())

    def ours() -> Tensor:
        return entmax_attention(q, k, v, is_causal=causal, alpha=alpha)

    def theirs() -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def forward(attend: Callable[[], Tensor]) -> Callable[[], object]:
        @torch.no_grad()
        def action() -> object:
            return attend()

        return awaited(action, device)

    def both(attend: Callable[[], Tensor]) -> Callable[[], object]:
        return awaited(lambda: torch.autograd.grad(attend(), (q, k, v), g), device)

    facts = {"shape": list(shape), "support": support, "alpha": alpha, "causal": causal}
    yield {**facts, "pass": "forward"}, forward(ours), forward(theirs), q.nbytes
    yield {**facts, "pass": "forward + backward"}, both(ours), both(theirs), 4 * q.nbytes


def _measure(
    facts: dict[str, Any], ours: Callable[[], object], theirs: Callable[[], object], kept: int, seconds: float,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    times = interleaved(ours, theirs, seconds)
    taken = memory_of(ours, device)
    batch, heads, n, _ = facts["shape"]
    return {
        **facts,
        "ratio": quartiles([a / b for a, b in zip(*times, strict=True)]),
        "milliseconds": {x: 1e3 * statistics.median(t) for x, t in zip(("ours", "sdpa"), times, strict=True)},
        "memory_mb": None if taken is None else (taken - kept) / 2**20,
        "scores_mb": 4 * batch * heads * n * n / 2**20,
        "repetitions": len(times[0]),
    }


def _line(result: dict[str, Any]) -> str:
    low, middle, high = result["ratio"]
    memory = "-" if result["memory_mb"] is None else f"{result['memory_mb']:.0f} [{result['scores_mb']:.0f}]"
    shape = f"({', '.join(str(n) for n in result['shape'])})"
    return (
        f"{shape:<20}{result['support']:>10.1f}{result['alpha']:>8g}  {result['pass']:<18}"
        f"{middle:8.3f} {f'[{low:.3f}, {high:.3f}]':<16}{result['milliseconds']['ours']:8.1f}{memory:>12}"
    )
