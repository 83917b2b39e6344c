"""A loss that is run in parts, again in the backward pass, or to measure alone: one step of the estimators in it, or
none, and each run draws what its first run drew.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Lesson = Callable[[Tensor], None]


class Step:
    """Runs that together are one step. Estimators in them see the state that they had before it, and learn at its end:
    once, whatever the number of parts, so that several processes have the same number of collectives.

    Args:
        learning: whether anything is learned at all.
    """

    def __init__(self, *, learning: bool = True) -> None:
        self.learning = learning
        self.values: dict[nn.Module, Tensor] = {}
        self.lessons: dict[tuple[nn.Module, int], tuple[Lesson, list[Tensor]]] = {}

    def end(self) -> None:
        """Teach what was put off; in a step within a part of another, that puts it off again."""
        lessons, self.lessons = self.lessons, {}
        for (who, _), (lesson, losses) in lessons.items():
            learn(who, lesson, torch.cat(losses))


class Part:
    """A part of a step, which may be run again.

    Args:
        step: the step.
        repeats: whether later runs draw from generators what the first one drew, and generators are as before
            after these; else they are so after the first run.
    """

    def __init__(self, step: Step, *, repeats: bool = True) -> None:
        self.step, self.repeats = step, repeats
        self.drawn: dict[torch.Generator, Tensor] = {}
        self.before: dict[torch.Generator, Tensor] = {}
        self.calls: Counter[nn.Module] = Counter()
        self.again = False
        self.outer: Part | None = None

    @contextmanager
    def run(self) -> Iterator[None]:
        """One run of it."""
        self.outer, _local.part = _part(), self
        try:
            yield
        finally:
            _local.part, self.again = self.outer, True
            for generator, state in self.before.items():
                generator.set_state(state)
            self.before.clear()

    def uses(self, generator: torch.Generator) -> None:
        """Before the generator is drawn from."""
        if self.outer is not None:
            self.outer.uses(generator)
        if self.repeats and not self.again:
            if generator not in self.drawn:
                self.drawn[generator] = generator.get_state()
        elif generator not in self.before:
            self.before[generator] = generator.get_state()
            generator.set_state(self.drawn.get(generator, self.before[generator]))

    def sees(self, who: nn.Module, value: Tensor) -> Tensor:
        """The value of who's state before the step."""
        if who not in self.step.values:
            self.step.values[who] = value.clone() if self.outer is None else self.outer.sees(who, value)
        return self.step.values[who]

    def learn(self, who: nn.Module, lesson: Lesson, losses: Tensor) -> None:
        """Put off a lesson until the end of the step."""
        if self.again or not self.step.learning:
            return
        self.calls[who] += 1
        self.step.lessons.setdefault((who, self.calls[who]), (lesson, []))[1].append(losses)


_local = threading.local()


def _part() -> Part | None:
    return getattr(_local, "part", None)


def uses(generator: torch.Generator | None) -> None:
    """To be called before an estimator draws from a generator that it was given."""
    part = _part()
    if part is not None and generator is not None:
        part.uses(generator)


def sees(who: nn.Module, value: Tensor) -> Tensor:
    """The value of a buffer that who may use now: what it learns later does not change it."""
    if torch.compiler.is_compiling():
        # One graph with the use and the change of a buffer would read it again, changed, in its backward pass.
        torch._dynamo.graph_break()
    part = _part()
    return value.clone() if part is None else part.sees(who, value)


def learn(who: nn.Module, lesson: Lesson, losses: Tensor) -> None:
    """Teach who, now or at the end of the step."""
    part = _part()
    if part is None:
        lesson(losses)
    else:
        part.learn(who, lesson, losses)
