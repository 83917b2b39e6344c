"""Evaluating a loss only at the pairs (example, latent value) that have probability."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributed
from torch.utils.checkpoint import checkpoint

from ..core.errors import NumericalError, ShapeError, TsallisError
from ..core.guard import debugging
from .latents import wide
from .steps import Part, Step

LossFunction = Callable[[Tensor, Tensor], Tensor]


def evaluate(loss_fn: LossFunction, index: Tensor, z: Tensor, max_rows: int | None) -> Tensor:
    """loss_fn(index, z) of shape (R,), in one call, or in chunks whose activations are recomputed in the backward pass.

    Chunks run under activation checkpointing, with the random state of their first run, so memory is that of one chunk
    and the values and gradients are those of the chunks' own calls. Estimators in loss_fn see one step.
    """
    rows = index.shape[0]
    if max_rows is None or rows <= max_rows:
        return _checked(loss_fn(index, z), rows)
    chunks = zip(index.split(max_rows), z.split(max_rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_checked(loss_fn(i, v), i.shape[0]) for i, v in chunks])
    step = Step()
    losses = [_checked(checkpoint(_within(step, loss_fn), i, v, use_reentrant=False), i.shape[0]) for i, v in chunks]
    step.end()
    return torch.cat(losses)


def _within(step: Step, loss_fn: LossFunction) -> LossFunction:
    part = Part(step)

    def run(index: Tensor, z: Tensor) -> Tensor:
        with part.run():
            return loss_fn(index, z)

    return run


def _checked(loss: object, rows: int) -> Tensor:
    if not isinstance(loss, Tensor):
        raise TsallisError(
            f"loss_fn returned {type(loss).__name__}", "a tensor of one loss per row", "Return the losses"
        )
    if loss.is_complex():
        raise TsallisError(f"loss_fn returned {loss.dtype}", "real losses", "Return their real part, or modulus")
    if tuple(loss.shape) != (rows,):
        raise ShapeError(
            f"loss_fn returned shape {tuple(loss.shape)} for {rows} rows",
            f"({rows},), one loss for each pair of an example and a latent value",
            "Sum over features inside loss_fn, not over rows",
        )
    # A 0/1 loss may be a comparison.
    return wide(loss if loss.is_floating_point() else loss.to(torch.get_default_dtype()))


def name_bad_rows(losses: Tensor, index: Tensor, z: Tensor) -> None:
    """Under `debug_checks`, raise for losses that are NaN, with the first pairs that they came from."""
    if not debugging(losses) or not bool((bad := losses.detach().isnan()).any()):
        return
    pairs = list(zip(index[bad][:_SHOWN].tolist(), z[bad][:_SHOWN].tolist(), strict=True))
    raise NumericalError(
        f"loss_fn returned NaN in {int(bad.sum())} of {len(losses)} rows, the first of (example, z): "
        + ", ".join(map(str, pairs)),
        "losses that are numbers",
        "Look at loss_fn for these examples and values",
    )


_SHOWN = 5


def support_pairs(p: Tensor) -> tuple[Tensor, Tensor]:
    """(index, z) of the entries p > 0, in ascending order of the example. Waits for the device once: R is a value."""
    index, z = (p.detach() > 0).nonzero(as_tuple=True)
    return index, z


def scatter(weighted: Tensor, index: Tensor, batch: int) -> Tensor:
    """Sums of the rows of each example, (B,); an example without rows gets 0."""
    return weighted.new_zeros(batch).index_add(0, index, weighted)


def across_processes() -> bool:
    """Whether this is one of several processes that train one model."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
