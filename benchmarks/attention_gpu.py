"""Attention on a GPU beside SDPA and, where it is installed, adasplash: keys in clusters, so that blocks are sparse.

    python benchmarks/attention_gpu.py --length 4096 --length 16384 --clusters 0 --clusters 64

Tokens of a cluster lie side by side and share a direction; with 0 clusters all are normal and no block is without
support. Errors are of 256 queries of the first head, from all their scores in float64.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import tsallis as ts
from tsallis.cli.timing import DTYPES, awaited, device_named, memory_of, seconds_of

HEADS, TILE, CHECKED = 8, 64, 256


def draw(n: int, width: int, clusters: int) -> list[Tensor]:
    """q, k and v."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, n, width, generator=generator) for _ in range(3))
    if clusters:
        centers = 4 * torch.randn(1, HEADS, clusters, width, generator=generator)
        own = centers.repeat_interleave(-(-n // clusters), 2)[:, :, :n]
        q, k = q + own, k + own
    return [q, k, v]


def sparsity_of(q: Tensor, k: Tensor, causal: bool) -> tuple[float, float]:
    """(share of blocks without support, mean support) of the first head."""
    n, found, supports = q.shape[2], [], []
    for first in range(0, n, 1024):
        scores = q[0, 0, first : first + 1024].float() @ k[0, 0].float().t() / q.shape[3] ** 0.5
        if causal:
            later = (
                torch.arange(n, device=q.device) > torch.arange(first, first + len(scores), device=q.device)[:, None]
            )
            scores = scores.masked_fill(later, -torch.inf)
        p = ts.entmax(scores, 1.5) > 0
        found.append(p.unflatten(0, (-1, TILE)).unflatten(2, (-1, TILE)).any(3).any(1).double().mean())
        supports.append(p.sum(-1).double().mean())
    return 1 - float(torch.stack(found).mean()), float(torch.stack(supports).mean())


def ways(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> dict[str, Callable[[], Tensor]]:
    """By whom attention can be had here."""
    found: dict[str, Callable[[], Tensor]] = {
        "SDPA": lambda: scaled_dot_product_attention(q, k, v, is_causal=causal),
        "tsallis": lambda: ts.entmax_attention(q, k, v, is_causal=causal),
    }
    with suppress(ImportError):
        import adasplash  # pyright: ignore[reportMissingImports]

        found["adasplash v1"] = lambda: adasplash.adasplash_v1(q, k, v, alpha=1.5, is_causal=causal)
        if causal:
            found["adasplash v2"] = lambda: adasplash.adasplash_v2(q, k, v)
    return found


def measure(n: int, width: int, clusters: int, causal: bool, device: torch.device, dtype: torch.dtype) -> None:
    """Print a line for each way."""
    q, k, v = (x.to(device, dtype).requires_grad_() for x in draw(n, width, clusters))
    g = torch.randn_like(q)
    with torch.no_grad():
        empty, support = sparsity_of(q, k, causal)
        first = [x[:, :1].double() for x in (q[:, :, :CHECKED], k, v)]
        exact = ts.entmax_attention(*first, is_causal=causal, backend="reference")
    for name, attend in ways(q, k, v, causal).items():
        both = awaited(lambda f=attend: torch.autograd.grad(f(), (q, k, v), g), device)
        with torch.no_grad():
            error = float((attend()[:, :1, :CHECKED].double() - exact).abs().max())
            forward = times(awaited(attend, device))
        taken = memory_of(both, device)
        print(
            f"{n:>6} {width:>4} {causal!s:<6} {empty:6.2f} {support:6.0f}  {name:<14}{forward:9.3f}{times(both):9.3f}"
            f"{'' if name == 'SDPA' else f'{error:9.1e}':>10}{(taken or 0) / 2**20:8.0f}",
            flush=True,
        )


def times(action: Callable[[], object]) -> float:
    """Milliseconds, the median of ten."""
    for _ in range(3):
        action()
    return 1e3 * statistics.median(seconds_of(action) for _ in range(10))


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", action="append", type=int)
    parser.add_argument("--width", action="append", type=int)
    parser.add_argument("--clusters", action="append", type=int)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    arguments = parser.parse_args()
    device, dtype = device_named(arguments.device), DTYPES[arguments.dtype]
    print("length width causal empty support  by            forward f+b (ms)     error      MB")
    for n in arguments.length or (4096, 16384):
        for width in arguments.width or (64, 128):
            for causal in (False, True):
                for clusters in arguments.clusters or (0, 4, 64):
                    measure(n, width, clusters, causal, device, dtype)


if __name__ == "__main__":
    main()
