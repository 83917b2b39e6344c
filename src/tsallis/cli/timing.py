"""What suites of `tsallis bench` share: times of two actions that take turns, memory, quartiles, a file for them."""

from __future__ import annotations

import ctypes
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..core.errors import TsallisError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def keep_pages() -> None:
    """Have glibc's malloc keep what is freed. Otherwise results of some megabytes may get new pages from the system at
    each call, whose first touch takes as long as the kernel, and whether they do depends on what ran before.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-4, 0)  # M_MMAP_MAX


def device_named(name: str) -> torch.device:
    """A device of this machine."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type in ("cpu", "cuda"):
            return device
    except (RuntimeError, AssertionError):
        pass
    raise TsallisError(f"--device {name}", "a device of this machine, such as cpu or cuda", "Correct it")


def awaited(action: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """An action until it is done, also on a GPU."""
    if device.type == "cpu":
        return action

    def until_done() -> object:
        result = action()
        torch.cuda.synchronize()
        return result

    return until_done


def sizes_of(text: str, option: str, example: str) -> tuple[int, ...]:
    """The sizes in the text of an option, as many as in the example."""
    sizes = tuple(int(word) for word in text.split("x") if word.isdigit())
    count = example.count("x") + 1
    if len(sizes) != count or not all(sizes):
        raise TsallisError(f"{option} {text}", f"{count} positive numbers such as {example}", "Correct it")
    return sizes


def memory_of(action: Callable[[], object], device: torch.device) -> int | None:
    """Bytes by which the process (or the GPU, for an action there) grows at most, results included; None where the
    system does not say.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        kept = action()
        del kept
        return torch.cuda.max_memory_allocated(device) - before
    # Pages that malloc keeps are not seen to come and go.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _highest()
        kept = action()
        del kept
        return _highest() - before
    except OSError:
        return None


def _highest() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def interleaved(
    first: Callable[[], object], second: Callable[[], object], seconds: float
) -> tuple[list[float], list[float]]:
    """Times of two actions that take turns."""
    for action in (first, second) * 2:
        action()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for action, record in zip((first, second), times, strict=True):
            record.append(seconds_of(action))
    return times


def seconds_of(action: Callable[[], object]) -> float:
    """How long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def quartiles(values: list[float]) -> list[float]:
    """The three of them."""
    return statistics.quantiles(values, n=4)


def write_json(path: Path, results: list[dict[str, Any]]) -> None:
    """Write the figures, whole or not at all."""
    record = {"torch": torch.__version__, "threads": torch.get_num_threads(), "results": results}
    try:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        raise TsallisError(
            f"--json {path}: {error.strerror}", "a file that can be written", "Choose another place"
        ) from error
