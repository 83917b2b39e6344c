"""Mappings as modules: one class per registered mapping, made from the registry."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ..core.errors import ParameterError
from ..core.registry import get
from ..mappings import tvmax


class ParameterHolder(nn.Module):
    """Keeps a mapping's parameters: numbers as they are, tensors as buffers, `nn.Parameter` and modules (such as
    `Alpha`) as themselves.
    """

    def hold(self, params: dict[str, Any]) -> None:
        self._names = tuple(params)
        for name, value in params.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                if value.requires_grad:
                    raise ParameterError(
                        f"{name}: a tensor that requires a gradient",
                        "nn.Parameter, ts.nn.Alpha or a constant",
                        f"Wrap it: nn.Parameter({name})",
                    )
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def held(self) -> dict[str, Any]:
        """The parameters' present values."""
        values = {name: getattr(self, name) for name in self._names}
        return {name: value() if isinstance(value, nn.Module) else value for name, value in values.items()}

    def extra_repr(self) -> str:
        shown = [
            f"{name}={getattr(self, name)}"
            for name in self._names
            if not isinstance(getattr(self, name), Tensor | nn.Module)
        ]
        return ", ".join(shown)


class MappingModule(ParameterHolder):
    """A mapping as a module; subclasses are made by `module_class`.

    Args:
        dim: the dimension the mapping works along.
        backend: name of the backend to use; None chooses.
        **params: the mapping's parameters, each a number, a tensor (becomes a buffer), an `nn.Parameter`, or a module
            that returns one (`ts.nn.Alpha`).
    """

    mapping: ClassVar[str]

    def __init__(self, *, dim: int = -1, backend: str | None = None, **params: Any) -> None:
        super().__init__()
        mapping = get(self.mapping)
        mapping.check_names(params)
        self.dim, self.backend = dim, backend
        self.hold({p.name: p.default for p in mapping.params} | params)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        return get(self.mapping)(z, self.dim, mask=mask, backend=self.backend, **self.held())

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [super().extra_repr(), f"dim={self.dim}"]))

    def __reduce__(self) -> tuple[Any, ...]:
        # Classes are made at run time: pickle by the mapping's name.
        return _blank, (self.mapping,), self.__dict__


def _blank(mapping: str) -> MappingModule:
    module = module_class(mapping).__new__(module_class(mapping))
    nn.Module.__init__(module)
    return module


_CLASSES: dict[str, type[MappingModule]] = {}


def module_class(mapping: str) -> type[MappingModule]:
    """The module class of a registered mapping: ``topk_sparsemax`` becomes ``TopkSparsemax``."""
    get(mapping)
    if mapping not in _CLASSES:
        name = "".join(part.capitalize() for part in mapping.split("_"))
        doc = f"`ts.{mapping}` as a module. {get(mapping).summary}\n\n{MappingModule.__doc__}"
        _CLASSES[mapping] = type(
            name, (MappingModule,), {"mapping": mapping, "__doc__": doc, "__module__": "tsallis.nn"}
        )
    return _CLASSES[mapping]


class Tvmax(ParameterHolder):
    """`ts.tvmax` as a module.

    Args:
        lam: a number, a tensor (becomes a buffer), an `nn.Parameter`, or a module that returns one.
        dim: the two dimensions of the grid.
        tol, max_iter: as in `ts.tvmax`.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.nn.Tvmax(lam=0.1)(torch.tensor([[1.0, 0.9], [0.2, -0.5]]))
        tensor([[0.5000, 0.5000],
                [0.0000, 0.0000]])
    """

    def __init__(
        self, lam: Any = 1.0, *, dim: tuple[int, int] = (-2, -1), tol: float = 1e-12, max_iter: int = 1000
    ) -> None:
        super().__init__()
        self.dim, self.tol, self.max_iter = dim, tol, max_iter
        self.hold({"lam": lam})

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        return tvmax(z, dim=self.dim, mask=mask, tol=self.tol, max_iter=self.max_iter, **self.held())

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [super().extra_repr(), f"dim={self.dim}"]))
