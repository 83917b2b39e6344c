"""Files, seeds, batches and data sets: what a run stands on."""

from __future__ import annotations

import errno
import gzip
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from tsallis.core.errors import TsallisError
from tsallis.recipes._shared import files
from tsallis.recipes._shared.config import RunConfig
from tsallis.recipes._shared.datasets import DataError, Source, locate, read_idx, read_lines
from tsallis.recipes._shared.files import RunError
from tsallis.recipes._shared.loading import Loader
from tsallis.recipes._shared.packages import require
from tsallis.recipes._shared.seeding import derive, generator, seed_all
from tsallis.recipes._shared.training import scheduled
from tsallis.recipes.language_model.vocabulary import of_pieces
from tsallis.recipes.translation.pieces import Pieces
from tsallis.recipes.translation.translate import scores


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "result.json"
    files.write_json(path, {"b": 1, "a": [1.5, "ü"]})
    assert files.read_json(path) == {"a": [1.5, "ü"], "b": 1}

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device\. Expected a folder .*--resume"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": [1.5, "ü"], "b": 1}
    assert list(path.parent.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Expected a folder that can be written"):
        files.write(tmp_path / "file" / "x", "text")


@pytest.mark.parametrize("read", [files.read_json, files.read_yaml, files.read_weights])
def test_files_that_are_not_what_they_should_be(read, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file"):
        read(tmp_path / "absent")
    (tmp_path / "half").write_text('{"a": [1, ')
    with pytest.raises(RunError, match=r"half: .*Expected a file written by tsallis run"):
        read(tmp_path / "half")


def test_tables_and_weights_survive(tmp_path: Path) -> None:
    rows = [{"epoch": 1.0, "loss": 0.1}, {"epoch": 2.0, "accuracy": 0.5}]
    files.write_table(tmp_path / "t.csv", rows)
    assert files.read_table(tmp_path / "t.csv") == rows
    assert files.read_table(tmp_path / "none.csv", optional=True) == []
    with pytest.raises(RunError, match="No such file"):
        files.read_table(tmp_path / "none.csv")
    weights = {"w": torch.arange(6.0).reshape(2, 3).T}
    files.write_weights(tmp_path / "w.safetensors", weights)
    assert torch.equal(files.read_weights(tmp_path / "w.safetensors")["w"], weights["w"])


def test_seeds_depend_on_the_whole_key() -> None:
    keys = [(1, "train", 0, 0), (1, "train", 0, 1), (1, "train", 1, 0), (2, "train", 0, 0), (1, "test", 0, 0)]
    assert len({derive(*key) for key in keys}) == len(keys)
    seed_all(*keys[0])
    first = (torch.rand(2).tolist(), np.random.rand(2).tolist())  # noqa: NPY002
    seed_all(*keys[0])
    assert first == (torch.rand(2).tolist(), np.random.rand(2).tolist())  # noqa: NPY002
    assert not torch.equal(torch.rand(2, generator=generator(1)), torch.rand(2, generator=generator(2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_in_the_middle_of_an_epoch(workers: int) -> None:
    def loader() -> Loader:
        return Loader(lambda i: i, 10, 3, seed=4, workers=workers)

    def epoch(of: Loader, number: int) -> list[list[int]]:
        of.sampler.set_epoch(number)
        return [batch.tolist() for batch in of]

    whole = loader()
    first, second = epoch(whole, 0), epoch(whole, 1)
    assert len(whole) == len(first) == 4
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    interrupted = loader()
    interrupted.sampler.set_epoch(1)
    batches = iter(interrupted)
    assert [next(batches).tolist() for _ in range(2)] == second[:2]
    state = interrupted.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    assert epoch(resumed, 1) == second[2:]
    assert epoch(resumed, 2) == epoch(whole, 2)
    assert [b.tolist() for b in Loader(lambda i: i, 4, 3)] == [[0, 1, 2], [3]]


def test_processes_share_the_batches_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsallis.recipes._shared import loading

    taken = []
    for rank in range(3):
        monkeypatch.setattr(loading, "_world", lambda r=rank: (r, 3))
        taken.append([batch.tolist() for batch in Loader(lambda i: i, 10, 3, seed=1)])
    assert [len(batches) for batches in taken] == [2, 2, 2]  # 4 batches, and 2 again so that all have the same number
    assert {i for batches in taken for batch in batches for i in batch} == set(range(10))
    evaluated = []
    for rank in range(3):
        monkeypatch.setattr(loading, "_world", lambda r=rank: (r, 3))
        evaluated += [batch.tolist() for batch in Loader(lambda i: i, 10, 3)]
    assert sorted(chain(*evaluated)) == list(range(10))
    assert len(evaluated) == 4


def _idx(path: Path, shape: tuple[int, ...], packed: bool = True) -> bytes:
    data = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    data += bytes(i % 251 for i in range(int(np.prod(shape))))
    path.write_bytes(gzip.compress(data) if packed else data)
    return data


def test_idx_files(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    for packed in (True, False):
        data = _idx(path, (3, 4, 5), packed)
        x = read_idx(path, (3, 4, 5))
        assert x.dtype == torch.uint8
        assert x.flatten().tolist() == list(data[16:])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw, data: raw[:-20],  # a download that stopped
        lambda raw, data: gzip.compress(data[:-1]),
        lambda raw, data: gzip.compress(data + b"x"),
        lambda raw, data: gzip.compress(data[:10]),
        lambda raw, data: b"",
        lambda raw, data: b"<html>not found</html>",
        lambda raw, data: raw[:30] + bytes(30) + raw[60:],
        lambda raw, data: gzip.compress(bytes([0, 0, 13]) + data[3:]),
    ],
)
def test_spoilt_idx_files(spoil, tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    data = _idx(path, (3, 4, 5))
    path.write_bytes(spoil(path.read_bytes(), data))
    with pytest.raises(DataError, match=r"Expected an idx file of 3x4x5 bytes\. Delete x.gz and get it again"):
        read_idx(path, (3, 4, 5))
    _idx(path, (4, 3, 5))
    with pytest.raises(DataError, match="shape 4x3x5"):
        read_idx(path, (3, 4, 5))


SOURCE = Source("toy", "https://localhost:1/", {"a.gz": "0" * 64, "b.gz": "0" * 64})


def test_data_is_found_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"--data-dir: there is no folder .*toy'? with a.gz, b.gz"):
        locate(SOURCE, config)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.gz").write_text("")
    with pytest.raises(DataError, match=r"no file b\.gz"):
        locate(SOURCE, config)
    (tmp_path / "toy" / "b").write_text("")
    expected = {"a.gz": tmp_path / "toy" / "a.gz", "b.gz": tmp_path / "toy" / "b"}
    assert locate(SOURCE, config) == expected
    monkeypatch.setenv("TSALLIS_DATA", str(tmp_path))
    assert locate(SOURCE, RunConfig()) == expected


def test_a_download_that_fails_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TSALLIS_DATA", str(tmp_path))  # has no folder of this data set
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"Download of https://localhost:1/a\.gz failed.*pass --data-dir DIR"):
        locate(SOURCE, RunConfig())
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_download_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From a server on this machine: the right content is cached, another one is refused and not kept."""
    import hashlib
    import http.server
    import threading

    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.gz").write_text("content")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"), **kwargs)

        def log_message(self, *args) -> None:
            pass

    monkeypatch.delenv("TSALLIS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            with pytest.raises(DataError, match="hash"):
                locate(Source("toy", url, {"a.gz": "0" * 64}), RunConfig())
            good = Source("toy", url, {"a.gz": hashlib.sha256(b"content").hexdigest()})
            assert locate(good, RunConfig())["a.gz"].read_text() == "content"
        finally:
            server.shutdown()
            thread.join()
    assert locate(good, RunConfig())["a.gz"].read_text() == "content"


@pytest.mark.parametrize(
    ("rise", "expected"),
    [
        (2, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 0]), (0, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0, 0]),
        (9, [0.1, 0.2, 0.3, 0.4, 0.5, 0, 0]),
    ],
)  # fmt: skip
def test_rates_rise_and_fall_on_lines(rise: int, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduled(optimizer, rise, 5)["lr_scheduler"]["scheduler"]
    found = []
    for _ in expected:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a\n\nb", ["a", "", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\x0bb\x0c\x1c\x85\u2028\u2029c\rd\n", ["a\x0bb\x0c\x1c\x85\u2028\u2029c\rd"]),
    ],
)
def test_lines_end_in_line_feeds_only(text: str, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(text.encode())
    (tmp_path / "packed").write_bytes(gzip.compress(text.encode()))
    for name in ("plain", "packed"):
        assert read_lines(tmp_path / name, "text") == lines


def test_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("importlib.metadata", "what reads versions").version("torch") == torch.__version__
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TsallisError, match=r"No package tokenizers\. Expected what learns .*--pieces 0"):
        of_pieces(["a"], 300)
    with pytest.raises(TsallisError, match=r"No package tokenizers\. Expected what cuts .*'tsallis\[recipes\]'"):
        Pieces.learn(["a"], 300)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(TsallisError, match=r"No package sacrebleu\. Expected what computes BLEU"):
        scores(["a"], ["a"])
