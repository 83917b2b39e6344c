"""Files of a run: written whole or not at all, and read with errors that say which file is wrong."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...core.errors import TsallisError


class RunError(TsallisError):
    """A run cannot be started, continued or read."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of the file system as one sentence about the path."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename) if error.filename else path
        raise RunError(
            f"{place}: {error.strerror or error}",
            "a folder that can be written, with room on the disk",
            "Free space or choose another place with --out; what was complete before stays, see --resume",
        ) from error


def first_process() -> bool:
    """Whether this is the process that was started by the user, not one that it launched for another device."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def write(path: Path, content: bytes | str) -> None:
    """Replace a file by new content, atomically: a reader, also after a crash, sees the old or the new one, whole.

    Of several processes the first one writes.
    """
    if not first_process():
        return
    with explained(path), replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the path's place when the block ends without an error; until then, and else, the old one stays
    there.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    """Readable JSON with sorted keys: equal values give equal bytes."""
    write(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return _read(path, lambda text: json.loads(text))


def write_yaml(path: Path, value: Any) -> None:
    """YAML in the order given."""
    write(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def read_yaml(path: Path) -> Any:
    """The value of a YAML file of plain types."""
    return _read(path, yaml.safe_load)


def write_table(path: Path, rows: list[dict[str, float]]) -> None:
    """CSV with the union of the rows' columns."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, out.getvalue())


def read_table(path: Path, *, optional: bool = False) -> list[dict[str, float]]:
    """Rows of numbers; none where an optional file is not there."""
    if optional and not path.exists():
        return []
    return _read(
        path,
        lambda text: [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(io.StringIO(text))],
    )


def append_row(path: Path, row: dict[str, float], key: str) -> None:
    """Add a row to a table whose rows rise by a key, in the place of those that are not below: a training that was
    resumed comes by again.
    """
    write_table(path, [*(old for old in read_table(path, optional=True) if old[key] < row[key]), row])


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as safetensors; those that share memory are kept several times."""
    kept, known = {}, set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        kept[name] = own.clone() if own.untyped_storage().data_ptr() in known else own
        known.add(own.untyped_storage().data_ptr())
    write(path, save_tensors(kept))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    try:
        return load_tensors(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
    return RunError(f"{path}: {reason}", "a file written by tsallis run", "Check the path, or run again")
