"""Finding data: in a folder, or downloaded with its checksum."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import TsallisError
from .config import RunConfig


class DataError(TsallisError):
    """Data that is not there, or not what it should be."""


@dataclass(frozen=True)
class Source:
    """Files of a data set: its folder below the data folder, where to download them, and their SHA-256 sums (None where
    nothing that can be downloaded is known to be these files).
    """

    folder: str
    url: str
    files: Mapping[str, str | None]


def locate(source: Source, config: RunConfig) -> dict[str, Path]:
    """The path of each file: under config.data_dir if given, else under $TSALLIS_DATA if it has the folder, else
    downloaded into the user's cache.
    """
    given = config.data_dir or os.environ.get("TSALLIS_DATA")
    folder = Path(given or "") / source.folder
    if not given or not (config.data_dir or folder.is_dir()):
        return {name: _download(source, name) for name in source.files}
    if not folder.is_dir():
        advice = f"Put the files of {source.url} there"
        raise DataError(
            f"--data-dir: there is no folder {folder}",
            f"a folder {source.folder!r} with {', '.join(source.files)}",
            advice if None in source.files.values() else f"{advice}, or leave --data-dir out to download them",
        )
    found: dict[str, Path] = {}
    for name in source.files:
        plain = folder / name.removesuffix(".gz")
        found[name] = plain if plain.is_file() else folder / name
        if not found[name].is_file():
            raise DataError(
                f"{folder} has no file {name}", f"the files {', '.join(source.files)}", f"Get it from {source.url}"
            )
    return found


def _download(source: Source, name: str) -> Path:
    if source.files[name] is None:
        raise DataError(
            f"{source.folder} is not here, and no download is known to be the same files",
            f"DIR/{source.folder} with {', '.join(source.files)}",
            f"Make them from {source.url} and pass --data-dir DIR, or set TSALLIS_DATA",
        )
    import pooch

    cache = Path(pooch.os_cache("tsallis")) / source.folder
    try:
        pooch.get_logger().setLevel("ERROR")
        path = pooch.retrieve(
            source.url + name, known_hash=f"sha256:{source.files[name]}", fname=name, path=cache, progressbar=False
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"Download of {source.url}{name} failed: {reason}",
            f"{', '.join(source.files)}",
            f"Put them into DIR/{source.folder} and pass --data-dir DIR, or set TSALLIS_DATA",
        ) from error
    return Path(path)


def read_text(path: Path, expected: str) -> str:
    """UTF-8 text of a file, gzipped or not; ``expected`` says in errors what it should be."""
    try:
        return _unpacked(path).decode()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path}: {error}", expected, "Get it again") from error


def read_lines(path: Path, expected: str) -> list[str]:
    """Lines of such a text, without their ends: a line feed, perhaps with a carriage return before it. Other ends,
    which Python knows too, occur within lines.
    """
    lines = read_text(path, expected).split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _unpacked(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A uint8 tensor from an idx file, gzipped or not, of exactly the expected shape."""
    expected = f"an idx file of {'x'.join(map(str, shape))} bytes"
    advice = f"Delete {path.name} and get it again"
    try:
        data = _unpacked(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}", expected, advice) from error
    header = 4 + 4 * len(shape)
    if len(data) < header or data[:4] != bytes([0, 0, 8, len(shape)]):
        raise DataError(f"{path}: not an idx file of {len(shape)} dimensions", expected, advice)
    found = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(len(shape)))
    if found != shape or len(data) != header + math.prod(shape):
        size = f"{len(data) - header} bytes for shape {'x'.join(map(str, found))}"
        raise DataError(f"{path}: {size}", expected, advice)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=header).copy()).reshape(shape)


def split_hash(parts: Iterable[np.ndarray]) -> str:
    """SHA-256 of the indices of all parts of a split, as little-endian int64."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part, "<i8").tobytes())
    return digest.hexdigest()
