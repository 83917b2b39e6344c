"""`tsallis run` and `tsallis report` as commands: results, interruptions, pages, errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tsallis.cli.main import main
from tsallis.recipes._shared import files

from .conftest import COMMAND, OFTEN, SHORT

START = Callable[..., subprocess.Popen[str]]


def _same(left: Path, right: Path) -> None:
    """Two folders of a command, byte for byte, but for what tells of time, machine and place."""
    aside = {"timing.json", "environment.json", "last.ckpt", ".lock"}
    files_ = [
        sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file() and p.name not in aside) for f in (left, right)
    ]
    assert files_[0] == files_[1]
    assert len(files_[0]) >= 8
    for name in files_[0]:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


def _wait_for_checkpoints(process: subprocess.Popen[str], run: Path, training: str, count: int) -> None:
    """Until this training of the run has written so many checkpoints."""
    seen: set[tuple[Path, int]] = set()
    end = time.monotonic() + 120
    while len(seen) < count and process.poll() is None and time.monotonic() < end:
        for path in run.glob(f"{training}/checkpoints/last.ckpt"):
            try:
                seen.add((path, path.stat().st_mtime_ns))
            except FileNotFoundError:  # being replaced
                continue
        time.sleep(0.002)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this platform")
def test_kill_and_resume_give_the_result_of_an_uninterrupted_run(start: START, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*SHORT, *OFTEN, "--out", "run")
    for training in ("warm-*", "sparse-seed43"):  # of 51 and of 68 steps
        _wait_for_checkpoints(process, out, training, 10)
        assert process.poll() is None, "finished before it could be killed"
        process.kill()
        process.communicate()
        assert not list(out.rglob("result.json"))
        process = start("run", "ssvae", "--resume", "run")
    out_text, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert "sparse" in out_text
    _same(out, finished)


def test_ctrl_c_says_how_to_go_on(start: START, finished: Path, tmp_path: Path) -> None:
    process = start(*SHORT, *OFTEN, "--out", "run")
    _wait_for_checkpoints(process, tmp_path / "run", "warm-*", 5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "to go on: tsallis run ssvae --resume run" in error
    assert "Traceback" not in error
    process = start("run", "ssvae", "--resume", "run")
    assert process.communicate(timeout=200)
    _same(tmp_path / "run", finished)


def test_two_processes_do_not_share_a_run(start: START, tmp_path: Path) -> None:
    process = start(*SHORT, "--epochs", "500", "--out", "run")
    _wait_for_checkpoints(process, tmp_path / "run", "warm-*", 1)
    second = start("run", "ssvae", "--resume", "run")
    _, error = second.communicate(timeout=60)
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert "in use by another process" in error


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of files on this platform")
def test_a_full_disk(start: START, tmp_path: Path) -> None:
    """Files may not grow beyond 20 kB: a checkpoint does not fit. What is there stays readable, and nothing is half."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    code += f"from tsallis.cli.main import main; sys.exit(main({[*SHORT, '--out', 'run']!r}))"
    done = subprocess.run(
        [COMMAND[0], "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "File too large. Expected a folder that can be written, with room on the disk." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists(), "a folder without anything in it blocks the next attempt"


def test_a_checkpoint_that_is_no_checkpoint(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    files.write(run / "run.yaml", (finished / "run.yaml").read_text())
    (warm,) = finished.glob("warm-*")
    files.write(run / warm.name / "checkpoints" / "last.ckpt", b"half a check")
    assert main(["run", "ssvae", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert "last.ckpt: " in error
    assert "Expected a checkpoint of this recipe" in error


def test_a_run_does_not_go_on_with_another_configuration(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "run")
    made = files.read_yaml(finished / "run.yaml")
    made["members"][0]["config"] |= {"lr": 0.5, "threads": 2}
    files.write_yaml(tmp_path / "run" / "run.yaml", made)
    assert main(["run", "ssvae", "--resume", str(tmp_path / "run")]) == 2
    assert "was begun with other values of lr. Expected" in capsys.readouterr().err


def test_threads_are_those_of_all_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows a training, searches for example, too."""
    from tsallis.recipes.ssvae import recipe

    seen, train = [], recipe.train

    def watched(config: Any, folder: Path) -> Any:
        result = train(config, folder)
        seen.append((config.threads, torch.get_num_threads()))
        return result

    monkeypatch.setattr(recipe, "train", watched)
    before = torch.get_num_threads()
    assert main([*SHORT, "--threads", str(before + 1), "--out", str(tmp_path / "run")]) == 0
    assert set(seen) == {(before + 1, before + 1)}
    assert torch.get_num_threads() == before


def test_two_devices(tsallis: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Two processes on the CPU: one folder, one table, every test image once."""
    done = tsallis(*SHORT, "--devices", "2", "--accelerator", "cpu", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sparse") == 1
    result = json.loads((tmp_path / "run" / "sparse-seed43" / "result.json").read_text())
    assert (result["value"] * result["n"]) == pytest.approx(round(result["value"] * result["n"]), abs=1e-3)
    assert 1 <= result["metrics"]["rows"] < 10
    assert len(files.read_table(tmp_path / "run" / "sparse-seed43" / "metrics.csv")) == 4


def test_a_refused_command_leaves_its_place_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "ssvae", "--dataset", "mnist", "--data-dir", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "nonsense"],
            "Recipe 'nonsense'. Expected one of: bitvector_vae, inflection, language_model, parser, signal_game, sst2, "
            "ssvae, translation",
        ),
        (["run", "ssvae", "--preset", "nonsense"], "Preset 'nonsense'. Expected one of: default, mnist, paper, smoke"),
        (["run", "ssvae", "--epoch", "3"], "Perhaps epochs was meant"),
        (["run", "ssvae", "--epochs", "three"], "epochs=three. Expected int"),
        (["run", "ssvae", "--epochs", "0"], "epochs=0. Expected at least 1"),
        (["run", "ssvae", "--epochs"], "Command line"),
        (["run", "ssvae", "--lr", "-1e-3"], "lr=-0.001. Expected more than 0"),
        (["run", "ssvae", "--out", ""], "--out without a name"),
        (["run", "ssvae", "--resume="], "--resume without a name"),
        (["run", "ssvae", "epochs"], "Command line"),
        (["run", "ssvae", "-e", "3"], "'-e'. Expected options such as"),
        (["run", "ssvae", "--estimator", "nonsense"], "sparsemax"),
        (["run", "ssvae", "--devices", "64", "--accelerator", "gpu"], "Expected devices of this machine"),
        (["run", "ssvae", "--dataset", "mnist", "--data-dir", "/nowhere"], "--data-dir: there is no folder"),
        (["run", "ssvae", "--preset", "smoke", "--out", "/dev/null/x"], "Expected a folder that can be written"),
        (["run", "ssvae", "--preset", "smoke", "--out", "."], "Expected a folder that is new or empty"),
        (["run", "ssvae", "--resume", "/nowhere"], "No such file"),
        (["run", "ssvae", "--resume", "x", "--epochs", "3"], "--resume with --epochs"),
        (["run", "ssvae", "--preset", "smoke", "--latent", "100000000000"], "Expected a model and a batch that fit"),
        (["report", "/nowhere"], "No such file"),
    ],
)
def test_bad_input_is_one_message_and_status_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").write_text("")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Expected " in error
    assert "Traceback" not in error
    with pytest.raises(ValueError, match="Expected"):
        main([*words, "--debug"])
    assert not list(tmp_path.rglob("result.json"))


def test_a_truncated_file_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tsallis.recipes.ssvae.data import MNIST

    for name in MNIST.files:
        files.write(tmp_path / "mnist" / name, b"\x1f\x8b\x08 half")
    words = ["run", "ssvae", "--dataset", "mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "Delete train-labels-idx1-ubyte.gz and get it again" in error


def test_help_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "ssvae" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["run", "ssvae", "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "--warm-epochs" in text
    assert "_epochs" not in text
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "--resume" in capsys.readouterr().out


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tsallis import recipes

    monkeypatch.setattr(recipes, "find_spec", lambda name: None if name == "lightning" else name)
    assert main(["list"]) == 0
    assert "pip install 'tsallis[recipes]'" in capsys.readouterr().out
    for words in (["run", "ssvae"], ["report", "x"]):
        assert main(words) == 2
        assert "Not installed: lightning. Expected what recipes need. Run: pip install 'tsallis[recipes]'" in (
            capsys.readouterr().err
        )
