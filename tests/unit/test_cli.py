"""The command line on a base install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tsallis.cli.main import COMMANDS, main
from tsallis.core import registry


def test_check_passes_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--fast", "sparsemax"]) == 0
    out = capsys.readouterr().out
    assert "ok" in out
    assert "1 of 1 mappings obey every law" in out


def test_check_reports_a_broken_law(capsys: pytest.CaptureFixture[str]) -> None:
    from ..negative.test_controls import DroppedGradient

    with registry.registered(DroppedGradient()):
        assert main(["check", "--fast", "dropped_gradient"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN" in out
    assert "jacobian" in out


def test_doctor_shows_every_decision(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in registry.names())
    assert "-> cpu" in out
    assert "-> torch" in out
    assert "highest priority" in out


def test_bench_writes_json_and_refuses_a_red_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.json"
    assert (
        main(["bench", "mappings", "--mapping", "sparsemax", "--shape", "8x8", "--seconds", "0", "--json", str(path)])
        == 0
    )
    record = json.loads(path.read_text())
    assert {r["input"] for r in record["results"]} == {"normal", "near_uniform", "peaked", "ties", "two_level"}
    for r in record["results"]:
        contestants = {"ours", "softmax", "package"} | (set() if r["backward"] else {"copy"})
        assert set(r["milliseconds"]) == contestants
        assert min(r["milliseconds"].values()) > 0
    assert {r["backward"] for r in record["results"]} == {True, False}
    assert list(tmp_path.iterdir()) == [path]

    from ..negative.test_controls import OffByOneSupport

    capsys.readouterr()
    with registry.registered(OffByOneSupport()):
        assert main(["bench", "mappings", "--mapping", "off_by_one", "--shape", "8x8", "--seconds", "0"]) == 1
    out = capsys.readouterr().out
    assert "RED" in out
    assert "ratio" not in out


def test_bench_times_each_alpha_beside_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--mapping",
        "entmax",
        "--mapping",
        "topk_sparsemax",
        "--shape",
        "4x150",
        "--seconds",
        "0",
        "--input",
        "flat",
    ]
    assert main(["bench", "mappings", *words]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("(4, 150)")]
    assert [("alpha=1.3" in line, "alpha=1.7" in line) for line in lines[:4]] == [(True, False)] * 2 + [
        (False, True)
    ] * 2
    assert all(line.split()[-2] != "-" for line in lines[:4])
    assert all(line.split()[-2] == "-" for line in lines[4:]), "the package has no such mapping"
    assert all((line.split()[-1] == "-") == ("backward" in line) for line in lines), "a copy has no backward pass"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nonsense"], "one of: budget, entmax"),
        (["bench", "mappings", "--shape", "1024"], "two positive numbers"),
        (
            [
                "bench",
                "mappings",
                "--mapping",
                "sparsemax",
                "--shape",
                "4x4",
                "--seconds",
                "0",
                "--json",
                "/nowhere/x.json",
            ],
            "can be written",
        ),
    ],
)
def test_bad_input_is_one_message_and_status_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_installed_command() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "tsallis.cli.main", *words], capture_output=True, text=True)

    helped = run("--help")
    assert helped.returncode == 0
    assert all(command in helped.stdout for command in COMMANDS)
    assert run("--version").stdout.startswith("tsallis ")
    assert run().returncode == 2
    assert run("frobnicate").returncode == 2
    assert "Traceback" in run("--debug", "check", "nonsense").stderr


def test_bench_losses_gates_and_tells_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    words = ["--shape", "8x30", "--layer", "8x4x2100", "--alpha", "1.5", "--support", "5", "--seconds", "0"]
    assert main(["bench", "losses", *words, "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "green" in shown
    assert "entmax_loss, alpha 1.5" in shown
    rows = json.loads(path.read_text())["results"]
    assert {row["what"] for row in rows} >= {"entmax_loss, alpha 1.5", "layer, alpha 1.5, lists"}
    assert all(row["ratio"][1] > 0 for row in rows)
    assert main(["bench", "losses", "--layer", "8x4"]) == 2
    assert "3 positive numbers such as 1024x512x32000" in capsys.readouterr().err


def test_bench_structured_gates_and_counts_per_item(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsallis.cli import bench_structured
    from tsallis.structured import Bits, Matching

    monkeypatch.setattr(bench_structured, "ROWS", {"bits": (bench_structured.Row(Bits(6, "onoff"), 4, 0.3),)})
    monkeypatch.setattr(bench_structured, "GATE", (Bits(5, "onoff"), Matching(3)))
    path = tmp_path / "figures.json"
    assert main(["bench", "structured", "--factor", "bits", "--seconds", "0", "--items", "2", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "gate: green" in out
    cells = json.loads(path.read_text())["results"]
    assert [cell["pass"] for cell in cells] == ["forward", "forward + backward"]
    for cell in cells:
        ms = cell["milliseconds"]
        assert ms["ours, per item"] == pytest.approx(ms["ours"] / 4)
        assert cell["ratio"][0] <= cell["ratio"][1] <= cell["ratio"][2]
    assert main(["bench", "structured", "--items", "0"]) == 2
    monkeypatch.setattr(bench_structured, "TOLERANCE", -1.0)
    capsys.readouterr()
    assert main(["bench", "structured", "--seconds", "0"]) == 1
    out = capsys.readouterr().out
    assert "no speed is reported" in out
    assert "ms" not in out
