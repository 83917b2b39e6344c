"""How functions become machine code, where it is kept, and how a kernel is shared among threads.

Machine code is kept on disk by numba, which looks only at the file of the function it compiles: after an edit of
another file it would go on using the old code. The hash of all files of this folder is therefore part of what is
compiled (`Entry` closes over it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit, prange, typeof
from numba.core import types
from numba.core.errors import NumbaWarning
from numba.core.registry import cpu_target
from numba.extending import intrinsic

# Sums may not be re-associated; NaN and infinities mean what they are. Other flags fold tests for them to False.
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "arcp", "nsz", "afn"}, "error_model": "numpy", "nogil": True}

device = njit(**OPTIONS)


def source_hash() -> str:
    """Of every file machine code may come from."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _features() -> str:
    return cpu_target.target_context.codegen()._tm_features


# Whether the machine moves chosen lanes of a vector together in one instruction.
PACKS = "+avx512f" in _features()
SOURCE = source_hash() + str(PACKS)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """njit with the machine code kept on disk, if there is a place for it; `doctor` says whether there is."""
    try:
        return njit(**OPTIONS, **options, cache=True)(function)
    except RuntimeError:
        # "no locator available": neither the package's folder nor the user's can be written.
        return njit(**OPTIONS, **options)(function)


@intrinsic
def _invoke(typingctx: Any, address: Any, job: Any, value: Any, other: Any, one: Any, first: Any, last: Any, chunk: Any):
    """Call the machine code of a kernel."""
    kinds = (job, value, other, one, first, last, chunk)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        convention = context.call_conv
        kind = convention.get_function_type(types.none, kinds).as_pointer()
        callee = builder.inttoptr(args[0], kind)
        convention.call_function(builder, callee, types.none, kinds, args[1:])
        return context.get_dummy_value()

    return types.void(address, *kinds), code


def _make_shared() -> Any:
    source = SOURCE

    def shared(address, job, value, other, one, rows, chunks):
        for c in prange(chunks):
            _invoke(address, job, value, other, one, rows * c // chunks, rows * (c + 1) // chunks, c)
        return source

    return compiled(shared, parallel=True)


class Entry:
    """A kernel (job, value, other, one, first, last, chunk); ``one`` is a 1 of the dtype."""

    _shared: Any = None

    def __init__(self, function: Callable[..., None]) -> None:
        self.serial = compiled(function)
        self._addresses: dict[Any, int] = {}

    def address(self, one: Any) -> int:
        """Of the machine code for this dtype."""
        if (found := self._addresses.get(type(one))) is None:
            i, f = types.int64, types.float64
            sig = (i, f, f, typeof(one), i, i, i)
            self.serial.compile(sig)
            overload = self.serial.overloads[sig]
            found = overload.library.get_pointer_to_function(overload.fndesc.llvm_func_name)
            self._addresses[type(one)] = found
        return found

    def parallel(self, job: int, value: float, other: float, one: Any, rows: int, chunks: int) -> None:
        """All rows, on as many threads."""
        if Entry._shared is None:
            Entry._shared = _make_shared()
        Entry._shared(self.address(one), job, value, other, one, rows, chunks)
