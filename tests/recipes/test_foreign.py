"""Files of other projects' formats: what is admitted is read, what is not is never called."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import shutil
from pathlib import Path

import numpy as np
import pytest

from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes._shared.foreign import read_hdf5, read_pickle

ARRAYS = {
    "text": np.array(["dog", "cat", "dögs"]),
    "objects": np.array(["dog", "cat"], dtype=object),
    "bytes": np.array([b"dog", b"c"]),
    "columns first": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    "half": np.array([1.5, -2], np.float16),
    "yes": np.array([True, False]),
    "one": np.array(3),
}


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(5))
def test_what_is_admitted(protocol: int, tmp_path: Path) -> None:
    value = {"arrays": ARRAYS, "list": [1, "two", [-3, 2**70]], "labels": ARRAYS["text"]}
    found = read_pickle(_write(tmp_path / "x", pickle.dumps(value, protocol)))
    assert found["list"] == value["list"]
    assert np.array_equal(found["labels"], value["labels"])
    for name, array in ARRAYS.items():
        got = found["arrays"][name]
        assert type(got) is np.ndarray
        assert got.shape == array.shape
        assert got.dtype.kind == ("U" if name == "objects" else array.dtype.kind)
        assert np.array_equal(got, array)


def test_a_file_of_python_2(tmp_path: Path) -> None:
    """There the bytes of an array are text, and numpy has its old name."""
    array = np.array([b"dog", b"\xe9t\xe9"])
    old = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02S3K\x00K\x01\x87R(K\x03U\x01|NNNK\x03K\x01K\x00tb\x89U\x06"
        + array.tobytes()
        + b"tb."
    )
    pickletools.dis(old, io.StringIO())
    assert read_pickle(_write(tmp_path / "x", old)).tolist() == array.tolist()


class _Asks:
    def __init__(self, function: object, *arguments: object) -> None:
        self.asked = (function, arguments)

    def __reduce__(self):
        return self.asked


def _touch(path: Path) -> list[object]:
    """Ways to make a file while a pickle is read."""
    command = f"touch {path}"
    return [
        _Asks(os.system, command),
        _Asks(eval, f"__import__('pathlib').Path({str(path)!r}).touch()"),
        _Asks(exec, f"import pathlib; pathlib.Path({str(path)!r}).touch()"),
        _Asks(Path.touch, path),
        _Asks(np.save, str(path), np.zeros(1)),
        _Asks(shutil.copy, __file__, str(path)),
        [1, {"deep": [_Asks(os.system, command)]}],
    ]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("which", range(7))
def test_what_is_refused_is_never_called(which: int, protocol: int, tmp_path: Path) -> None:
    made = tmp_path / "made"
    content = pickle.dumps(_touch(made)[which], protocol)
    path = _write(tmp_path / "x", content)
    with pytest.raises(DataError, match=r"it asks for .*\. Expected a pickle of str, int, list, dict and numpy arrays"):
        read_pickle(path)
    assert not made.exists()
    assert not (tmp_path / "made.npy").exists()
    # The file is dangerous indeed.
    pickle.loads(content)
    assert made.exists() or (tmp_path / "made.npy").exists()


@pytest.mark.parametrize(
    "value", [1.5, None, True, b"bytes", (1, 2), {1, 2}, [1.5], np.float32(1), np.array([{}]), np.array([1j]), type]
)
def test_what_is_harmless_and_not_expected(value: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a pickle of"):
        read_pickle(_write(tmp_path / "x", pickle.dumps(value)))


def test_states_that_are_not_numpys(tmp_path: Path) -> None:
    """An array of objects from bytes, which would be read as addresses; shapes that do not fit; bytes in a code."""
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nI0\nVb\ntR"
    dtype = b"cnumpy\ndtype\n(V%b\nI0\nI1\ntR"
    array = head + b"(I1\n(I%d\nt" + dtype + b"I00\n%btb."
    for content in (
        array % (1, b"O8", b"C\x08AAAAAAAA"),
        array % (1, b"V8", b"C\x08AAAAAAAA"),
        array % (2**40, b"i8", b"C\x08AAAAAAAA"),
        head + b"(I1\n(I1\ntVi8\nI00\nC\x08AAAAAAAAtb.",
        head + b".",
        b"c_codecs\nencode\n(Vabc\nVutf-7\ntR.",
        b"cnumpy\nndarray\n(tR.",
        b"(lp0\ng0\na.",
    ):
        with pytest.raises(DataError, match="Expected a pickle of"):
            read_pickle(_write(tmp_path / "x", content))


def test_a_truncated_pickle(tmp_path: Path) -> None:
    whole = pickle.dumps([ARRAYS["text"], {"a": ARRAYS["objects"]}], 4)
    for n in range(len(whole)):
        with pytest.raises(DataError, match="Get the file again"):
            read_pickle(_write(tmp_path / "x", whole[:n]))
    with pytest.raises(DataError, match="No such file"):
        read_pickle(tmp_path / "none")


def test_hdf5_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tsallis.recipes._shared import foreign

    monkeypatch.setattr(foreign, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"not installed\. Expected an HDF5 file with one array\. .*pip install h5py"):
        read_hdf5(tmp_path / "x.h5")


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["dataset_1"] = features
    assert np.array_equal(read_hdf5(tmp_path / "x.h5"), features)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["dataset_2"] = features
    whole = (tmp_path / "x.h5").read_bytes()
    at = whole.index(b"SNOD")
    for content in (whole, whole[:100], b"", b"no hdf5", whole[:at] + b"NODE" + whole[at + 4 :]):
        with pytest.raises(DataError, match=r"Expected an HDF5 file with one array\. Get the file again"):
            read_hdf5(_write(tmp_path / "y.h5", content))
