"""Which share of the pages of a key cache has to be read, by the bound that says so: the tables of
docs/theory/attention.md.

8,192 keys, 32 of which are moved along the query until their score lies `margin` standard deviations of the background
above its mean, at random places. Run: python benchmarks/pages_read.py
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

import tsallis as ts
from tsallis.attention import PagedCache

KEYS, PLANTED, SEEDS = 8192, 32, 3


def background(kind: str, d: int, g: torch.Generator) -> Tensor:
    """(KEYS, d) of standard normal numbers, and what makes of them keys of another kind."""
    x = torch.randn(KEYS, d, generator=g)
    if kind == "rank 8":
        return torch.randn(KEYS, 8, generator=g) @ torch.randn(8, d, generator=g) / 8**0.5 + 0.1 * x
    if kind == "common mean":
        return x + 4 * torch.randn(d, generator=g)
    if kind == "four wide coordinates":
        x[:, :4] *= 10
    if kind == "neighbours alike":
        for i in range(1, KEYS):
            x[i] = 0.95 * x[i - 1] + (1 - 0.95**2) ** 0.5 * x[i]
    return x


def draw(
    kind: str, d: int, queries: int, margin: float, seed: int, runs: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (R, d), keys (KEYS, d), and the keys before some were moved."""
    g = torch.Generator().manual_seed(seed)
    plain, q = background(kind, d, g), torch.randn(queries, d, generator=g)
    k = plain.clone()
    for query in q:
        z = plain @ query
        at = torch.randperm(KEYS, generator=g)[:PLANTED]
        if runs:
            at = (torch.randperm(KEYS // 8, generator=g)[: PLANTED // 8, None] * 8 + torch.arange(8)).flatten()
        k[at] += ((z.mean() + margin * z.std() - k[at] @ query) / query.square().sum())[:, None] * query
    return q, k, plain


def bounds(q: Tensor, k: Tensor, plain: Tensor, size: int) -> dict[str, Tensor]:
    """(R, pages) upper bounds of products, by name."""
    pages = k.unflatten(0, (-1, size))
    length = q.norm(dim=-1, keepdim=True)

    def box(query: Tensor, keys: Tensor) -> Tensor:
        return query.clamp_min(0) @ keys.amax(1).mT + query.clamp_max(0) @ keys.amin(1).mT

    middle = (pages.amax(1) + pages.amin(1)) / 2
    away = pages - middle[:, None]
    ball = q @ middle.mT + length * away.norm(dim=-1).amax(1)
    # The basis is that of the keys before some were moved: no bound may know the query.
    mean = plain.mean(0)
    basis = torch.linalg.eigh((plain - mean).mT @ (plain - mean)).eigenvectors.flip(-1)
    turned, query, shift = (pages - mean) @ basis, q @ basis, (q @ mean)[:, None]
    rest = query[:, 8:].norm(dim=-1, keepdim=True) * turned[..., 8:].norm(dim=-1).amax(1)
    # Of all vectors in both box and ball: the widths are cut where the multiplier of the ball says.
    reach, half = away.norm(dim=-1).amax(1), away.abs().amax(1)
    low, high = torch.full((len(q), len(pages)), 1e-6), torch.full((len(q), len(pages)), 1e6)
    for _ in range(60):
        cut = (low * high).sqrt()
        inside = torch.minimum(q.abs()[:, None] / cut[..., None], half).norm(dim=-1) <= reach
        low, high = torch.where(inside, low, cut), torch.where(inside, cut, high)
    both = q @ middle.mT + (q.abs()[:, None] * torch.minimum(q.abs()[:, None] / low[..., None], half)).sum(-1)
    found = {
        "norm": length * pages.norm(dim=-1).amax(1), "box": box(q, pages), "ball": ball,
        "smaller": torch.minimum(box(q, pages), ball), "box and ball": both, "turned box": box(query, turned) + shift,
        "8 turned + rest": box(query[:, :8], turned[..., :8]) + rest + shift,
    }  # fmt: skip
    for bits in (2, 4, 8):
        step = 2 * half[:, None] / 2**bits
        cell = ((away + half[:, None]) / step).floor().clamp(0, 2**bits - 1)
        corner = middle[:, None] + step * (cell + 0.5) - half[:, None]
        products = torch.einsum("rd,pkd->rpk", q, corner)
        found[f"{bits} bits"] = (products + (q.abs() @ step[:, 0].mT / 2)[..., None]).amax(-1)
    return found


def by_bound() -> None:
    """Pages whose bound lies above the threshold of all keys: no order of reading can do with fewer."""
    for kind in ("normal", "rank 8", "common mean", "four wide coordinates", "neighbours alike"):
        for d in (64, 128):
            for margin in (5, 8, 12, 16):
                shares = defaultdict(list)
                for seed in range(SEEDS):
                    q, k, plain = draw(kind, d, 1, margin, seed)
                    z = q @ k.mT * d**-0.5
                    floor = ts.solve("entmax", z, alpha=1.5).threshold - 2
                    shares["support"].append((z.unflatten(1, (-1, 16)).amax(-1) > floor[:, None]).float().mean())
                    for name, bound in bounds(q, k, plain, 16).items():
                        shares[name].append((bound * d**-0.5 > floor[:, None]).float().mean())
                cells = " | ".join(f"{name} {100 * float(torch.stack(x).mean()):.0f}" for name, x in shares.items())
                print(f"{kind} | {d} | {margin} | {cells}", flush=True)


def by_cache() -> None:
    """What `PagedCache` reads: keys, values and cells, in percent of the pages."""
    for heads, group in ((1, 1), (1, 4)):
        for size in (8, 16, 32, 64):
            for margin in (0.0, 4.0, 6.0, 12.0):
                for runs in (False, True):
                    line = []
                    for cells in (True, False):
                        found = []
                        for seed in range(SEEDS):
                            parts = [draw("normal", 64, group, margin, 10 * seed + h, runs) for h in range(heads)]
                            q = torch.cat([x[0] for x in parts])[None, :, None]
                            k = torch.stack([x[1] if margin else x[2] for x in parts])[None]
                            cache = PagedCache(size, cells=cells)
                            cache.append(k, k)
                            s = cache.attend(q)[1]
                            counts = (s.keys_read, s.values_read, s.cells_read)
                            found.append([100 * float(x.float().mean()) / s.pages for x in counts] + [s.rounds])
                        line.append([f"{x:.1f}" for x in torch.tensor(found).mean(0).tolist()])
                    kind = "runs" if runs else "random"
                    print(f"heads {heads} x {group} | page {size} | margin {margin:g} {kind} | cells {line[0]} | "
                          f"no cells {line[1]}", flush=True)  # fmt: skip


if __name__ == "__main__":
    by_bound()
    by_cache()
