"""Other libraries' models; each is imported only when it is asked for."""

from importlib import import_module
from typing import Any

__all__ = ["transformers"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
