"""`tsallis predict`: predictions against enumeration, lines that cannot be read, pipes; with a recipe that replaces
letters.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tsallis import recipes
from tsallis.cli import answers
from tsallis.cli.main import main
from tsallis.recipes._shared import files
from tsallis.recipes._shared.predictions import Prediction

from .conftest import TOYS
from .spelling import LETTERS, letters_table, make_run, predict, read_tsv, spelled

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def table() -> torch.Tensor:
    return letters_table()


@pytest.fixture
def run(tmp_path: Path, table: torch.Tensor) -> Path:
    return make_run(tmp_path / "run", table)


def test_predictions_are_those_of_an_enumeration(run: Path, table, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["abc", "a", "é", "sc\\", "<\u2028", "ab\tc", "c", "ba"]
    rows = read_tsv(predict(run, "\n".join(words).encode(), capsys))
    several = 0
    for number, (word, row) in enumerate(zip(words, rows, strict=True), 1):
        expected = sorted(spelled(word, table).items(), key=lambda item: -item[1])
        assert row["line"] == str(number)
        assert row["prediction"] == expected[0][0]
        assert float(row["probability"]) == pytest.approx(expected[0][1], rel=1e-5)
        assert row["certificate"] == ("ENUMERATED" if len(expected) <= 8 else "ARGMAX_EXACT")
        others = json.loads(row["alternatives"] or "[]")
        # A beam finds as many at least as it is wide.
        assert len(others) >= min(len(expected), 8) - 1
        for (text, p), (text_expected, p_expected) in zip(others, expected[1:], strict=False):
            assert p == pytest.approx(p_expected, rel=1e-4)
            assert text == text_expected
        assert row["reason"] == ""
        several += len(expected) > 1
    assert several >= 4
    assert {letter for row in rows for letter in row["prediction"]} & {"\t", "\\", "\u2028"}


def test_json_says_the_same(run: Path, table, capsys: pytest.CaptureFixture[str]) -> None:
    content = b"a\n\nsc\\\n"
    rows = read_tsv(predict(run, content, capsys, status=1))
    values = [json.loads(line) for line in predict(run, content, capsys, "--format", "json", status=1).splitlines()]
    assert [value["line"] for value in values] == [1, 2, 3]
    for row, value in zip(rows, values, strict=True):
        assert (value["prediction"] or "") == row["prediction"]
        assert (value["reason"] or "") == row["reason"]
    assert values[1]["prediction"] is values[1]["probability"] is values[1]["certificate"] is None
    proof = values[0]["certificate"]
    assert proof["status"] == "ENUMERATED"
    assert proof["mass"] == pytest.approx(1, abs=1e-5)
    assert proof["unseen"] is None
    assert math.exp(values[0]["log_prob"]) == pytest.approx(values[0]["probability"])
    texts = {values[0]["prediction"], *(other["text"] for other in values[0]["alternatives"])}
    assert texts == set(spelled("a", table))
    assert len(texts) > 1


def test_bad_lines_get_a_reason_and_the_others_go_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {
        b"": "An empty line. Expected text. Leave it out.",
        b" \t ": "An empty line. Expected text. Leave it out.",
        b"abz": "The letter 'z'. Expected one of the vocabulary. Leave it out.",
        b"a" * 10_000: "A word of 10000 letters. Expected 50 at most. Cut it.",
        b"a" * 1_000_000: "A line of more than 100000 characters. Expected a shorter one. Cut it.",
        b"ab\xffc": "The byte 0xff at character 3. Expected text in UTF-8. Convert the file.",
        b"a\x00": "The letter '\\x00'. Expected one of the vocabulary. Leave it out.",
        b"<script>x": "The letter 'x'. Expected one of the vocabulary. Leave it out.",
    }
    alone = {word: read_tsv(predict(run, word.encode(), capsys))[0] for word in ("abc", "é")}
    content = b"\xef\xbb\xbf" + b"".join(b"abc\r\n" + line + b"\n\xc3\xa9\n" for line in bad).removesuffix(b"\n")
    rows = read_tsv(predict(run, content, capsys, status=1))
    assert len(rows) == 3 * len(bad)
    for place, reason in enumerate(bad.values()):
        first, refused, second = rows[3 * place : 3 * place + 3]
        assert refused == dict.fromkeys(answers.COLUMNS, "") | {"line": str(3 * place + 2), "reason": reason}
        assert first | {"line": "1"} == alone["abc"]
        assert second | {"line": "1"} == alone["é"]
    assert main(["predict", str(run), str(run.parent / "lines.txt")]) == 1
    error = capsys.readouterr().err
    assert error == f"{len(bad)} of {len(rows)} lines without a prediction, the first is line 2: An empty line. " + (
        "Expected text. Leave it out.\n"
    )


def test_what_a_terminal_obeys_is_escaped(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def refuse(run, lines, **_):
        return (Prediction(None, reason=f"The word {line}") for line in lines)

    monkeypatch.setattr(recipes, "load", lambda name: SimpleNamespace(predict=refuse))
    (run.parent / "lines.txt").write_bytes(b"\x1b[2Ja\rb\x07\n")
    assert main(["predict", str(run), str(run.parent / "lines.txt")]) == 1
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert r"The word \x1b[2Ja\rb\x07" in text
        assert not set(text) & {"\x1b", "\r", "\x07"}


def test_beams_and_numbers_of_sequences(run: Path, table, capsys: pytest.CaptureFixture[str]) -> None:
    # No letter twice: nothing is as probable as anything else.
    word = max(itertools.permutations("abcript", 3), key=lambda letters: len(spelled("".join(letters), table)))
    expected = sorted(spelled("".join(word), table).items(), key=lambda item: -item[1])
    assert len(expected) > 20

    def found(*words: str) -> dict:
        return json.loads(predict(run, "".join(word).encode(), capsys, "--format", "json", *words))

    wide = found("--beam", "1000")
    assert wide["certificate"]["status"] == "ENUMERATED"
    assert wide["certificate"]["mass"] == pytest.approx(1, abs=1e-5)
    assert len(wide["alternatives"]) == 9
    several = found("--beam", "1000", "--n-best", "20")
    assert [other["text"] for other in several["alternatives"]] == [text for text, _ in expected[1:20]]
    assert found("--beam", "1")["certificate"]["status"] != "ENUMERATED"
    (alone, usual) = found("--n-best", "1"), found()
    assert alone["prediction"] == usual["prediction"] == expected[0][0]
    assert alone["alternatives"] == []
    assert len(usual["alternatives"]) >= 7


@pytest.mark.parametrize("option", ["--beam", "--n-best"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x", "", "10001", "9" * 5000, "²"])
def test_numbers_that_cannot_be(option: str, value: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(run), f"{option}={value}"])
    assert stopped.value.code == 2
    assert f"argument {option}: {value!r}. Expected a number from 1 to 10000." in capsys.readouterr().err


def test_no_line_is_no_prediction(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(run, b"", capsys) == "\t".join(answers.COLUMNS) + "\n"
    assert predict(run, b"", capsys, "--format", "json") == ""


def test_a_sequence_that_does_not_end_is_a_reason(tmp_path: Path, table, capsys: pytest.CaptureFixture[str]) -> None:
    table[0] = table[1]
    row = json.loads(predict(make_run(tmp_path / "run", table), b"a", capsys, "--format", "json", status=1))
    assert row["reason"].startswith("The search found no sequence that ends in time")
    assert row["certificate"]["status"] == "BOUNDED"
    assert row["certificate"]["gap"] is None


def test_a_folder_is_no_file_to_write(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "model.safetensors").unlink()
    source = run.parent / "lines.txt"
    source.write_text("abc\n")
    assert main(["predict", str(run), str(source), "--out", str(run)]) == 2
    # Said before the model is looked at.
    assert f"{run}: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocabulary.json", None, "vocabulary.json: No such file or directory. Expected a file written by tsallis run"),
        ("vocabulary.json", b"{", "Expected a file written by tsallis run"),
        ("vocabulary.json", b"3", "speller cannot predict with it"),
        ("model.safetensors", b"x", "model.safetensors: "),
        ("model.safetensors", None, "model.safetensors: No such file"),
        ("result.json", b"{}", "Expected a file written by tsallis run"),
    ],
)
def test_damaged_runs_are_one_message(
    name: str, content: bytes | None, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).unlink() if content is None else (run / name).write_bytes(content)
    source, out = run.parent / "lines.txt", run.parent / "out.tsv"
    source.write_text("abc\n")
    out.write_text("old")
    assert main(["predict", str(run), str(source), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Expected " in error
    assert error.count("\n") == 1
    assert out.read_text() == "old"
    assert not list(run.parent.glob(".*"))
    with pytest.raises(ValueError, match="Expected"):
        main(["--debug", "predict", str(run), str(source)])


def test_weights_of_another_shape_and_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "lines.txt"
    source.write_text("abc\n")
    for folder, table in (("small", torch.zeros(2, 2)), ("nan", torch.full((len(LETTERS),) * 2, torch.nan))):
        assert main(["predict", str(make_run(tmp_path / folder, table)), str(source)]) == 2
        error = capsys.readouterr().err
        assert "Expected " in error
        assert "Traceback" not in error


@pytest.mark.parametrize(("change", "message"), [(-1, "fewer predictions than lines"), (1, "more predictions than")])
def test_a_recipe_that_miscounts(
    change: int, message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def miscount(run, lines, **_):
        for _ in range(len(list(lines)) + change):
            yield Prediction("a", 0.0)

    monkeypatch.setattr(recipes, "load", lambda name: SimpleNamespace(predict=miscount))
    source = run.parent / "lines.txt"
    source.write_text("abc\nabc\n")
    assert main(["predict", str(run), str(source)]) == 2
    assert message in capsys.readouterr().err


def test_which_run(tmp_path: Path, table, capsys: pytest.CaptureFixture[str]) -> None:
    folder, source = tmp_path / "several", tmp_path / "lines.txt"
    source.write_text("a\n")
    names = ["first-seed1", "second-seed1", "third-seed1"]
    files.write_yaml(folder / "run.yaml", {"members": [{"name": name} for name in names]})
    assert main(["predict", str(folder), str(source)]) == 2
    assert "no finished run. Expected one at least" in capsys.readouterr().err
    other = table.clone()
    other[1] = table[2]
    make_run(folder / names[1], other, row="second")
    make_run(folder / names[2], table, row="third")
    assert main(["predict", str(folder), str(source)]) == 0
    printed = capsys.readouterr()
    said = "second-seed1: the first of 2 finished runs; others to name: third-seed1; unfinished: first-seed1\n"
    assert said in printed.err
    assert main(["predict", str(folder / names[1]), str(source)]) == 0
    alone = capsys.readouterr()
    assert alone.out == printed.out
    assert alone.err == ""
    assert main(["predict", str(folder / names[2]), str(source)]) == 0
    assert capsys.readouterr().out != printed.out
    (folder / names[2] / "result.json").unlink()
    assert main(["predict", str(folder), str(source)]) == 0
    assert "second-seed1: the only finished run; unfinished: first-seed1, third-seed1\n" in capsys.readouterr().err
    make_run(tmp_path / "mute", table, recipe="mute")
    for words, message in (
        ([str(tmp_path / "mute"), str(source)], "is a run of mute, which predicts nothing from lines. Expected a run"),
        ([str(tmp_path / "nowhere"), str(source)], "No such file"),
        ([str(folder / names[1]), str(tmp_path / "nothing")], "nothing: No such file or directory. Expected files"),
        ([str(folder / names[1]), str(tmp_path)], "Expected files that can be read"),
        ([str(folder / names[1]), str(source), "--out", "/dev/null/x"], "Expected files that can be read and written"),
        ([str(folder / names[1]), str(source), "--explain", "/dev/null/x"], "Expected files that can be read and"),
    ):
        assert main(["predict", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_without_the_extra(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(recipes, "find_spec", lambda name: None if name == "lightning" else name)
    assert main(["predict", str(run)]) == 2
    assert "Run: pip install 'tsallis[recipes]'" in capsys.readouterr().err


def test_out_is_what_would_be_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = predict(run, "abc\né\n\n".encode(), capsys, status=1)
    out = run.parent / "new" / "out.tsv"
    assert predict(run, "abc\né\n\n".encode(), capsys, "--out", str(out), status=1) == ""
    assert out.read_bytes().decode() == printed
    assert [path.name for path in out.parent.iterdir()] == ["out.tsv"]


def test_tiny_probabilities_and_odd_characters() -> None:
    row = answers.tsv(1, Prediction("\x1b[31m\ud800\x85\n", -2000.0)).split("\t")
    assert row[1] == r"\x1b[31m\ud800\x85\n"
    mantissa, exponent = row[2].split("e")
    assert math.log(float(mantissa)) + int(exponent) * math.log(10) == pytest.approx(-2000)
    assert answers.tsv(1, Prediction("\u200c", 0.0)).split("\t")[1:3] == ["\u200c", "1"]
    assert answers.tsv(1, Prediction("a")).split("\t")[2] == ""
    assert json.loads(answers.json_object(1, Prediction("a")))["probability"] is None
    with pytest.raises(ValueError, match="a text or a reason"):
        Prediction(None)


CODE = (
    "import sys, tsallis.recipes as recipes; recipes.__path__.append({toys!r}); "
    "from tsallis.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def start(*words: object, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE.format(toys=str(TOYS)), "predict", *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_a_line_is_answered_before_the_next_one_comes(run: Path) -> None:
    """As someone types them; and in UTF-8 whatever the locale."""
    with start(run, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0") as process:
        timer = threading.Timer(100, process.kill)
        timer.daemon = True
        timer.start()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"line\tprediction")
        for number, line in enumerate(("é\n", "\n", "abc\n"), 1):
            process.stdin.write(line.encode())
            process.stdin.flush()
            row = process.stdout.readline().decode()
            assert row.startswith(f"{number}\t")
            assert ("é", "An empty line", "ARGMAX_EXACT")[number - 1] in row
        out, error = process.communicate()
        timer.cancel()
    assert out == b""
    assert process.returncode == 1
    assert error.startswith(b"1 of 3 lines without a prediction")


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
def test_a_reader_that_goes_away(run: Path) -> None:
    source = run.parent / "many.txt"
    source.write_text("abc\n" * 20_000)
    with start(run, source) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"line")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_standard_input_is_the_default(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = predict(run, b"abc\nba\n", capsys)
    for words in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\nba\n")))
        assert main(["predict", str(run), *words]) == 0
        assert capsys.readouterr().out == named
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", str(run)]) == 2
    assert "No standard input. Expected lines" in capsys.readouterr().err


def test_help_says_what_the_status_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["predict", "--help"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0 if every line got a prediction, 1 if some did not" in text
