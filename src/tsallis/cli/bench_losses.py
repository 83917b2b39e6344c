"""``tsallis bench losses``: `entmax_loss` beside `F.cross_entropy`, and `linear_entmax_loss` beside a linear layer with
it, in time and memory. No speed on a red gate.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..losses import entmax_loss, linear_entmax_loss
from .peers import linear_peers
from .timing import DTYPES, awaited, device_named, interleaved, keep_pages, memory_of, quartiles, sizes_of, write_json

LOSSES, LAYERS = ((1024, 32000),), ((1024, 512, 32000), (1024, 1024, 128000))
ALPHAS, SUPPORTS = (1.5, 2.0), (5, 20, 50, 0)
WAYS: dict[str, dict[str, Any]] = {
    "lists": {"method": "lists"},
    "lists, sparse gradient": {"method": "lists", "sparse_grad": True},
    "screened": {"method": "screened"},
    "screened, sparse gradient": {"method": "screened", "sparse_grad": True},
    "chosen": {},
}
# What values and gradients may differ by from autograd through the reference, relative to the largest.
TOLERANCE = 1e-5


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--shape", action="append", metavar="NxV", help="of scores (repeat for several)")
    parser.add_argument("--layer", action="append", metavar="NxHxV", help="of output layers (repeat for several)")
    parser.add_argument("--alpha", action="append", type=float, help="default 1.5 and 2 (repeat for several)")
    parser.add_argument("--support", action="append", type=int, help="mean support of layers, 0: nearly uniform scores")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of scores and layers")
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each cell (default 2)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(arguments: argparse.Namespace) -> int:
    """Gate, then time; 1 if the gate is red."""
    device, dtype = device_named(arguments.device), DTYPES[arguments.dtype]
    losses = [sizes_of(x, "--shape", "1024x32000") for x in arguments.shape or ()]
    layers = [sizes_of(x, "--layer", "1024x512x32000") for x in arguments.layer or ()]
    if not (losses or layers):
        losses, layers = list(LOSSES), list(LAYERS)
    if not _gate(device):
        return 1
    keep_pages()
    print("\ntime, forward + backward, over that of cross-entropy, median [quartiles]: lower is better")
    print(
        "memory: beyond inputs and returned gradients (with a sparse gradient, it included), as a share of N x V scores"
    )
    print(f"\n{'shape':<22}{'scores':<14}{'what':<44}{'ratio':>8} {'':<16}{'ms':>8}{'memory':>8}  path")
    results = []
    for alpha in arguments.alpha or ALPHAS:
        # One after the other: a cell holds its scores or its layer.
        cells = chain(
            (cell for shape in losses for cell in _loss_cells(shape, alpha, device, dtype)),
            (cell for shape in layers for cell in _layer_cells(shape, alpha, arguments.support, device, dtype)),
        )
        for cell in cells:
            results.append(_measure(*cell, arguments.seconds, device))
            print(_line(results[-1]), flush=True)
    if arguments.json:
        write_json(arguments.json, results)
    return 0


def _gate(device: torch.device) -> bool:
    """Values and gradients of layers in float32 against autograd through the reference in float64."""
    green = True
    for alpha in (1.3, *ALPHAS):
        for support in (5, None):
            for name, error in _errors(alpha, support, device):
                if not error <= TOLERANCE:
                    print(f"gate: {name}, alpha {alpha:g}, support {support}: off by {error:.1e}; no speed is reported")
                    green = False
    print(f"gate: {len(WAYS)} ways, {'green' if green else 'RED'}")
    return green


def _errors(alpha: float, support: int | None, device: torch.device) -> Iterator[tuple[str, float]]:
    """Of each way, relative to the largest."""
    from ..testing.layers import draw_layer

    hidden, weight, target = (x.to(device) for x in draw_layer(64, 32, 3000, support, alpha))

    def formula(h: Tensor, w: Tensor) -> Tensor:
        return entmax_loss(h @ w.t(), target, alpha, backend="reference")

    exact = _gradients(formula, hidden.double(), weight.double())
    for name, options in WAYS.items():

        def ours(h: Tensor, w: Tensor, options: dict[str, Any] = options) -> Tensor:
            return linear_entmax_loss(h, w, target, alpha=alpha, **options)

        for got, expected in zip(_gradients(ours, hidden, weight), exact, strict=True):
            yield name, float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-6))


def _gradients(loss: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor) -> list[Tensor]:
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    value = loss(hidden, weight)
    return [value.detach(), *(g.to_dense() for g in torch.autograd.grad(value, (hidden, weight)))]


Cell = tuple[dict[str, Any], Callable[[], object], Callable[[], object], int, int]


def _loss_cells(shape: tuple[int, ...], alpha: float, device: torch.device, dtype: torch.dtype) -> Iterator[Cell]:
    """(facts, ours, cross-entropy's, scores in all, bytes of results)."""
    for scores, factor in (("normal", 1.0), ("near-uniform", 1e-3)):
        generator = torch.Generator().manual_seed(0)
        z = (factor * torch.randn(*shape, generator=generator)).to(device, dtype).requires_grad_()
        y = torch.randint(shape[1], shape[:1], generator=generator).to(device)

        def timed(loss: Callable[[], Tensor], z: Tensor = z) -> Callable[[], object]:
            return awaited(lambda: torch.autograd.grad(loss(), z), device)

        facts = {"shape": list(shape), "scores": scores, "what": f"entmax_loss, alpha {alpha:g}", "path": ""}
        ours = timed(lambda z=z, y=y: entmax_loss(z, y, alpha))
        yield facts, ours, timed(lambda z=z, y=y: functional.cross_entropy(z, y)), z.numel(), z.nbytes


def _layer_cells(
    shape: tuple[int, ...], alpha: float, supports: Sequence[int] | None, device: torch.device, dtype: torch.dtype
) -> Iterator[Cell]:
    from ..testing.layers import draw_layer

    tokens, width, words = shape
    for support in (n or None for n in supports or SUPPORTS):
        drawn = draw_layer(tokens, width, words, support, alpha)
        hidden, weight = (x.to(device, dtype).requires_grad_() for x in drawn[:2])
        target = drawn[2].to(device)
        inputs = (hidden, weight)

        def timed(loss: Callable[[], Tensor], inputs: tuple[Tensor, ...] = inputs) -> Callable[[], object]:
            return awaited(lambda: torch.autograd.grad(loss(), inputs), device)

        def dense(h: Tensor = hidden, w: Tensor = weight, y: Tensor = target) -> Tensor:
            return functional.cross_entropy(functional.linear(h, w), y)

        scores = f"support {support}" if support else "near-uniform"
        for name, options in WAYS.items():
            if support is None and options:
                continue
            _, report = linear_entmax_loss(*inputs, target, alpha=alpha, return_report=True, **options)
            measured = "" if report.support is None else f", support {report.support:.1f}"
            facts = {
                "shape": list(shape), "scores": scores, "what": f"layer, alpha {alpha:g}, {name}",
                "path": report.path + measured,
            }  # fmt: skip
            ours = timed(
                lambda i=inputs, y=target, o=options: linear_entmax_loss(*i, y, alpha=alpha, **o)  # pyright: ignore
            )
            kept = hidden.nbytes + (0 if options.get("sparse_grad") else weight.nbytes)
            yield facts, ours, timed(dense), tokens * words, kept
        for name, peer in linear_peers(hidden, weight, target):
            facts = {"shape": list(shape), "scores": scores, "what": f"{name} (softmax)", "path": ""}
            yield facts, timed(peer), timed(dense), tokens * words, hidden.nbytes + weight.nbytes


def _measure(
    facts: dict[str, Any], ours: Callable[[], object], theirs: Callable[[], object], scores: int, kept: int,
    seconds: float, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    times = interleaved(ours, theirs, seconds)
    taken = memory_of(ours, device)
    return {
        **facts,
        "ratio": quartiles([a / b for a, b in zip(*times, strict=True)]),
        "milliseconds": {n: 1e3 * statistics.median(t) for n, t in zip(("ours", "dense"), times, strict=True)},
        "memory": None if taken is None else (taken - kept) / (4 * scores),
        "repetitions": len(times[0]),
    }


def _line(result: dict[str, Any]) -> str:
    low, middle, high = result["ratio"]
    memory = "-" if result["memory"] is None else f"{result['memory']:.2f}"
    return (
        f"({', '.join(str(n) for n in result['shape'])})".ljust(22)
        + f"{result['scores']:<14}{result['what']:<44}"
        + f"{middle:8.3f} {f'[{low:.3f}, {high:.3f}]':<16}{result['milliseconds']['ours']:8.0f}{memory:>8}  "
        + result["path"]
    )
