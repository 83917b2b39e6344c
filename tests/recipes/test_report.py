"""`tsallis report`: the page, what it keeps apart, and what it makes of damaged runs."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tsallis.cli.main import main
from tsallis.recipes._shared import files


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]


def test_report(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(finished), "--out", str(tmp_path / "page")]) == 0
    out = capsys.readouterr().out
    assert "sparse" in out
    assert out.rstrip().endswith("index.html")
    names = {"accuracy", "support", "cost", "variance", "reconstructions", "classes"}
    assert {p.name for p in (tmp_path / "page").iterdir()} == {"index.html", *(f"{n}.png" for n in names)}
    assert all((tmp_path / "page" / f"{n}.png").read_bytes().startswith(b"\x89PNG") for n in names)
    page = _Page()
    text = (tmp_path / "page" / "index.html").read_text()
    page.feed(text)
    assert page.tags.count("img") == len(names)
    assert "script" not in page.tags
    assert all(link.startswith("data:") for link in page.links), "the page needs something outside it"
    result = json.loads((finished / "sparse-seed43" / "result.json").read_text())
    assert result["split"][:16] in text


def test_report_of_hostile_text_and_unfinished_runs(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    member = run / "sparse-seed43"
    result = json.loads((member / "result.json").read_text())
    result |= {"row": "<script>[red]", "title": "<b>&"}
    files.write_json(member / "result.json", result)
    made = files.read_yaml(run / "run.yaml")
    made["members"].append({**made["members"][0], "name": "sparse-seed44"})
    files.write_yaml(run / "run.yaml", made)
    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr()
    assert "sparse-seed44: not finished, left out" in printed.err
    assert "<script>[red]" in printed.out
    text = (run / "report" / "index.html").read_text()
    assert "<script" not in text
    assert "sparse-seed44" in text
    result |= {"split": "0" * 64, "seed": 44}
    files.write_json(tmp_path / "copy" / "result.json", result)
    for name in ("timing.json", "config.yaml", "metrics.csv", "samples.safetensors", "environment.json"):
        files.write(tmp_path / "copy" / name, (member / name).read_bytes())
    assert main(["report", str(run), str(tmp_path / "copy")]) == 0
    assert "DIFFERENT DATA SPLITS" in capsys.readouterr().out.replace("\n", " ")


def test_report_keeps_apart_what_differs(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished / "sparse-seed43", other)
    out = ["--out", str(tmp_path / "page")]
    assert main(["report", str(finished), str(other), *out]) == 2
    assert "a second run of sparse with seed 43. Expected each seed once" in capsys.readouterr().err
    assert main(["report", str(finished), str(finished / "sparse-seed43"), *out]) == 0
    assert "±" not in capsys.readouterr().out, "one run, named twice"
    config = files.read_yaml(other / "config.yaml")
    files.write_yaml(other / "config.yaml", {**config, "epochs": 9, "threads": 7})
    assert main(["report", str(finished), str(other), *out]) == 0
    printed = capsys.readouterr().out
    assert "sparse (epochs=4)" in printed
    assert "sparse (epochs=9)" in printed


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b"{}"),
        ("result.json", b"[]"),
        ("timing.json", b'{"seconds": "x"}'),
        ("config.yaml", b"- a"),
        ("config.yaml", None),
        ("samples.safetensors", b"x"),
        ("metrics.csv", b"epoch,loss\n1,2\n"),
        ("environment.json", None),
    ],
)
def test_report_of_damaged_files(
    name: str, content: bytes | None, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "sparse-seed43", tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink() if content is None else path.write_bytes(content)
    assert main(["report", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "tsallis run wrote" in error or "written by tsallis run" in error
    assert error.count("\n") == 1
