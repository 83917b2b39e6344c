"""What a model is to a search: one step, and a state whose rows can be chosen."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..core.errors import NumericalError, ParameterError, ShapeError
from ..core.inputs import HALF, is_integer

State = Any
Step = Callable[[Tensor, State], tuple[Tensor, State]]

# Probabilities that add up to more than 1 by more than their precision explains are something else, mostly scores.
ABOVE_ONE, ABOVE_ONE_IN_HALF = 1e-3, 0.02
# What the sum of a row may lack by its own rounding.
ROUNDING, ROUNDING_OF_DOUBLE = 4e-6, 1e-12
# What is no tensor but may be part of a state, the number of tokens for example: the same for all rows.
CONSTANT = (int, float, str, type(None))


@runtime_checkable
class Selectable(Protocol):
    """A state that knows how to take some of its rows, a cache for example."""

    def select(self, rows: Tensor) -> State:
        """The state of the given rows, which may repeat."""
        ...


@runtime_checkable
class Joinable(Protocol):
    """A state that knows how to join others of its kind, for `exact_search`."""

    def join(self, others: Sequence[State]) -> State:
        """This state's rows followed by those of the others."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """A sequence.

    Attributes:
        tokens: its tokens, the end of sequence last.
        log_prob: natural logarithm of its probability under the model, in float64.
        score: what it was ranked by: log_prob, unless the search was told otherwise.
        finished: False for a draw that reached the greatest length before its end, or could not go on.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float
    finished: bool = True


def select(state: State, rows: Tensor) -> State:
    """Rows of a state: a tensor, something Selectable, constants, or lists, tuples and mappings of these."""
    if isinstance(state, CONSTANT):
        return state
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if isinstance(state, Selectable):
        return state.select(rows)
    if isinstance(state, Mapping):
        return _keyed(state, {key: select(value, rows) for key, value in state.items()})
    if isinstance(state, list | tuple):
        return _like(state, [select(value, rows) for value in state])
    raise _unfit(state)


def join(states: Sequence[State]) -> State:
    """Rows of several states of one form, one after the other."""
    first = states[0]
    if len(states) == 1 or isinstance(first, CONSTANT):
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(states))
    if isinstance(first, Joinable):
        return first.join(states[1:])
    if isinstance(first, Mapping):
        return _keyed(first, {key: join([state[key] for state in states]) for key in first})
    if isinstance(first, list | tuple):
        return _like(first, [join(values) for values in zip(*states, strict=True)])
    raise _unfit(first)


def _like(state: list[State] | tuple[State, ...], values: list[State]) -> State:
    """The values in a container of the state's type; that of a named tuple takes them one by one."""
    return type(state)(*values) if hasattr(state, "_fields") else type(state)(values)


def _keyed(state: Mapping[Any, State], values: dict[Any, State]) -> State:
    """The values in a mapping of the state's type, if copies of that have items of their own: outputs of models have
    them as attributes, too.
    """
    if type(state) is dict or not isinstance(state, dict | UserDict):
        return values
    other = copy.copy(state)
    for key, value in values.items():
        other[key] = value
    return other


def _unfit(state: object) -> ParameterError:
    return ParameterError(
        f"A state of type {type(state).__name__}",
        "tensors whose first dimension is the rows, constants, or lists, tuples and mappings of these",
        "Give its class the method select(rows), and join(others) for exact_search",
    )


def check_state(state: State, rows: int) -> None:
    """Check that the tensors of a state have as many rows as there are prefixes."""
    if isinstance(state, Tensor):
        if state.dim() == 0 or state.shape[0] != rows:
            raise ShapeError(
                f"A state with a tensor of shape {tuple(state.shape)} for {rows} prefixes",
                f"{rows} rows in its first dimension",
                "Move the dimension of the batch to the front; a number for all rows may be a Python number",
            )
    elif isinstance(state, Mapping):
        for value in state.values():
            check_state(value, rows)
    elif isinstance(state, list | tuple):
        for value in state:
            check_state(value, rows)
    elif not isinstance(state, (Selectable, *CONSTANT)):
        raise _unfit(state)


def advance(step: Step, tokens: Tensor, state: State, eos: int) -> tuple[Tensor, State, float]:
    """Take a step and check what it returns.

    Also what the probabilities of a row add up to at most, 1 or a little more: all sequences together have no more than
    the product of these over the steps.
    """
    returned = step(tokens, state)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[0], Tensor):
        raise ParameterError(
            f"A step that returned {type(returned).__name__}", "(log_probs, state)", "Return both, None for no state"
        )
    log_probs, state = returned
    if log_probs.dim() != 2 or log_probs.shape[0] != tokens.shape[0] or log_probs.shape[1] <= eos:
        raise ShapeError(
            f"A step that returned shape {tuple(log_probs.shape)}",
            f"log-probabilities ({tokens.shape[0]}, V) with V > eos = {eos}",
            "Return those of the token after each given one",
        )
    check_state(state, tokens.shape[0])
    log_probs = log_probs.detach()
    half, double = log_probs.dtype in HALF, log_probs.dtype == torch.float64
    most = (log_probs.float() if half else log_probs).exp().sum(1).amax().item()
    if not most <= 1 + (ABOVE_ONE_IN_HALF if half else ABOVE_ONE):
        raise NumericalError(
            f"A step whose probabilities add up to {most:.4g}",
            "natural logarithms of probabilities that add up to 1, or less, no NaN",
            "Return the logarithm of ts.softmax, ts.entmax or another mapping of the scores; -inf stands for zero",
        )
    return log_probs.clamp_max(0), state, max(most, 1.0) + (ROUNDING_OF_DOUBLE if double else ROUNDING)


def check_search(eos: int, max_length: int, **counts: int | None) -> int:
    """Check what every search is given; eos as Python's integer, as it is put into sequences."""
    if not is_integer(eos) or eos < 0:
        raise ParameterError(f"eos = {eos!r}", "the index of the end of sequence", "Pass one of the vocabulary")
    for name, value in {"max_length": max_length, **counts}.items():
        if value is not None and not (is_integer(value) and value >= 1):
            raise ParameterError(f"{name} = {value!r}", "a whole number, 1 or more", "Pass one")
    return int(eos)


def check_start(start: Tensor, state: State) -> None:
    """Check the tokens that sequences begin after, and the state before them."""
    if not isinstance(start, Tensor):
        raise ParameterError(f"start of type {type(start).__name__}", "a tensor (B,)", "Pass one token for each")
    if start.dim() != 1 or start.dtype != torch.long:
        raise ShapeError(
            f"start of shape {tuple(start.shape)} and type {start.dtype}",
            "long tokens (B,)",
            "Pass one for each sequence",
        )
    check_state(state, start.shape[0])
