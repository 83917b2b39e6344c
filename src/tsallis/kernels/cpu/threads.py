"""The threads that share a call: torch's own.

Two pools of threads in one process get into each other's way: after a parallel region their threads go on spinning for
a while, on the cores the other pool wants. So no pool is made here. torch computes with OpenMP; its library is already
loaded, and its entry point for a parallel region (GOMP_parallel, part of the fixed interface between compilers and
OpenMP runtimes) takes any function. Where torch has another runtime, or after a fork, one thread serves.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import PROCESS


class Team(NamedTuple):
    """How to run a C function on several threads: run(function, argument, threads, 0); addresses of the functions that
    say which of how many threads is asking.
    """

    run: Any
    number: int
    size: int
    library: str


def _candidates() -> list[str]:
    bundled = Path(torch.__file__).parent / "lib"
    names = [str(path) for path in sorted(bundled.glob("*gomp*")) + sorted(bundled.glob("libiomp5*"))]
    return [*names, "libgomp.so.1", "libiomp5.so"]


def team() -> Team | None:
    """torch's threads, if they can be used here."""
    return _loaded() if os.getpid() == PROCESS else None


@cache
def _loaded() -> Team | None:
    """torch's OpenMP library, if it is found among what is loaded."""
    if not hasattr(os, "RTLD_NOLOAD") or "OpenMP" not in torch.__config__.parallel_info():
        return None
    for name in _candidates():
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            run = library.GOMP_parallel
            number, size = (
                ctypes.cast(function, ctypes.c_void_p).value or 0
                for function in (library.omp_get_thread_num, library.omp_get_num_threads)
            )
        except (OSError, AttributeError):
            continue
        run.argtypes, run.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return Team(run, number, size, name)
    return None


def reason_against() -> str | None:
    """None if calls may be shared among threads."""
    if os.getpid() != PROCESS:
        return "this is a forked process"
    if _loaded() is None:
        return "torch's OpenMP library was not found"
    return None
