"""How functions become machine code, where it is kept, and how a kernel is shared among threads.

Machine code is kept on disk by numba, which looks only at the file of the function it compiles: after an edit of
another file it would go on using the old code. The hash of all files of this folder, of those inside it and of the one
above is therefore part of what is compiled: every function that is kept closes over it. Which of a factory's functions
one is, the values it closes over say.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, typeof
from numba.core import types
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from .simd import intrinsic, peek, pointer
from .threads import Team

# Sums may not be re-associated; NaN and infinities mean what they are. Other flags fold tests for them to False.
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "arcp", "nsz", "afn"}, "error_model": "numpy", "nogil": True}


def source_hash() -> str:
    """Of every file machine code may come from."""
    here = Path(__file__).parent
    files = sorted([*here.rglob("*.py"), *here.parent.glob("*.py")])
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _features() -> str:
    return cpu_target.target_context.codegen()._tm_features  # pyright: ignore[reportAttributeAccessIssue]


# Whether the machine moves chosen lanes of a vector together in one instruction.
PACKS = "+avx512f" in _features()
SOURCE = source_hash() + str(PACKS)


def named(function: FunctionType) -> str:
    """Have the function's name say what the function is, in the same words in every process."""
    words = hashlib.sha256(repr((SOURCE, _described(function))).encode()).hexdigest()
    function.__qualname__ += "_" + words[:32]
    return words


def device(function: Any) -> Any:
    """Compile a part of kernels, with them."""
    named(function)
    return njit(**OPTIONS)(function)


def compiled(function: Any, maker: Any = njit) -> Any:
    """Compile with the machine code kept on disk, if there is a place for it; `doctor` says whether there is."""
    words = named(function)
    options = {name: value for name, value in OPTIONS.items() if maker is njit or name != "nogil"}
    try:
        made = maker(**options, cache=True)(function)
    except (RuntimeError, OSError):
        # "no locator available": neither the package's folder nor the user's can be written. Or the disk is full.
        return maker(**options)(function)
    made._cache._index_key = lambda signature, codegen: (signature, codegen.magic_tuple(), words)
    _keep_with_keys(made._cache._cache_file)
    save = made._cache.save_overload

    def save_if_possible(*arguments: Any) -> None:
        # What cannot be kept is compiled again next time.
        with suppress(OSError):
            save(*arguments)

    made._cache.save_overload = save_if_possible
    return made


def _keep_with_keys(store: Any) -> None:
    """Keep machine code together with what it is of. The index is written before the code, and two processes may choose
    the same name: without this one could be given what is another function's, or was compiled from older files.
    """
    save, load = store.save, store.load

    def own(key: Any) -> Any:
        found = load(key)
        return found[1] if isinstance(found, tuple) and len(found) == 2 and found[0] == key else None

    store.save = lambda key, data: save(key, (key, data))
    store.load = own


def _described(thing: Any) -> Any:
    """What a value in a closure is, in the same words in every process. numba's own words for compiled functions hold a
    random number: no other process would ever find their machine code.
    """
    if isinstance(thing, Dispatcher):
        # Its name says all.
        return "compiled", thing.py_func.__module__, thing.py_func.__qualname__
    if isinstance(thing, _Intrinsic):
        thing = thing._defn
    if isinstance(thing, FunctionType):
        cells = [_described(cell.cell_contents) for cell in thing.__closure__ or ()]
        return "function", thing.__module__, thing.__qualname__, thing.__code__.co_firstlineno, cells
    if isinstance(thing, tuple):
        return "tuple", [_described(part) for part in thing]
    if thing is None or isinstance(thing, bool | int | float | str):
        return type(thing).__name__, repr(thing)
    return "bytes", dumps(thing)


@intrinsic
def _invoke(
    typingctx: Any, address: Any, job: Any, value: Any, other: Any, one: Any, first: Any, last: Any, chunk: Any
):
    """Call the machine code of a kernel."""
    kinds = (job, value, other, one, first, last, chunk)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        convention = context.call_conv
        kind = convention.get_function_type(types.none, kinds).as_pointer()
        callee = builder.inttoptr(args[0], kind)
        convention.call_function(builder, callee, types.none, kinds, args[1:])
        return context.get_dummy_value()

    return types.void(address, *kinds), code


@intrinsic
def _ask(typingctx: Any, address: Any) -> Any:
    """Call a C function without arguments that returns an int."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.sext(builder.call(builder.inttoptr(args[0], kind), []), ir.IntType(64))

    return types.int64(types.int64), code


def _team_member(one: Any) -> Any:
    """What each thread of a team does with a shared job, as a C function of its address."""
    source = SOURCE
    word, number = np.int64(0), np.float64(0)

    def work(at):
        _ = source
        shared, numbers = pointer(at, word), pointer(at, number)
        threads, rows, chunks = _ask(peek(shared, 3)), peek(shared, 4), peek(shared, 5)
        for c in range(_ask(peek(shared, 2)), chunks, threads):
            first, last = rows * c // chunks, rows * (c + 1) // chunks
            _invoke(peek(shared, 0), peek(shared, 1), peek(numbers, 6), peek(numbers, 7), one, first, last, c)

    return compiled(work, maker=partial(cfunc, types.void(types.int64)))


class Entry:
    """A kernel (job, value, other, one, first, last, chunk); ``one`` is a 1 of the dtype."""

    # The compiled functions themselves: their code lives as long as they do.
    _members: ClassVar[dict[Any, Any]] = {}

    def __init__(self, function: Callable[..., None]) -> None:
        self.serial = compiled(function)
        self._addresses: dict[Any, int] = {}

    def _address(self, one: Any) -> int:
        """Of the machine code for this dtype."""
        if (found := self._addresses.get(type(one))) is None:
            i, f = types.int64, types.float64
            sig = (i, f, f, typeof(one), i, i, i)
            self.serial.compile(sig)
            overload = self.serial.overloads[sig]
            if overload.signature.return_type != types.none:
                raise TypeError(
                    f"a kernel that returns {overload.signature.return_type}; callers reserve no room for it"
                )
            found = overload.library.get_pointer_to_function(overload.fndesc.llvm_func_name)
            self._addresses[type(one)] = found
        return found

    def parallel(self, team: Team, job: int, value: float, other: float, one: Any, rows: int, chunks: int) -> None:
        """All rows, shared among the threads of a team."""
        if (member := Entry._members.get(type(one))) is None:
            member = Entry._members[type(one)] = _team_member(one)
        kept = array("q", (self._address(one), job, team.number, team.size, rows, chunks))
        kept.frombytes(array("d", (value, other)).tobytes())
        team.run(member.address, kept.buffer_info()[0], chunks, 0)
