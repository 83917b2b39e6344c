"""An output layer and its loss in one: never N x V scores at once, and no more gradient than there is support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..core import dispatch, implicit
from ..core.dispatch import Lists
from ..core.fused import is_plain, through_formula
from ..core.mapping import Mapping
from ..kernels.output_layer import sparse_rows
from .cross_entropy import generalised_cross_entropy

Number = float | Tensor
Method = Literal["lists", "screened", "dense"]
# Vocabularies below this are not worth lists.
LARGE = 2048
# Bytes of scores that dense chunks hold at once: little enough for a cache, or enough to keep a GPU busy.
CHUNK, CHUNK_ELSEWHERE = 2**24, 2**27
# The fewest tokens of a chunk: with fewer, products spend their time on reading the weight.
FEWEST = 128


@dataclass
class LinearReport:
    """How an output layer was computed.

    Attributes:
        path: "lists" (only the support is kept), "screened" (the same, found in half precision first), "dense" (chunks
            of all scores), or "whole" (all scores at once: inside function transforms).
        reason: why this path.
        support: mean number of words with probability, where lists say it.
    """

    path: str = "whole"
    reason: str = ""
    support: float | None = None


@dataclass(frozen=True)
class Layer:
    """What does not depend on the batch."""

    mapping: Mapping
    amount: float
    sparse_grad: bool
    method: Method | None
    backend: str | None
    # Whether gradients may be asked for: inside a Function's forward pass PyTorch does not say.
    recorded: bool
    # Of the factors of products in dense chunks, under autocast; None for that of the hidden states.
    factors: torch.dtype | None
    report: LinearReport = field(compare=False)

    def whole(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number]
    ) -> Tensor:
        """Losses by the formula, differentiable as often as one likes."""
        return self.of_scores(functional.linear(hidden, weight, bias), index, params)

    def of_scores(self, z: Tensor, index: Tensor, params: Sequence[Number]) -> Tensor:
        named: dict[str, Any] = {p.name: rowless(x) for p, x in zip(self.mapping.params, params, strict=True)}
        return generalised_cross_entropy(
            self.mapping, z, index, reduction="none", label_smoothing=self.amount, backend=self.backend, **named
        )

    def lists(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number], sloped: bool
    ) -> tuple[Lists, dispatch.SparseLayer] | None:
        """The supports, if this is a case for them."""
        report, kernel = self.report, dispatch.sparse_layer(self.mapping.name, hidden, self.backend)
        if self.method == "dense":
            report.reason = "asked for"
        elif kernel is None:
            report.reason = f"no kernel for {hidden.dtype} on {hidden.device.type} makes lists"
        elif len(weight) < LARGE:
            report.reason = f"a vocabulary of {len(weight)} is too small for lists"
        elif not all(bool(((x > 1) & (x < torch.inf)).all()) if isinstance(x, Tensor) else x > 1 for x in params):
            report.reason = "alpha is not above 1 everywhere"
        elif self.amount and bias is not None and not bool(bias.isfinite().all()):
            report.reason = "smoothing leaves words out whose score is -inf"
        else:
            half = hidden.dtype == torch.float32 and (
                self.method == "screened" or (self.method is None and kernel.half_pays(hidden))
            )
            found = kernel.lists(hidden, weight, bias, index, params, 1 - self.amount, sloped, half)
            if half and self.method is None and bias is not None and not isinstance(found, Lists):
                # Large biases may be too much for half precision only.
                half = False
                found = kernel.lists(hidden, weight, bias, index, params, 1 - self.amount, sloped, half)
            if isinstance(found, Lists):
                report.path, report.support = "screened" if half else "lists", float(found.support.double().mean())
                report.reason = "asked for" if self.method else "half precision is faster here" if half else "zeros"
                return found, kernel
            report.reason = found.reason
        report.path = "dense"
        return None


def rowless(x: Number) -> Number:
    """A parameter without the dimension that lines it up with scores."""
    return x.squeeze(-1) if isinstance(x, Tensor) and x.dim() else x


class Gradients:
    """Sums of gradients over chunks of scores, in the dtypes of hidden states, weight and bias."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> None:
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight) if wanted[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None

    def add(self, rows: slice, dz: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Of a chunk of scores, with hidden states and weight as they were multiplied."""
        if self.bias is not None:
            self.bias += dz.sum(0)
        dz = dz.to(weight.dtype)
        if self.hidden is not None:
            self.hidden[rows] = dz @ weight
        if self.weight is not None:
            if dz.dtype == self.weight.dtype:
                self.weight.addmm_(dz.t(), hidden[rows])
            else:
                self.weight += dz.t() @ hidden[rows]

    def scale(self, factor: Tensor) -> None:
        """Multiply all of them."""
        for t in (self.hidden, self.weight, self.bias):
            if t is not None:
                t *= factor


def dense(
    layer: Layer, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[Number],
    g: Tensor | None, wanted: Sequence[bool],
) -> tuple[Tensor, Gradients | None, list[Tensor | None]]:  # fmt: skip
    """Losses chunk by chunk; with g, also gradients, and those in the parameters by row."""
    chunk = CHUNK if hidden.is_cpu else CHUNK_ELSEWHERE
    rows = max(FEWEST, chunk // (weight.element_size() * max(len(weight), 1)))
    gradients = None if g is None else Gradients(hidden, weight, bias, wanted)
    compute = hidden.dtype
    if layer.factors is not None:
        hidden, weight = hidden.to(layer.factors), weight.to(layer.factors)
        bias = None if bias is None else bias.to(layer.factors)
    losses: list[Tensor] = []
    slopes: list[list[Tensor]] = [[] for _ in params]
    for begin in range(0, len(hidden), rows):
        chosen = slice(begin, begin + rows)
        z = functional.linear(hidden[chosen], weight, bias).to(compute)
        own = [x[chosen] if isinstance(x, Tensor) and x.dim() else x for x in params]
        if g is None or gradients is None:
            losses.append(layer.of_scores(z, index[chosen], own))
            continue
        with torch.enable_grad():
            z.requires_grad_()
            own = [
                x.expand(len(z), 1).clone().requires_grad_() if want and isinstance(x, Tensor) else x
                for x, want in zip(own, wanted[3:], strict=True)
            ]
            loss = layer.of_scores(z, index[chosen], own)
            moving = [x for x in own if isinstance(x, Tensor) and x.requires_grad]
            dz, *found = torch.autograd.grad(loss, [z, *moving], g[chosen])
        losses.append(loss.detach())
        gradients.add(chosen, dz, hidden, weight)
        rest = iter(found)
        for x, slope in zip(own, slopes, strict=True):
            if isinstance(x, Tensor) and x.requires_grad:
                slope.append(next(rest))
    return torch.cat(losses), gradients, [torch.cat(s) if s else None for s in slopes]


class LinearLoss(torch.autograd.Function):
    """(layer, hidden, weight, bias, index, *params) -> losses."""

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, *params: Number
    ) -> Tensor:
        wanted = [want and layer.recorded for want in (*ctx.needs_input_grad[1:4], *ctx.needs_input_grad[5:])]
        found = layer.lists(hidden, weight, bias, index, params, any(wanted[3:]))
        ctx.layer, ctx.found, ctx.dense = layer, None, None
        if found is None:
            # With equal weights for all losses, as a mean or a sum asks for: then scores are computed only once.
            g = hidden.new_ones(len(hidden)) if any(wanted) else None
            losses, *ctx.dense = dense(layer, hidden, weight, bias, index, params, g, wanted)
        else:
            losses = found[0].losses
            # Without the losses: they are what is returned, and would keep themselves alive.
            ctx.found = found[0]._replace(losses=losses.new_empty(0)), found[1]
            if layer.amount:
                losses = losses - layer.amount * _behind_the_mean(hidden, weight, bias, index)
        ctx.params = tuple(None if isinstance(x, Tensor) else x for x in params)
        ctx.save_for_backward(hidden, weight, bias, index, *[x for x in params if isinstance(x, Tensor)])
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        with torch.autocast(grads[0].device.type, enabled=False):
            return LinearLoss._backward(ctx, *grads)

    @staticmethod
    def _backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        g, layer, (hidden, weight, bias, index, *tensors) = grads[0], ctx.layer, ctx.saved_tensors
        rest = iter(tensors)
        params = [next(rest) if x is None else x for x in ctx.params]
        wanted = [*ctx.needs_input_grad[1:4], *ctx.needs_input_grad[5:]]
        if torch.is_grad_enabled() or not is_plain(g):
            return None, *through_formula(
                lambda hidden, weight, bias, index, *params: layer.whole(hidden, weight, bias, index, params), g,
                (hidden, weight, bias, index, *params), [*wanted[:3], False, *wanted[3:]],
            )  # fmt: skip
        # Hooks on saved tensors may have laid them out otherwise.
        g, hidden, weight = g.contiguous(), hidden.contiguous(), weight.contiguous()
        if ctx.found is not None:
            dhidden, dweight, dbias, slopes = _from_lists(ctx.found, layer, g, hidden, weight, bias, index, wanted)
        else:
            # Handed out as they are: should somebody ask again, they are computed again.
            gradients, slopes = ctx.dense or (None, [])
            ctx.dense = None
            if gradients is None or not bool((g == g[0]).all()):
                _, gradients, slopes = dense(layer, hidden, weight, bias, index, params, g, wanted)
            elif float(g[0]) != 1:
                gradients.scale(g[0])
                slopes = [None if s is None else s * g[0] for s in slopes]
            assert gradients is not None
            dhidden, dweight, dbias = gradients.hidden, gradients.weight, gradients.bias
        if layer.sparse_grad and dweight is not None and not dweight.is_sparse:
            dweight = sparse_rows(torch.arange(len(dweight), device=dweight.device), dweight, len(dweight))
        return None, dhidden, dweight, dbias, None, *[
            implicit.sum_to(s, x) if s is not None and isinstance(x, Tensor) else None
            for s, x in zip(slopes, params, strict=True)
        ]  # fmt: skip


def _behind_the_mean(hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor) -> Tensor:
    """Mean score less that of the target."""
    behind = (hidden * (weight.mean(0) - weight[index])).sum(1)
    return behind if bias is None else behind + (bias.mean() - bias[index])


def _from_lists(
    found: tuple[Lists, dispatch.SparseLayer], layer: Layer, g: Tensor, hidden: Tensor, weight: Tensor,
    bias: Tensor | None, index: Tensor, wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor | None]]:  # fmt: skip
    lists, kernel = found
    share = layer.amount / len(weight)
    dhidden, dweight, dbias = None, None, None
    if wanted[0]:
        dhidden = kernel.to_hidden(lists, weight, g)
        if layer.amount:
            dhidden.addr_(g, weight.mean(0), alpha=-layer.amount)
    if wanted[1] or wanted[2]:
        biased = bias is not None and wanted[2]
        dweight, dbias = kernel.to_weight(lists, hidden, len(weight), g, biased, layer.sparse_grad)
        if layer.amount:
            dweight -= share * (g @ hidden)
            dbias = None if dbias is None else dbias - share * g.sum()
    slopes = [None if lists.slopes is None or not want else (g * lists.slopes).unsqueeze(1) for want in wanted[3:]]
    return dhidden, dweight if wanted[1] else None, dbias, slopes
