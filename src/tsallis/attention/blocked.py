"""Attention whose scores are never all there at once, with its gradients.

Where the mapping's kernel offers lists, a head whose queries attend to few keys keeps those, and its backward pass
touches nothing else; other heads make their scores again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core import implicit
from ..core.dispatch import FusedKernel, SparseAttention
from ..core.dropping import factors
from ..core.fused import is_plain, through_formula
from . import formula
from .blocks import Block, blocks, folded, keys_of, scores_of, shared
from .inputs import Heads, Number, Settings

# Supports of a head's block up to this share of the keys are averaged by lists, and up to the other kept for the
# backward pass, while all lists have no more bytes than that.
AVERAGED, LISTED, BUDGET = 0.1, 0.4, 2**29


@dataclass(frozen=True)
class Call(Settings):
    """A call in blocks."""

    kernel: FusedKernel
    sparse: SparseAttention | None
    dropout: float
    seed: int

    def generator(self, device: torch.device) -> torch.Generator | None:
        """What dropout draws from, block after block, in each pass over them."""
        return torch.Generator(device).manual_seed(self.seed) if self.dropout else None

    def factor(self, p: Tensor, generator: torch.Generator) -> Tensor:
        """What dropout multiplies the p of the next block with."""
        return factors(p, self.dropout, generator)

    def whole(self, *tensors: Any) -> Tensor:
        """The result by the formula, differentiable as often as one likes, with the same keys dropped."""
        heads = self.heads(*tensors)
        p = formula.probabilities(heads, self.backend)
        if (generator := self.generator(p.device)) is not None:
            factor = torch.ones_like(p)
            for block in blocks(heads):
                part = block.of(factor)
                part *= self.factor(part, generator)
            p = p * factor
        return formula.average(p, heads)


@dataclass
class Listed:
    """Lists of a call, and how many pairs each head (batch entry, head) has in them; None for heads without."""

    lists: Any
    heads: dict[tuple[int, int], int | None] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        return sum(n for n in self.heads.values() if n is not None)

    def has(self, block: Block) -> bool:
        return block.one_head and self.heads.get(block.head) is not None


class Blocked(torch.autograd.Function):
    """(call, whether gradients may be asked for, q, k, v, mask, bias, alpha) -> (B, Hq, Nq, dv)."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, recorded: bool, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None,
        bias: Tensor | None, alpha: Number,
    ) -> Tensor:  # fmt: skip
        heads = call.heads(q, k, v, mask, bias, alpha)
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        ctx.call, ctx.number, ctx.listed = call, None if isinstance(alpha, Tensor) else alpha, None
        listed = None if call.sparse is None else Listed(call.sparse.begin(q.numel() // q.shape[3], q))
        keep = recorded and any(ctx.needs_input_grad) and not ctx.needs_input_grad[6]
        generator = call.generator(q.device)
        for block in blocks(heads):
            p, notes = _solved(call, heads, block)
            if listed is None or not block.one_head or not _by_lists(call, listed, block, p, notes, v, out, keep):
                _average(block, heads, p if generator is None else p * call.factor(p, generator), out)
            # Before the next block's are made.
            del p, notes
        kept: list[Tensor] = []
        if call.sparse is not None and listed is not None and keep and listed.pairs:
            kept, listed.lists = call.sparse.packed(listed.lists)
            ctx.listed = listed
        ctx.save_for_backward(q, k, v, mask, bias, alpha if isinstance(alpha, Tensor) else None, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        g, (q, k, v, mask, bias, alpha, *kept), call = grads[0], ctx.saved_tensors, ctx.call
        alpha = ctx.number if alpha is None else alpha
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or not is_plain(g):
            return None, None, *through_formula(call.whole, g, (q, k, v, mask, bias, alpha), wanted)
        # Hooks on saved tensors may have laid them out otherwise.
        g, q, k, v = (x.contiguous() for x in (g, q, k, v))
        heads = call.heads(q, k, v, mask, bias, alpha)
        dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
        slopes = q.new_zeros(*q.shape[:3], 1) if wanted[5] else None
        dbias = torch.zeros_like(bias) if bias is not None and wanted[4] else None
        if ctx.listed is not None:
            lists = call.sparse.unpacked(ctx.listed.lists, kept)
            call.sparse.gradients(lists, q, k, v, g, (dq, dk, dv), slopes, (alpha,), heads.scale)
        generator = call.generator(q.device)
        for block in blocks(heads):
            if ctx.listed is None or not ctx.listed.has(block):
                _differentiate(call, heads, block, generator, g, (dq, dk, dv), slopes, dbias)
        dalpha = None if slopes is None else implicit.sum_to(slopes, alpha)
        found = (x if want else None for x, want in zip((dq, dk, dv), wanted[:3], strict=True))
        return None, None, *found, None, dbias, dalpha


def _solved(call: Call, heads: Heads, block: Block) -> tuple[Tensor, Tensor | None]:
    """p of a block, and what its kernel's backward pass wants to have kept."""
    _, p, notes = call.kernel.forward(scores_of(block, heads), 3, None, (block.alpha(heads.alpha),), True)
    return p, notes


def _by_lists(
    call: Call, listed: Listed, block: Block, p: Tensor, notes: Tensor | None, v: Tensor, out: Tensor, keep: bool
) -> bool:
    """List a block, if it is worth it: for the backward pass, and for the average. Whether that has been written."""
    sparse, (n, m), queries = call.sparse, p.shape[2:], out.shape[2]
    assert sparse is not None
    start = (block.head[0] * out.shape[1] + block.head[1]) * queries
    first = start + block.queries.start
    before = listed.heads.get(block.head, 0)
    wanted = keep and before is not None
    most = int(n * m * (LISTED if wanted else AVERAGED))
    if wanted:
        most = min(most, BUDGET // (2 * p.element_size()) - listed.pairs)
    found = sparse.add(listed.lists, p.view(n, m), notes, first, block.keys.start, most)
    if found is None:
        if wanted:
            # All of a head's queries have lists, or none.
            listed.heads[block.head] = None
            sparse.forget(listed.lists, start, queries)
        return False
    averaged = found <= AVERAGED * n * m
    if averaged:
        sparse.average(listed.lists, v, out, first, n)
    if before is not None and keep:
        listed.heads[block.head] = before + found
    else:
        sparse.forget(listed.lists, first, n)
    return averaged


def _average(block: Block, heads: Heads, p: Tensor, out: Tensor) -> None:
    """Write the rows of a block."""
    rows = folded(p, heads.group)
    part = out[block.batch, block.heads, block.queries]
    part.copy_(torch.bmm(rows, keys_of(block, heads.v, heads.group)).view(part.shape))


def _differentiate(
    call: Call, heads: Heads, block: Block, generator: torch.Generator | None, g: Tensor, out: Sequence[Tensor],
    slopes: Tensor | None, dbias: Tensor | None,
) -> None:  # fmt: skip
    """Add a block's share to the gradients."""
    dq, dk, dv = out
    group = heads.group
    here = (block.batch, block.heads, block.queries)
    p, notes = _solved(call, heads, block)
    saved = p
    g_rows, k, v = folded(g[here], group), keys_of(block, heads.k, group), keys_of(block, heads.v, group)
    dp = torch.bmm(g_rows, v.mT).view(p.shape)
    if generator is not None:
        factor = call.factor(p, generator)
        dp *= factor
        p = p * factor
    dz, moved = call.kernel.backward(saved, dp, 3, (block.alpha(heads.alpha),), notes, (slopes is not None,))
    if slopes is not None and moved[0] is not None:
        slopes[here] = moved[0]
    if dbias is not None:
        part = block.of(dbias)
        part += dz.sum_to_size(part.shape)
    dz_rows = folded(dz, group)
    part = dq[here]
    part.copy_(torch.bmm(dz_rows, k).mul_(heads.scale).view(part.shape))
    _add(block, group, dk, dz_rows, folded(heads.q[here], group), heads.scale)
    _add(block, group, dv, folded(p, group), g_rows, 1.0)


def _add(block: Block, group: int, total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """total += scale left^T right, of the keys of a block."""
    part = shared(block, total, group)
    # The batch entries of a block are all of one, or have all heads: it is a view.
    part.view(-1, *part.shape[2:]).baddbmm_(left.mT, right, alpha=scale)
