"""Attention whose scores never leave the kernels: what they are started with."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ...core.dispatch import AttentionInputs
from . import attention, attention_gradients
from .attention_tiles import NOTES, PART
from .calls import Simplex, power_of_2, start

# Widths of heads, and bytes of shared memory that the kernels need for them.
ROOM = ((128, 99 * 1024), (256, 160 * 1024))
# Sums of p that are less off than this are divided out without a trace in half precision.
ENOUGH = 2.0**-18
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Shape(NamedTuple):
    """Tiles of M queries by N keys, the same in both passes: one says to the other where there is support. The warps
    that share one, and how many blocks are in shared memory or on their way there, forward and backward.
    """

    M: int
    N: int
    warps: int
    warps_back: int
    stages: int
    stages_back: int


def shape_of(queries: int, width: int, narrow: bool) -> Shape:
    """What fits into registers, in half precision (``narrow``) or float32, and was fastest on an H200. Warps that share
    rows wait for each other in every block: with eight of them most kernels take twice the time.
    """
    most = 64 if narrow else 32
    M, N = min(most, power_of_2(queries)), most if width <= 128 else most // 2
    if narrow:
        return Shape(M, N, 4, 4, 3 if width <= 128 else 2, 3 if width <= 64 else 2)
    return Shape(M, N, 4, 4 if width <= 64 else 8, 2, 2)


def _room(x: Tensor) -> int:
    """Bytes of shared memory that a program may have where a tensor is."""
    if not x.is_cuda:
        return ROOM[-1][1]
    known = torch.cuda.get_device_properties(x.device)
    return getattr(known, "shared_memory_per_block_optin", known.shared_memory_per_block)


class Task(NamedTuple):
    """What all kernels of a call are started with."""

    tensors: dict[str, Any]
    sizes: dict[str, Any]
    shape: Shape


class Attention:
    """`core.dispatch.FusedAttention` of a member of the family."""

    def __init__(self, simplex: Simplex) -> None:
        self.simplex = simplex

    def refuses(self, inputs: AttentionInputs) -> str | None:
        q, v = inputs.q, inputs.v
        if q.dtype not in DTYPES:
            return f"for half precision and float32, not {q.dtype}"
        width = max(q.shape[3], v.shape[3])
        needed = [room for widest, room in ROOM if width <= widest]
        if not needed:
            return f"for heads of up to {ROOM[-1][0]} numbers"
        if needed[0] > _room(q):
            return f"heads of {width} numbers need {needed[0]} bytes of shared memory"
        if inputs.bias is not None and inputs.bias.requires_grad and torch.is_grad_enabled():
            return "what is added to scores gets no gradient"
        return None

    def forward(self, inputs: AttentionInputs, train: bool) -> tuple[Tensor, list[Tensor]]:
        task, q, keys = self._task(inputs), inputs.q, inputs.k.shape[2]
        out = q.new_empty(*q.shape[:3], inputs.v.shape[3])
        tiles, blocks = task.sizes["tiles"], task.sizes["blocks"]
        heads = q.shape[0] * q.shape[1]
        # Keys that no query of a tile sees are not visited: their codes are 0 from the start.
        parts = task.shape.M // PART.value
        codes = (torch.zeros if train else torch.empty)(heads, tiles, blocks, parts, dtype=torch.uint8, device=q.device)
        notes = q.new_empty(heads, q.shape[2], NOTES.value, dtype=torch.float32) if train else None
        tolerance = max((2.0 + sqrt(keys) / 16.0) * 2.0**-23, 0.0 if q.dtype == torch.float32 else ENOUGH)
        start(
            attention.attend, (heads * tiles,), q, **task.tensors, **task.sizes, out=out, notes=notes, codes=codes,
            lists=_lists(codes[..., 0], blocks), tolerance=tolerance, num_warps=task.shape.warps,
            num_stages=task.shape.stages,
        )  # fmt: skip
        return out, [] if notes is None else [codes, notes, out]

    def backward(
        self, inputs: AttentionInputs, kept: Sequence[Tensor], g: Tensor, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        task, (q, k, v), (codes, notes, out) = self._task(inputs, g), (inputs.q, inputs.k, inputs.v), kept
        dq, dk, dv = (
            torch.empty_like(x, memory_format=torch.contiguous_format) if want else None
            for x, want in zip((q, k, v), wanted[:3], strict=True)
        )
        slopes = q.new_empty(*q.shape[:3], 1, dtype=torch.float32) if wanted[3] else None
        means = q.new_empty(q.shape[:3], dtype=torch.float32)
        tiles, blocks = task.sizes["tiles"], task.sizes["blocks"]
        same = {**task.tensors, **task.sizes, "codes": codes, "notes": notes, "means": means}
        if dq is not None or dk is not None or slopes is not None:
            start(
                attention_gradients.to_queries, (len(codes) * tiles,), q, **same, out=out,
                lists=_lists(codes[..., 0], blocks), dq=dq, slopes=slopes, num_warps=task.shape.warps_back,
                num_stages=task.shape.stages_back,
            )  # fmt: skip
        if dk is not None or dv is not None:
            owners = k.shape[0] * k.shape[1] * blocks
            lists = _lists(codes.new_empty(owners, tiles), tiles)
            start(
                attention_gradients.to_keys, (owners,), q, **same, lists=lists, dk=dk, dv=dv,
                num_warps=task.shape.warps_back, num_stages=task.shape.stages_back,
            )  # fmt: skip
        return dq, dk, dv, slopes

    def _task(self, inputs: AttentionInputs, g: Tensor | None = None) -> Task:
        q, k, v = (_laid_out(x) for x in (inputs.q, inputs.k, inputs.v))
        (batch, heads, queries, width), (_, shared, keys, depth) = q.shape, v.shape
        whole, narrow = (batch, heads, queries, keys), q.dtype != torch.float32
        shape = shape_of(queries, power_of_2(max(width, depth)), narrow)
        mask = None if inputs.mask is None else inputs.mask.expand(whole).view(torch.uint8)
        bias = None if inputs.bias is None else inputs.bias.expand(whole)
        kind, (number, alpha) = self.simplex.kind_of((inputs.alpha,), q)
        if alpha is not None:
            alpha = alpha.expand(batch, heads, 1, 1).contiguous()
        lows, highs = _ranges(inputs.ends, inputs.causal, q.device)
        tensors = {"q": q, "k": k, "v": v, "mask": mask, "bias": bias, "alpha": alpha, "lows": lows, "highs": highs}
        strides = [*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]]
        if g is not None:
            tensors["g"] = g = _laid_out(g)
        strides += [0] * 3 if g is None else g.stride()[:3]
        for x in (mask, bias):
            strides += [0] * 4 if x is None else x.stride()
        sizes = {
            "number": number, "where": tuple(strides), "scale": inputs.scale, "queries": queries, "keys": keys,
            "heads": heads, "group": heads // shared, "tiles": triton.cdiv(queries, shape.M),
            "blocks": triton.cdiv(keys, shape.N), "CAUSAL": inputs.causal, "KIND": kind, "M": shape.M, "N": shape.N,
            "WIDTH": width, "D": power_of_2(width), "DEPTH": depth, "DV": power_of_2(depth),
        }  # fmt: skip
        return Task(tensors, sizes, shape)


def _laid_out(x: Tensor) -> Tensor:
    """The same with the numbers of a row side by side."""
    return x if x.stride(3) == 1 else x.contiguous()


def _ranges(
    ends: tuple[tuple[int, ...], tuple[int, ...]], causal: bool, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Which keys [low, high) each query of packed sequences sees."""
    if len(ends[0]) == 1:
        return None, None
    stop_q, stop_k = (torch.tensor(x, dtype=torch.int32) for x in ends)
    begin_q, begin_k = (torch.cat([x.new_zeros(1), x[:-1]]) for x in (stop_q, stop_k))
    own = torch.repeat_interleave(torch.arange(len(stop_q)), (stop_q - begin_q).long())
    low, high = begin_k[own], stop_k[own]
    if causal:
        place = torch.arange(len(own), dtype=torch.int32) - begin_q[own]
        high = torch.minimum(high, low + place + 1)
    return low.to(device), high.to(device)


def _lists(like: Tensor, longest: int) -> Tensor:
    """Room for a list in the place of each row."""
    return torch.empty_like(like, dtype=torch.int16 if longest < 2**15 else torch.int32)
