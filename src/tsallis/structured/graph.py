"""Factor graphs: variables that several factors share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import check_tensor, is_integer, is_number
from .factor import Factor
from .layout import Layout
from .relaxation import GraphSolution, Options, relaxed
from .stacks import Place
from .variables import Attached, Variables, bound


class FactorGraph:
    r"""Variables and the factors that share them, for batches of scores.

    `solve` is LP-SparseMAP: marginals of the variables that every factor can have, nearest to the scores,

    $$\max_{\mu, \nu} \; \langle x, \mu \rangle + \sum_f \langle y_f, \nu_f \rangle - \tfrac12 \|\mu\|^2
    \quad \text{with } (\mu_f, \nu_f) \in \mathcal M_f \text{ for all factors } f.$$

    Where factors form a tree, that is SparseMAP over what all of them allow; otherwise a relaxation of it.

    Example:
        >>> import torch
        >>> from tsallis.structured import AtMostOne, FactorGraph, Simplex
        >>> graph = FactorGraph()
        >>> u = graph.variables((2, 3))
        >>> rows = graph.add(Simplex(3), u)
        >>> columns = graph.add(AtMostOne(2), u.mT)
        >>> solution = graph.solve(torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.5, 0.0]]]))
        >>> solution[u]
        tensor([[[0.5833, 0.2083, 0.2083],
                 [0.4167, 0.5417, 0.0417]]])

    References:
        niculae2020lp, martins2015ad3
    """

    def __init__(self) -> None:
        self._count = 0
        self._blocks: list[tuple[torch.Size, Tensor | None]] = []
        self._places: list[Place] = []
        self._attached: list[tuple[Attached, Tensor | None]] = []
        self._layouts: dict[torch.device, Layout] = {}

    def variables(self, given: int | tuple[int, ...] | Tensor) -> Variables:
        """New binary variables.

        Args:
            given: their shape; or scores (B, *shape), which `solve` takes if it gets no others.

        Returns:
            the variables, to be indexed, attached to factors and looked up in solutions.

        Raises:
            ShapeError: what is no shape.
        """
        scores = None
        if isinstance(given, Tensor):
            scores = check_tensor(given, "scores")
            if scores.dim() < 1:
                raise ShapeError("scores of shape ()", "(B, *shape)", "Pass a batch, or a shape")
            shape = scores.shape[1:]
        else:
            sizes = given if isinstance(given, tuple | list) else (given,)
            if not all(is_integer(size) and size >= 0 for size in sizes):
                raise ShapeError(f"variables of shape {given!r}", "whole numbers", "Pass (4, 5), or scores")
            shape = torch.Size(sizes)
        first, self._count = self._count, self._count + math.prod(shape)
        self._blocks.append((shape, scores))
        self._layouts = {}
        # What is made in inference mode could take no part in gradients later.
        with torch.inference_mode(False):
            index = torch.arange(first, self._count).reshape(shape)
            return Variables(self, index, torch.zeros(shape, dtype=torch.bool))

    def add(
        self, factor: Factor, *variables: Variables, additional: Tensor | None = None, lengths: None = None
    ) -> Attached:
        """Attach a factor to variables of this graph.

        Args:
            factor: any, with geometry "on".
            variables: in the order of the factor's own, one after the other; or a single (..., *natural), for a factor
                at each place of the leading dimensions.
            additional: scores of the factor's pairs, which `solve` takes if it gets no others: as in `sparsemap`, with
                the leading dimensions after that of the batch.
            lengths: none: in a graph all items have all variables.

        Returns:
            where to give such scores to `solve`, and to read pairs from a solution.

        Raises:
            ShapeError: variables that do not fit the factor; scores of pairs for one without.
            ParameterError: what is no factor, a factor of another geometry, variables of another graph, or lengths.
        """
        _no_lengths(lengths)
        if not isinstance(factor, Factor) or factor.spread != 1 or factor.shift != 0:
            raise ParameterError(f"{factor!r}", 'a factor with geometry "on"', "Pass one, with scores (x + 1)/2")
        if not variables or not all(isinstance(v, Variables) and v.graph is self for v in variables):
            raise ParameterError(f"variables {variables!r}", "variables of this graph", "Declare them with variables()")
        if additional is not None:
            check_tensor(additional, "additional")
            if not factor.additional:
                raise ShapeError(f"scores of pairs for {factor!r}", "none", "Leave them out")
        with torch.inference_mode(False):
            flat, lead = bound(factor, variables)
        attached = Attached(self, factor, len(self._places), lead)
        self._places.append(Place(factor, flat.index, flat.negated))
        self._attached.append((attached, additional))
        self._layouts = {}
        return attached

    def solve(
        self,
        *scores: Tensor | None,
        additional: Mapping[Attached, Tensor] | None = None,
        max_iter: int = 1000,
        tol: float = 1e-6,
        step_size: float = 2.0,
        init: GraphSolution | None = None,
        lengths: None = None,
    ) -> GraphSolution:
        """LP-SparseMAP, by the alternating direction method of multipliers. Where no variable is shared, each factor is
        solved alone, exactly.

        Args:
            scores: (B, *shape) of the variables, in the order of their declaration; None, or left out, for those given
                then. -inf rules a variable out; so do numbers that are 1e9 times as low as the best is high, and items
                that need such a variable all the same are not solved.
            additional: scores of pairs, of factors that have such.
            max_iter: iterations at most.
            tol: largest primal and dual residual.
            step_size: at the start; it adapts.
            init: an earlier solution of this graph and a batch of this size, from which to go on, with its steps. Items
                whose scores have little to do with the earlier ones begin anew.
            lengths: none, as in `add`.

        Returns:
            a `GraphSolution`, in the dtype of the scores; solved in float64. Items that did not reach the tolerance,
            such as those whose factors contradict each other, say so in `result`.

        Raises:
            ShapeError: scores that do not fit.
            ParameterError: max_iter, tol, step_size, init or additional that cannot be, or lengths.

        Differentiability:
            any order in all scores, on the faces that the factors ended on; the result is piecewise linear, so second
            derivatives are zero. By conjugate gradients; a gradient that these do not reach warns. Not inside function
            transforms.

        Complexity:
            per iteration one projection per factor, O(d log d) for those of logic and budgets, all of a kind at once.

        References:
            niculae2020lp, martins2015ad3
        """
        _no_lengths(lengths)
        return self._solved(scores, additional, max_iter, tol, step_size, init, 1.0)

    def solve_map(
        self,
        *scores: Tensor | None,
        additional: Mapping[Attached, Tensor] | None = None,
        max_iter: int = 10000,
        tol: float = 1e-6,
        step_size: float = 2.0,
        init: GraphSolution | None = None,
        lengths: None = None,
    ) -> GraphSolution:
        """The best assignment, relaxed to a linear programme: `solve` without the quadratic term. Where no variable is
        shared, the best structure of each factor.

        Args:
            scores: as in `solve`.
            additional: as in `solve`.
            max_iter: as in `solve`.
            tol: as in `solve`.
            step_size: as in `solve`.
            init: as in `solve`.
            lengths: none, as in `add`.

        Returns:
            a `GraphSolution` without gradient. Items that are `integral` have the best assignment, to within the
            tolerance. All are whose factors form a tree, unless several assignments are best: then it may be between
            them.

        Raises:
            ShapeError, ParameterError: as in `solve`.

        Differentiability:
            none.

        Complexity:
            as `solve`.

        References:
            martins2015ad3
        """
        _no_lengths(lengths)
        with torch.no_grad():
            return self._solved(scores, additional, max_iter, tol, step_size, init, 0.0)

    def _solved(
        self, scores: tuple[Tensor | None, ...], additional: Mapping[Attached, Tensor] | None, max_iter: int,
        tol: float, step_size: float, init: GraphSolution | None, curved: float,
    ) -> GraphSolution:  # fmt: skip
        if not is_integer(max_iter) or max_iter < 1:
            raise ParameterError(f"max_iter={max_iter!r}", "a whole number, 1 at least", "Choose one")
        for name, value in (("tol", tol), ("step_size", step_size)):
            if not is_number(value) or not 0 < value < math.inf:
                raise ParameterError(f"{name}={value!r}", "a positive number", "Choose one")
        x, dtype = self._unary(scores)
        layout = self._layout(x.device)
        y = self._pairs(layout, x, {} if additional is None else additional)
        self._check_start(init, len(x))
        options = Options(int(max_iter), float(tol), float(step_size), None if init is None else init.point, curved)
        return relaxed(layout, x, y, options, dtype)

    def _layout(self, device: torch.device) -> Layout:
        """One for each device: solutions keep theirs for their gradients."""
        found = self._layouts.get(device)
        if found is None:
            with torch.inference_mode(False):
                found = Layout(self, self._places, self._count)
                found.to(device)
            self._layouts[device] = found
        return found

    def _check_start(self, init: object, batch: int) -> None:
        if init is None:
            return
        if not isinstance(init, GraphSolution):
            came = f"init of type {type(init).__name__}"
        elif init.layout.graph is not self:
            came = "init of another graph"
        elif (init.layout.count, len(init.layout.where)) != (self._count, len(self._places)):
            came = "init from before variables or factors were added"
        elif len(init.marginals) != batch:
            came = f"init of {len(init.marginals)} items"
        else:
            return
        raise ParameterError(came, f"a solution of this graph as it is, of {batch} items", "Leave init out")

    def _unary(self, scores: tuple[Tensor | None, ...]) -> tuple[Tensor, torch.dtype]:
        """(B, n + 1) scores of all variables, and the dtype of the result."""
        if len(scores) > len(self._blocks) or not self._blocks:
            raise ShapeError(f"{len(scores)} scores", f"{len(self._blocks)}, one of each variables()", "Leave some out")
        rest = (*scores, *[None] * (len(self._blocks) - len(scores)))
        found: list[Tensor] = []
        for number, (own, (shape, default)) in enumerate(zip(rest, self._blocks, strict=True)):
            x = default if own is None else own
            if x is None:
                raise ShapeError(f"no scores for variables {number}", f"(B, {_dims(shape)})", "Pass them to solve")
            x = check_tensor(x, "scores")
            if x.dim() < 1 or x.shape[1:] != shape or (found and len(x) != len(found[0])):
                batch = len(found[0]) if found else "B"
                raise ShapeError(f"scores of shape {tuple(x.shape)}", f"({batch}, {_dims(shape)})", "Reshape them")
            found.append(x if x.is_floating_point() else x.to(torch.get_default_dtype()))
        dtype = found[0].dtype
        for x in found:
            dtype = torch.promote_types(dtype, x.dtype)
        flat = torch.cat([x.reshape(len(x), math.prod(x.shape[1:])).double() for x in found], 1)
        return torch.nn.functional.pad(flat, (0, 1)), dtype

    def _pairs(self, layout: Layout, x: Tensor, given: Mapping[Attached, Tensor]) -> list[Tensor]:
        """(B, F, e) scores of pairs, of each stack."""
        if not isinstance(given, Mapping):
            raise ParameterError(
                f"additional of type {type(given).__name__}", "a dict from what add() returned to scores of pairs",
                "Pass {attached: scores}",
            )  # fmt: skip
        if unknown := set(given) - {attached for attached, _ in self._attached}:
            raise ParameterError(f"additional of {unknown}", "factors of this graph", "Pass what add() returned")
        parts: list[list[Tensor]] = [[] for _ in layout.stacks]
        for attached, default in sorted(self._attached, key=lambda one: layout.where[one[0].number]):
            own, factor, batch = given.get(attached, default), attached.factor, len(x)
            rows, part = math.prod(attached.lead), parts[layout.where[attached.number][0]]
            if own is None:
                part.append(x.new_zeros(batch, rows, factor.additional))
                continue
            own = check_tensor(own, "additional")
            shape = tuple(own.shape)
            if attached.lead and own.shape[: 1 + len(attached.lead)] == (batch, *attached.lead):
                own = own.flatten(0, len(attached.lead))
            try:
                flat = factor.flat(x.new_zeros(batch * rows, factor.variables), own).additional
            except ShapeError as error:
                if not attached.lead:
                    raise
                came = f"additional of shape {shape} for {attached!r}"
                lead = f"({batch}, {_dims(attached.lead)}, ...)"
                raise ShapeError(came, f"{lead}, then as for a single factor", "Reshape it") from error
            part.append(flat.view(batch, rows, factor.additional))
        return [torch.cat(part, 1) for part in parts]


def _no_lengths(lengths: object) -> None:
    if lengths is not None:
        raise ParameterError(
            "lengths", "none: all items of a graph have all of its variables",
            "Build a graph for each length, or solve items alone with sparsemap where no variable is shared",
        )  # fmt: skip


def _dims(shape: torch.Size) -> str:
    return ", ".join(map(str, shape)) or "no more"
