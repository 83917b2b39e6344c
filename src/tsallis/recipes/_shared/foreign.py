"""Files of other projects' formats, read without trusting them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .datasets import DataError


def read_hdf5(path: Path) -> np.ndarray:
    """The only array of an HDF5 file."""
    expected = "an HDF5 file with one array"
    if find_spec("h5py") is None:
        raise DataError(f"{path} cannot be read without h5py, which is not installed", expected, "pip install h5py")
    try:
        with import_module("h5py").File(path, "r") as file:
            (name,) = file
            return np.asarray(file[name][...])
    # What a damaged file raises depends on where it is damaged.
    except Exception as error:
        raise DataError(f"{path}: {error}", expected, "Get the file again") from error


def read_pickle(path: Path) -> Any:
    """The value of a pickled file, if it is made of str, int, list, dict and numpy arrays of numbers and strings.

    Anything else that a pickle can ask for, which would run code of the file's choice, is refused before it is called.
    """
    expected = "a pickle of str, int, list, dict and numpy arrays, and nothing else"
    try:
        # latin1: as files of Python 2 have to be read.
        return _plain(_Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    # What a damaged file raises depends on where it is damaged.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: {reason}", expected, "Get the file again, from someone you trust") from error


class _Dtype:
    """Stands in for numpy.dtype: its state is not numpy's to interpret."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def array(self, data: Any, shape: tuple[int, ...], order: Any) -> np.ndarray:
        if self.code.startswith("O"):
            names = [x.decode("latin1") if type(x) is bytes else x for x in data]
            if not names or any(type(x) is not str for x in names):
                raise ValueError("an array of objects that are no strings")
            return np.array(names).reshape(shape, order=order)
        if self.code[:1] not in "iufbSU":
            raise ValueError(f"an array of {self.code}")
        dtype = np.dtype(("" if self.order == "|" else self.order) + self.code)
        raw = data.encode("latin1") if type(data) is str else data
        return np.frombuffer(raw, dtype).reshape(shape, order=order)


class _Array:
    """Stands in for numpy.ndarray while a pickle is read."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if type(dtype) is not _Dtype:
            raise ValueError("an array without a dtype")
        self.value = dtype.array(data, shape, "F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding}")
    return text.encode(encoding)


# How numpy's arrays, and bytes in old protocols, are written. numpy.core was renamed in numpy 2.
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}") from None


def _plain(value: Any) -> Any:
    """With arrays for what stood in for them."""
    if type(value) is _Array:
        return value.value
    if type(value) is list:
        return [_plain(x) for x in value]
    if type(value) is dict:
        return {_plain(k): _plain(v) for k, v in value.items()}
    if type(value) in (str, int):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")
