"""What the distributions have in common: checked and expanded parameters, points with zeros, the way into Pyro."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from ...core.errors import ParameterError, ShapeError, TsallisError
from ...core.inputs import check_tensor, is_number
from ...core.numerics import compute_dtype


class FormulaError(TsallisError, NotImplementedError):
    """No formula is known for what was asked. Also a NotImplementedError, by which callers of torch.distributions know
    that they have to sample.
    """


class _SparseSimplex(constraints.Constraint):
    """Like torch's simplex, which no row in half precision meets: summed in double precision, with a tolerance of the
    dtype. NaN and rows of zeros do not pass.
    """

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        tolerance = max(1e-6, 4 * torch.finfo(value.dtype).eps) if value.is_floating_point() else 0.0
        total = value.to(compute_dtype(value)).sum(-1)
        return (value >= 0).all(-1) & ((total - 1).abs() <= tolerance)


class All(constraints.Constraint):
    """All entries of an event. torch's ``independent`` raises for an empty batch (2.13)."""

    def __init__(self, base: constraints.Constraint, event_dim: int = 1) -> None:
        self.base, self.event_dim, self.is_discrete = base, event_dim, base.is_discrete  # pyright: ignore
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        good = self.base.check(value)
        for _ in range(self.event_dim):
            good = good.all(-1)
        return good

    def __repr__(self) -> str:
        return f"All({self.base!r}, {self.event_dim})"


sparse_simplex = _SparseSimplex()


def together(*values: Tensor | float) -> list[Tensor]:
    """Tensors of one shape and one floating dtype; numbers take the tensors'."""
    if not all(isinstance(v, Tensor) or is_number(v) for v in values):
        names = ", ".join(type(v).__name__ for v in values)
        raise ShapeError(f"Parameters of type {names}", "tensors or numbers", "Pass torch.as_tensor(...)")
    # Numbers would take the dtype of integers; torch knows no numbers of numpy.
    values = tuple(float(v) if not isinstance(v, Tensor) else v if v.is_floating_point() else 1.0 * v for v in values)
    try:
        found = broadcast_all(*values)
    except RuntimeError:
        shapes = ", ".join(str(tuple(v.shape)) for v in values if isinstance(v, Tensor))
        raise ShapeError(f"Parameters of shapes {shapes}", "shapes that broadcast together", "Reshape them") from None
    dtype = found[0].dtype
    for tensor in found[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    return [tensor.to(dtype) for tensor in found]


def common_batch(*shapes: Size) -> Size:
    """The shape that batches broadcast to."""
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        given = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ShapeError(f"Batches of shapes {given}", "shapes that broadcast together", "Reshape them") from None


def log_or_never(p: Tensor) -> Tensor:
    """log p, -inf where p = 0; the gradient there is 0."""
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1.0).log(), torch.where(p == 0, -torch.inf, torch.nan))


class SparseDistribution(Distribution):
    """A distribution that gives points with exact zeros positive probability.

    Attributes:
        tensors: names of the parameters that are expanded with the batch, each with its number of event dimensions.
        constants: names of the others.
        values: what `log_prob` accepts, in words.
    """

    # Plain attributes, as in torch's own subclasses; its stubs declare properties.
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # pyright: ignore
    support: Any  # pyright: ignore
    tensors: ClassVar[dict[str, int]] = {}
    constants: ClassVar[tuple[str, ...]] = ()
    values: ClassVar[str] = ""

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and of what is returned."""
        return getattr(self, next(iter(self.tensors))).dtype

    def wide(self, *names: str) -> list[Tensor]:
        """Parameters in the precision in which formulas are evaluated."""
        return [t.to(compute_dtype(t)) for t in (getattr(self, name) for name in names)]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        new = type(self).__new__(type(self)) if _instance is None else _instance
        batch_shape = Size(batch_shape)
        for name, event_dims in self.tensors.items():
            tensor = getattr(self, name)
            setattr(new, name, tensor.expand(batch_shape + tensor.shape[tensor.dim() - event_dims :]))
        for name in self.constants:
            setattr(new, name, getattr(self, name))
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 torch's signature; a Size does not change
        """A sample without gradient, of shape sample_shape + batch_shape + event_shape."""
        with torch.no_grad():
            return self.draw(Size(sample_shape))

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """A sample that is differentiable in the parameters, if `has_rsample`."""
        if not self.has_rsample:
            raise FormulaError(
                f"rsample of {type(self).__name__}",
                "a distribution whose samples are differentiable in its parameters",
                "Use sample(), with a score-function estimator for gradients",
            )
        return self.draw(Size(sample_shape))

    def draw(self, sample_shape: Size) -> Tensor:
        """What `sample` and `rsample` return."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the probability, or of the density, of each value."""
        if self._validate_args:
            self._validate_sample(value)
        return self.log_density(value).to(self.dtype)

    def log_density(self, value: Tensor) -> Tensor:
        """`log_prob` of values that are not checked, in the precision it is computed in."""
        raise NotImplementedError

    def acceptable(self, value: Tensor) -> Tensor:
        """Which values `log_prob` accepts."""
        return self.support.check(value)

    def _validate_sample(self, value: Tensor) -> None:
        value, own = check_tensor(value, "value"), self.batch_shape + self.event_shape
        event = value.shape[value.dim() - len(self.event_shape) :] if value.dim() >= len(self.event_shape) else None
        try:
            torch.broadcast_shapes(value.shape, own)
        except RuntimeError:
            event = None
        if event != self.event_shape:
            raise ShapeError(
                f"A value of shape {tuple(value.shape)}", f"one that broadcasts to (..., *{tuple(own)})", "Reshape it"
            )
        if not bool(self.acceptable(value).all()):
            raise ParameterError(f"A value for {type(self).__name__} that is none", self.values, "Check the values")

    def to_pyro(self) -> Self:
        """The same distribution for ``pyro.sample``, with all that Pyro asks of one.

        Raises:
            TsallisError: Pyro is not installed.
        """
        if find_spec("pyro") is None:
            raise TsallisError("No package pyro", "one to make a distribution for", "Run: pip install pyro-ppl")
        return self.expand(self.batch_shape, object.__new__(_pyro_class(type(self))))


def alike(p: SparseDistribution, q: SparseDistribution) -> tuple[Any, Any]:
    """Both, expanded to one batch shape."""
    if p.event_shape != q.event_shape:
        raise ShapeError(
            f"Distributions of values of shapes {tuple(p.event_shape)} and {tuple(q.event_shape)}",
            "the same shape",
            "Compare others",
        )
    batch = common_batch(p.batch_shape, q.batch_shape)
    return p.expand(batch), q.expand(batch)


@cache
def _pyro_class(cls: type[SparseDistribution]) -> type[SparseDistribution]:
    from pyro.distributions.torch_distribution import TorchDistributionMixin  # pyright: ignore[reportMissingImports]

    if issubclass(cls, TorchDistributionMixin):
        return cls

    def reduce(self: Any) -> tuple[Any, ...]:
        # The class is made here and has no name to be found by; the one it is made of has.
        return _restored, (cls, self.__dict__)

    return type(cls.__name__, (cls, TorchDistributionMixin), {"__reduce__": reduce, "__module__": cls.__module__})


def _restored(cls: type[SparseDistribution], state: dict[str, Any]) -> SparseDistribution:
    new = object.__new__(_pyro_class(cls))
    new.__dict__.update(state)
    return new
