"""Which kernel serves a call, and why.

A kernel is a plain function ``(z, *params) -> (p, threshold, *residuals)`` on rows in the last dimension. It declares
from static facts alone whether it supports a call. Order of choice: the ``backend=`` argument, `use_backend`, the
environment variable ``TSALLIS_BACKEND`` (read at import), then priority. A named backend works or raises; nothing is
tried and caught.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import BackendError
from .settings import BACKEND, BACKEND_FROM_ENVIRONMENT
from .structures import ActiveSet

KernelFunction = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Signature:
    """The static facts of a call."""

    device: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    contiguous: bool
    params: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, z: Tensor, *params: Tensor) -> Signature:
        return cls(z.device.type, z.dtype, tuple(z.shape), z.is_contiguous(), tuple(tuple(t.shape) for t in params))


class FusedKernel(Protocol):
    """Forward and backward pass on tensors as they come, with rows along any dimension and parameters as numbers or
    tensors aligned with rows in the last dimension.
    """

    def forward(
        self, z: Tensor, dim: int, mask: Tensor | None, params: Sequence[float | Tensor], train: bool, /
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """p, and with ``train`` what the backward pass wants to have kept: p in at least float32, and something else
        or nothing.
        """
        ...

    def backward(
        self,
        p: Tensor,
        g: Tensor,
        dim: int,
        params: Sequence[float | Tensor],
        kept: Tensor | None,
        wanted: Sequence[bool],
        /,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradient in z, and per row those in the parameters, at least the wanted ones."""
        ...


class Sums(NamedTuple):
    """What a fused loss found in rows of scores z with targets y.

    Attributes:
        p, kept: what the backward pass wants to have kept, as from a `FusedKernel`.
        value: <p, z - z_y> + H(p) = Omega*(z) - z_y.
        slope: its derivative in alpha, if asked for.
        far, mass, classes: sums of w (z - z_y), of w and of 1 over the classes whose score is not -inf, if asked for.
    """

    p: Tensor
    kept: Tensor | None
    value: Tensor
    slope: Tensor | None = None
    far: Tensor | None = None
    mass: Tensor | None = None
    classes: Tensor | None = None


class FusedLoss(Protocol):
    """Forward and backward pass of generalised cross-entropy for contiguous rows of scores. ``index`` names a class per
    row, or IGNORED (nothing is read, everything is 0) or INVALID (everything is NaN).
    """

    def forward(
        self, z: Tensor, index: Tensor, weight: Tensor | None, params: Sequence[float | Tensor], sloped: bool,
        smooth: bool, /,
    ) -> Sums:  # fmt: skip
        """The sums of each row; those for a learned alpha if ``sloped``, those for label smoothing if ``smooth``."""
        ...

    def backward(
        self, z: Tensor | None, p: Tensor, kept: Tensor | None, index: Tensor, weight: Tensor | None, scale: Tensor,
        hit: Tensor, smooth: Tensor | None, /,
    ) -> Tensor:  # fmt: skip
        """scale p - hit e_y - smooth w, the last where the score is not -inf; the numbers are one per row."""
        ...


IGNORED, INVALID = -1, -2


class Lists(NamedTuple):
    """Supports of tokens in an output layer.

    Attributes:
        starts: (N + 1) where each token's list starts.
        values, places: probabilities and words of all lists, each ending with the target and minus its share.
        losses: (N) values of the generalised cross-entropy.
        slopes: (N) their derivatives in alpha, if asked for.
    """

    starts: Tensor
    values: Tensor
    places: Tensor
    losses: Tensor
    slopes: Tensor | None

    @property
    def support(self) -> Tensor:
        """How many words of each token have probability."""
        return self.starts.diff() - 1


class NoLists(NamedTuple):
    """Why there are none."""

    reason: str


class SparseLayer(Protocol):
    """An output layer with its loss, of hidden states (N, h) and a weight (V, h), both contiguous."""

    def half_pays(self, hidden: Tensor, /) -> bool:
        """Whether it is worth to look for supports in half precision first."""
        ...

    def lists(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, params: Sequence[float | Tensor],
        share: float, sloped: bool, half: bool, /,
    ) -> Lists | NoLists:  # fmt: skip
        """The supports, each list with its target and minus ``share`` at the end; or why there are none."""
        ...

    def to_hidden(self, lists: Lists, weight: Tensor, scales: Tensor, /) -> Tensor:
        """Gradient in the hidden states, from those in the losses."""
        ...

    def to_weight(
        self, lists: Lists, hidden: Tensor, vocabulary: int, scales: Tensor, biased: bool, sparse: bool, /
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients in the weight (with ``sparse`` a sparse tensor of the rows in the lists) and in the bias."""
        ...


class SparseAttention(Protocol):
    """Attention whose queries keep lists of the keys they attend to. A row is a query of a head, counted as in a
    contiguous q (B, Hq, Nq, d); k and v are contiguous too.
    """

    def begin(self, rows: int, like: Tensor, /) -> Any:
        """No lists for so many rows."""
        ...

    def add(self, lists: Any, p: Tensor, kept: Tensor | None, first: int, shift: int, most: int, /) -> int | None:
        """List p (n, m), as a `FusedKernel` gives it, of the rows from ``first`` on, its first column being key
        ``shift``. Returns the number of entries; None if there are more than ``most``, which are not listed.
        """
        ...

    def forget(self, lists: Any, first: int, rows: int, /) -> None:
        """Have no lists for these rows."""
        ...

    def packed(self, lists: Any, /) -> tuple[list[Tensor], Any]:
        """Tensors for autograd to keep, and what is left of the lists without them."""
        ...

    def unpacked(self, lists: Any, tensors: Sequence[Tensor], /) -> Any:
        """The lists of both, wherever the tensors are now."""
        ...

    def average(self, lists: Any, v: Tensor, out: Tensor, first: int, rows: int, /) -> None:
        """Write the rows of ``out`` (B, Hq, Nq, dv): sums of p times v."""
        ...

    def gradients(
        self, lists: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor, out: Sequence[Tensor], slopes: Tensor | None,
        params: Sequence[float | Tensor], scale: float, /,
    ) -> None:  # fmt: skip
        """Write the listed rows of dq and, if asked for, of the slopes in alpha; add to dk and dv: ``out`` holds the
        three.
        """
        ...


@dataclass(frozen=True)
class AttentionInputs:
    """Attention as heads see it.

    Attributes:
        q, k, v: (B, Hq, Nq, d), (B, H, Nk, d), (B, H, Nk, dv).
        alpha: a number, or (B or 1, Hq or 1, 1, 1), or a scalar tensor.
        mask: what may be attended to, broadcastable to (B, Hq, Nq, Nk); or None.
        bias: what is added to scores, likewise, in at least float32.
        scale: of scores.
        causal: whether query i sees keys up to i (of its sequence) only.
        ends: where sequences end among queries and keys; one pair if they are not packed.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    alpha: float | Tensor
    mask: Tensor | None
    bias: Tensor | None
    scale: float
    causal: bool
    ends: tuple[tuple[int, ...], tuple[int, ...]]


class FusedAttention(Protocol):
    """Attention with alpha in (1, 2] whose scores are made by the kernel that uses them, forward and backward."""

    def refuses(self, inputs: AttentionInputs, /) -> str | None:
        """None, or the reason why inputs are for other ways; from static facts alone."""
        ...

    def forward(self, inputs: AttentionInputs, train: bool, /) -> tuple[Tensor, list[Tensor]]:
        """The result in the dtype of q; and with ``train`` what the backward pass wants to have kept, else nothing."""
        ...

    def backward(
        self, inputs: AttentionInputs, kept: Sequence[Tensor], g: Tensor, wanted: Sequence[bool], /
    ) -> tuple[Tensor | None, ...]:
        """The wanted gradients in q, k, v and, of each row (B, Hq, Nq, 1), in alpha."""
        ...


@dataclass(frozen=True)
class Kernel:
    """One way to compute a mapping. ``supports`` returns None, or the reason why it cannot; ``fused`` (a function that
    makes it, called once) serves plain eager calls without detours, ``loss`` those of generalised cross-entropy,
    ``layer`` those of an output layer with it, ``attention`` those of attention with lists, ``whole_attention``
    those of attention altogether, ``active_set`` is SparseMAP.
    """

    backend: str
    function: KernelFunction
    priority: int
    supports: Callable[[Signature], str | None]
    fused: Callable[[], FusedKernel] | None = None
    loss: Callable[[], FusedLoss] | None = None
    layer: Callable[[], SparseLayer] | None = None
    attention: Callable[[], SparseAttention] | None = None
    whole_attention: Callable[[], FusedAttention] | None = None
    active_set: Callable[[], ActiveSet] | None = None


@dataclass(frozen=True)
class Decision:
    """One row of the table of decisions."""

    backend: str
    chosen: bool
    reason: str


_KERNELS: dict[str, list[Kernel]] = {}
# By mapping, dtype, device and form: the fused forms of the kernels that serve such calls by backend, the first under
# None.
_FUSED: dict[tuple[Any, ...], dict[str | None, Any]] = {}


def add_kernel(mapping: str, kernel: Kernel) -> None:
    """Offer a kernel for a mapping."""
    kernels = _KERNELS.setdefault(mapping, [])
    kernels.append(kernel)
    kernels.sort(key=lambda k: -k.priority)
    _forget(mapping)


def _forget(mapping: str) -> None:
    for key in [key for key in _FUSED if key[0] == mapping]:
        del _FUSED[key]


def remove_kernels(mapping: str) -> None:
    """Forget all kernels of a mapping."""
    _KERNELS.pop(mapping, None)
    _forget(mapping)


def fitting(mapping: str, signature: Signature) -> list[Kernel]:
    """The kernels that support a call, best first."""
    return [kernel for kernel in _KERNELS[mapping] if kernel.supports(signature) is None]


def fused(mapping: str, z: Tensor, backend: str | None) -> FusedKernel | None:
    """The fused form of the kernel that serves rows like these, if it has one.

    For rows with entries: kernels decide by device and dtype alone.
    """
    return _form(mapping, z, backend, "fused")


def fused_loss(mapping: str, z: Tensor, backend: str | None) -> FusedLoss | None:
    """The same for generalised cross-entropy."""
    return _form(mapping, z, backend, "loss")


def sparse_layer(mapping: str, z: Tensor, backend: str | None) -> SparseLayer | None:
    """The same for an output layer."""
    return _form(mapping, z, backend, "layer")


def sparse_attention(mapping: str, z: Tensor, backend: str | None) -> SparseAttention | None:
    """The same for attention with lists."""
    return _form(mapping, z, backend, "attention")


def fused_attention(mapping: str, z: Tensor, backend: str | None) -> FusedAttention | None:
    """The same for attention altogether."""
    return _form(mapping, z, backend, "whole_attention")


def active_set(x: Tensor, backend: str | None) -> ActiveSet | None:
    """SparseMAP for scores like these, if there is a kernel for it."""
    return _form("sparsemap", x, backend, "active_set")


def _form(mapping: str, z: Tensor, backend: str | None, form: str) -> Any:
    key = (mapping, z.dtype, z.is_cpu, z.is_cuda, form)
    if (found := _FUSED.get(key)) is None:
        kernels = fitting(mapping, Signature.of(z))
        makers = {kernel.backend: getattr(kernel, form) for kernel in kernels}
        found = _FUSED[key] = {name: None if make is None else make() for name, make in makers.items()}
        found[None] = next(iter(found.values()), None)
    if backend is None and BACKEND.value is None and BACKEND_FROM_ENVIRONMENT.value is None:
        return found[None]
    return found.get(_requested(backend)[0])


def backends(mapping: str) -> tuple[str, ...]:
    """Names of the backends that exist for a mapping, best first."""
    return tuple(k.backend for k in _KERNELS[mapping])


def _requested(backend: str | None) -> tuple[str | None, str]:
    if backend is not None:
        return backend, "asked for by backend="
    if BACKEND.value is not None:
        return BACKEND.value, "asked for by use_backend"
    if BACKEND_FROM_ENVIRONMENT.value is not None:
        return BACKEND_FROM_ENVIRONMENT.value, "asked for by TSALLIS_BACKEND"
    return None, "highest priority that supports the call"


def decide(mapping: str, signature: Signature, backend: str | None = None) -> tuple[Kernel | None, list[Decision]]:
    """The kernel to use (None if there is none), and what was decided about each."""
    wanted, why = _requested(backend)
    chosen: Kernel | None = None
    table: list[Decision] = []
    for kernel in _KERNELS[mapping]:
        if (reason := kernel.supports(signature)) is not None:
            table.append(Decision(kernel.backend, False, reason))
        elif wanted is not None and kernel.backend != wanted:
            table.append(Decision(kernel.backend, False, f"{wanted!r} was {why}"))
        elif chosen is not None:
            table.append(Decision(kernel.backend, False, f"{chosen.backend} comes first"))
        else:
            chosen = kernel
            table.append(Decision(kernel.backend, True, why))
    return chosen, table


def choose(mapping: str, signature: Signature, backend: str | None = None) -> KernelFunction:
    """The function that serves a call, or `BackendError` with every backend's reason."""
    kernel, table = decide(mapping, signature, backend)
    if kernel is None:
        wanted, why = _requested(backend)
        reasons = "; ".join(f"{d.backend}: {d.reason}" for d in table)
        raise BackendError(
            f"Backend {wanted!r} ({why}) for {mapping} on {signature.device}, {signature.dtype}",
            f"one of {', '.join(backends(mapping))} ({reasons})",
            "Name another backend or none",
        )
    return kernel.function
