"""Lines of text as they come, in batches that wait for nothing, and answers to them in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from ...core.errors import TsallisError
from .predictions import Prediction

# Characters of a line that are looked at; what exceeds them is not kept in memory.
LONGEST = 100_000
_CHUNK = 1 << 16
_MARK = b"\xef\xbb\xbf"

Example = TypeVar("Example")


class LineError(TsallisError):
    """A line that nothing can be predicted for; others can."""


class Stream(Protocol):
    """Bytes of which those that are there can be had without waiting for more."""

    def read1(self, size: int, /) -> bytes: ...


class Lines(Iterator[str]):
    """Lines of a stream of UTF-8, without their ends.

    Bytes that are not UTF-8 come as lone surrogates, which `check` refuses. A line much longer than LONGEST is cut, and
    refused for its length.

    Attributes:
        unanswered: the lines taken, until someone removes them.
    """

    def __init__(self, stream: Stream) -> None:
        self.unanswered: deque[str] = deque()
        self._stream = stream
        self._whole: deque[bytes] = deque()
        self._rest = b""
        self._begun = self._ended = False

    @property
    def ready(self) -> bool:
        """Whether the next line is there already."""
        return bool(self._whole)

    def __next__(self) -> str:
        while not self._whole:
            if self._ended:
                raise StopIteration
            self._read()
        line = self._whole.popleft()
        if not self._begun:
            self._begun, line = True, line.removeprefix(_MARK)
        self.unanswered.append(line.removesuffix(b"\r").decode("utf-8", "surrogateescape"))
        return self.unanswered[-1]

    def _read(self) -> None:
        chunk = self._stream.read1(_CHUNK)
        *whole, rest = chunk.split(b"\n")
        if whole:
            self._whole.append(self._rest + whole[0])
            self._whole.extend(whole[1:])
            self._rest = rest
        elif len(self._rest) <= 4 * LONGEST:  # a character has four bytes at most
            self._rest += rest
        if not chunk:
            self._ended = True
            if self._rest:
                self._whole.append(self._rest)


def batches(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """At most that many lines at a time; a batch ends where the next line would have to be waited for."""
    taken: list[str] = []
    for line in lines:
        taken.append(line)
        if len(taken) == size or not getattr(lines, "ready", True):
            yield taken
            taken = []
    if taken:
        yield taken


def check(line: str) -> str:
    """The line, if it is text."""
    if len(line) > LONGEST:
        raise LineError(f"A line of more than {LONGEST} characters", "a shorter one", "Cut it")
    for place, character in enumerate(line, 1):
        if "\udc80" <= character <= "\udcff":
            byte = ord(character) - 0xDC00
            raise LineError(f"The byte 0x{byte:02x} at character {place}", "text in UTF-8", "Convert the file")
    if not line.strip():
        raise LineError("An empty line", "text", "Leave it out")
    return line


def answers(
    lines: Iterable[str],
    read: Callable[[str], Example],
    search: Callable[[list[Example]], Sequence[Prediction]],
    *,
    size: int = 32,
) -> Iterator[Prediction]:
    """A prediction for each line, in order.

    Args:
        lines: as they come; empty ones and such as are no UTF-8 are answered here.
        read: what the model is given for a line. Raises LineError for one it cannot be given: its text becomes the
            reason, and the others of the batch go on.
        search: predictions for those of one batch that could be read, at least one.
        size: lines of a batch at most.
    """
    for batch in batches(lines, size):
        refused: dict[int, Prediction] = {}
        examples: dict[int, Example] = {}
        for place, line in enumerate(batch):
            try:
                examples[place] = read(check(line))
            except LineError as error:
                refused[place] = Prediction(None, reason=str(error))
        predicted = search(list(examples.values())) if examples else ()
        answered = refused | dict(zip(examples, predicted, strict=True))
        for place in range(len(batch)):
            yield answered[place]
