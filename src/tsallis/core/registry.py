"""Mappings by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from . import dispatch
from .errors import RegistryError
from .guard import guarded
from .implicit import define_operator
from .mapping import Mapping

M = TypeVar("M", bound=Mapping)

_MAPPINGS: dict[str, Mapping] = {}
_LIBRARIES: dict[str, torch.library.Library] = {}


def register(mapping: M) -> M:
    """Make a mapping known: its reference kernel, its operator ``torch.ops.tsallis.<name>``, and everything derived
    from the registry.
    """
    name = mapping.name
    if not name.isidentifier():
        raise RegistryError(f"Mapping name {name!r}", "a Python identifier", "Rename it")
    if name in _MAPPINGS:
        raise RegistryError(f"Mapping name {name!r} registered twice", "a new name", "Rename one of them")
    dispatch.add_kernel(name, dispatch.Kernel("reference", guarded(mapping), 0, lambda signature: None))
    _LIBRARIES[name] = define_operator(mapping)
    _MAPPINGS[name] = mapping
    return mapping


def unregister(name: str) -> None:
    """Forget a mapping, so that tests can register throw-away ones."""
    get(name)
    del _MAPPINGS[name]
    dispatch.remove_kernels(name)
    _LIBRARIES.pop(name)._destroy()
    vars(torch.ops.tsallis).pop(name, None)


@contextmanager
def registered(mapping: M) -> Iterator[M]:
    """A mapping registered for the length of a ``with`` block."""
    try:
        yield register(mapping)
    finally:
        unregister(mapping.name)


def get(mapping: str | Mapping) -> Mapping:
    """The mapping of that name."""
    if isinstance(mapping, Mapping):
        return mapping
    if mapping not in _MAPPINGS:
        raise RegistryError(
            f"Mapping {mapping!r}", f"one of: {', '.join(names())}", "Check the spelling, or register it first"
        )
    return _MAPPINGS[mapping]


def names() -> tuple[str, ...]:
    """All registered names, in order of registration."""
    return tuple(_MAPPINGS)
