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


_SHOWN = 5


class BadLosses(NumericalError):
    """Losses that are NaN.

    Attributes:
        examples: the first of them, in the outermost call of `expectation` that they were traced back to.
        batch: how many examples that call has.
    """

    examples: Tensor
    batch: int


def name_bad_rows(losses: Tensor, index: Tensor, z: Tensor, batch: int, source: str = "loss_fn") -> None:
    """Under `debug_checks`, raise for losses that are NaN, with the first pairs that they came from."""
    if not debugging(losses) or not bool((bad := losses.detach().isnan()).any()):
        return
    where = bad.nonzero()[:_SHOWN, 0]
    error = BadLosses(
        f"{source} returned NaN in {int(bad.sum())} of {len(losses)} rows, the first of (example, z): "
        + _pairs(index, z, where),
        "losses that are numbers",
        f"Look at {source} for these examples of its call of expectation",
    )
    error.examples, error.batch = index[where], batch
    raise error


def tracing(loss_fn: LossFunction, batch: int) -> LossFunction:
    """loss_fn, but an error of a call of `expectation` in it whose examples are its rows names also the pairs that
    these are. With chunks that is the only way to know them.
    """

    def traced(index: Tensor, z: Tensor) -> Tensor:
        try:
            return loss_fn(index, z)
        except BadLosses as inner:
            if inner.batch != len(index):
                raise
            where = inner.examples
            error = BadLosses(
                f"{inner.given}; in the call around it these examples are (example, z): {_pairs(index, z, where)}",
                inner.expected,
                inner.advice,
            )
            error.examples, error.batch = index[where], batch
            raise error from inner

    return traced


def _pairs(index: Tensor, z: Tensor, where: Tensor) -> str:
    return ", ".join(map(str, zip(index[where].tolist(), z[where].tolist(), strict=True)))


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
