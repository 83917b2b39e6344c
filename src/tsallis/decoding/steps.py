"""What a model is to a search: one step, and a state whose rows can be chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..core.errors import NumericalError, ParameterError, ShapeError

State = Any
Step = Callable[[Tensor, State], tuple[Tensor, State]]

# Log-probabilities that exceed zero by more than rounding are something else, mostly logits.
ABOVE_ZERO = 1e-3


@runtime_checkable
class Selectable(Protocol):
    """A state that knows how to take some of its rows and how to join others of its kind, a cache for example."""

    def select(self, rows: Tensor) -> State:
        """The state of the given rows, which may repeat."""
        ...

    def join(self, others: Sequence[State]) -> State:
        """This state's rows followed by those of the others."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """A sequence.

    Attributes:
        tokens: its tokens. The last is the end of sequence, unless a draw reached the greatest length before it.
        log_prob: natural logarithm of its probability under the model, in float64.
        score: what it was ranked by: log_prob, unless the search was told otherwise.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float


def select(state: State, rows: Tensor) -> State:
    """Rows of a state: a tensor, None, something Selectable, or lists, tuples and mappings of these."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if isinstance(state, Selectable):
        return state.select(rows)
    if isinstance(state, Mapping):
        return {key: select(value, rows) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return _like(state, [select(value, rows) for value in state])
    raise _unfit(state)


def join(states: Sequence[State]) -> State:
    """Rows of several states of one form, one after the other."""
    first = states[0]
    if len(states) == 1 or first is None:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(states))
    if isinstance(first, Selectable):
        return first.join(states[1:])
    if isinstance(first, Mapping):
        return {key: join([state[key] for state in states]) for key in first}
    if isinstance(first, list | tuple):
        return _like(first, [join(values) for values in zip(*states, strict=True)])
    raise _unfit(first)


def _like(state: list[State] | tuple[State, ...], values: list[State]) -> State:
    """The values in a container of the state's type; that of a named tuple takes them one by one."""
    return type(state)(*values) if hasattr(state, "_fields") else type(state)(values)


def _unfit(state: object) -> ParameterError:
    return ParameterError(
        f"A state of type {type(state).__name__}",
        "tensors whose first dimension is the rows, None, or lists, tuples and mappings of these",
        "Give its class the methods select(rows) and join(others)",
    )


def advance(step: Step, tokens: Tensor, state: State, eos: int) -> tuple[Tensor, State]:
    """Take a step and check what it returns."""
    log_probs, state = step(tokens, state)
    if log_probs.dim() != 2 or log_probs.shape[0] != tokens.shape[0] or log_probs.shape[1] <= eos:
        raise ShapeError(
            f"A step that returned shape {tuple(log_probs.shape)}",
            f"log-probabilities ({tokens.shape[0]}, V) with V > eos = {eos}",
            "Return those of the token after each given one",
        )
    highest = log_probs.detach().amax().item()
    if not highest <= ABOVE_ZERO:
        raise NumericalError(
            f"A step that returned {highest:.4g}",
            "natural logarithms of probabilities: at most 0, no NaN",
            "Return the logarithm of ts.softmax, ts.entmax or another mapping of the scores; -inf stands for zero",
        )
    return log_probs.detach().clamp_max(0), state


def check_search(eos: int, max_length: int, **counts: int | None) -> None:
    """Check what every search is given."""
    if eos < 0:
        raise ParameterError(f"eos = {eos}", "the index of the end of sequence", "Pass one of the vocabulary")
    for name, value in {"max_length": max_length, **counts}.items():
        if value is not None and value < 1:
            raise ParameterError(f"{name} = {value}", "1 or more", "Pass a positive number")


def check_start(start: Tensor) -> None:
    """Check the tokens that sequences begin after."""
    if start.dim() != 1 or start.dtype != torch.long:
        raise ShapeError(
            f"start of shape {tuple(start.shape)} and type {start.dtype}",
            "long tokens (B,)",
            "Pass one for each sequence",
        )
