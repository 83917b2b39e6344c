"""What the backends that are compiled have in common in offering their kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

from ..core.dispatch import Kernel, Signature, add_kernel


@cache
def missing(package: str, least: tuple[int, int] = (0, 0)) -> str | None:
    """None if a package can be imported and is new enough, by the first two numbers of its version."""
    try:
        found = find_spec(package) is not None
    except (ImportError, ValueError):
        # Somebody made it unavailable on purpose.
        found = False
    if not found:
        return f"{package} is not installed: pip install {package}"
    try:
        there = version(package)
    except PackageNotFoundError:
        # Put beside the code by hand: taken as it is.
        return None
    numbers = tuple(int(n) for n in there.split(".")[:2] if n.isdigit())
    return f"{package} {'.'.join(map(str, least))} or newer is needed, not {there}" if numbers < least else None


def reason_against(signature: Signature) -> str | None:
    """None, or why a call is for no compiled kernel at all."""
    if 0 in signature.shape:
        return "for at least one row and one entry"
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "torch.jit.trace records operations of torch only"
    return None


def offer(
    mapping: str,
    backend: str,
    priority: int,
    supports: Callable[[Signature], str | None],
    module: str,
    kind: str,
    loss: str | None = None,
    layer: str | None = None,
    attention: str | None = None,
    whole_attention: str | None = None,
    **options: Any,
) -> None:
    """Add the kernel of a mapping: a class in the module ``kernels.<backend>.<module>``, imported when first used; and
    the classes in ``loss_calls``, ``linear_calls`` and ``attention_calls`` that make a loss, an output layer and
    both kinds of attention of it, if there are.
    """

    @cache
    def make() -> Any:
        return getattr(import_module(f".{backend}.{module}", __package__), kind)(**options)

    def made_of_it(module: str, kind: str | None) -> Any:
        """A function that makes something of the kernel, once."""
        if kind is None:
            return None
        return cache(lambda: getattr(import_module(f".{backend}.{module}", __package__), kind)(make()))

    add_kernel(
        mapping,
        Kernel(
            backend, lambda z, *params: make()(z, *params), priority, supports, make,
            made_of_it("loss_calls", loss), made_of_it("linear_calls", layer),
            made_of_it("attention_calls", attention), made_of_it("attention_calls", whole_attention),
        ),
    )  # fmt: skip
