"""Translation: sentences, searches, scores, and the smoke preset."""

from __future__ import annotations

import math
import os
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis import decoding
from tsallis.cli.main import main
from tsallis.decoding import Certificate, Decoded, Hypothesis, Status
from tsallis.recipes._shared import plan, seq2seq
from tsallis.recipes._shared.clock import Clock, median, total
from tsallis.recipes._shared.config import ConfigError
from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes._shared.files import RunError, read_table

pytest.importorskip("sacrebleu", reason="the extra `recipes` is not installed whole")

from tsallis.recipes.translation import recipe
from tsallis.recipes.translation.config import Config
from tsallis.recipes.translation.data import MULTI30K, encoded, load
from tsallis.recipes.translation.heads import NAMES
from tsallis.recipes.translation.model import Training, build
from tsallis.recipes.translation.pieces import FIRST, Pieces, normalised
from tsallis.recipes.translation.translate import length, rates, scores, translate

from ..unit.toy_sequences import EOS, toys
from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "translation", "smoke", {}).members
LINES = ["the small dog sees the smallest dogs.", "a dogsled, small and smaller?", "sees the sled"] * 10
SMALL = Config(width=32, heads=8, feedforward=16, layers=2, dropout=0.0, pieces=FIRST + 30, max_length=20, beam=3)


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces.learn(LINES, FIRST + 30)


def _model(config: Config, size: int) -> ts.nn.TransformerSeq2Seq:
    torch.manual_seed(0)
    return build(config, size).eval()


@torch.no_grad()
def _ending(config: Config, pieces: Pieces) -> tuple[ts.nn.TransformerSeq2Seq, Tensor]:
    """A model that does what its bias says: end, or go on with one of two words."""
    model = _model(config, len(pieces))
    model.target.weight.mul_(0.02)
    bias = model.output.bias
    assert bias is not None
    bias.zero_()
    bias[0], bias[pieces.encode("the")[0][0]], bias[pieces.encode("sees")[0][0]] = 12.0, 11.6, 11.2
    return model, bias


@torch.no_grad()
def _log_prob(model: ts.nn.TransformerSeq2Seq, pieces: Pieces, source: str, target: str) -> float:
    numbers = [torch.tensor([pieces.encode(line)[0]]) for line in (source, target)]
    found = model.log_probs(model(*numbers))[0].double()
    return float(found.gather(1, numbers[1].T).sum())


def test_translations_come_with_proofs_or_reasons(pieces: Pieces) -> None:
    config = replace(SMALL, output=1.5)
    model, bias = _ending(config, pieces)
    lines = ["the dog", "", "sees " * 30, "日本"]
    # Tests have sentences of any length.
    assert [t.reason is None for t in translate(model, pieces, lines, config)] == [True, False, True, True]
    found = list(translate(model, pieces, lines, config, longest=20))
    assert found[1].reason is not None
    assert found[1].reason.startswith("An empty line.")
    assert found[2].text is None
    assert found[2].reason == "61 pieces. Expected at most 20. Cut the sentence."
    for line, translation in ((lines[0], found[0]), (lines[3], found[3])):
        assert translation.reason is None
        assert translation.certificate is not None
        assert translation.certificate.status >= Status.BOUNDED
        every = [(translation.text, translation.probability), *translation.alternatives]
        assert len(every) > 1
        for text, probability in every:
            assert text is not None
            assert probability == pytest.approx(math.exp(_log_prob(model, pieces, line, text)), rel=1e-4)
        assert [p for _, p in every] == sorted((p for _, p in every), reverse=True)
    (alone,) = translate(model, pieces, lines[:1], config, n_best=1)
    assert (alone.text, alone.alternatives) == (found[0].text, ())
    assert alone.log_prob == pytest.approx(found[0].log_prob, abs=1e-5)
    assert rates(found)["without"] == 50
    with torch.no_grad():
        bias[0] = -30
    (none,) = translate(model, pieces, lines[:1], config)
    assert "ends in time" in (none.reason or "")
    assert list(translate(model, pieces, [], config)) == []


def test_no_translation_is_empty_unless_it_may_be(pieces: Pieces) -> None:
    model, _ = _ending(SMALL, pieces)
    found = [list(translate(model, pieces, LINES[:3], replace(SMALL, empty=empty))) for empty in (True, False)]
    assert [rates(part)["empty"] for part in found] == [100, 0]
    for every, other in zip(*found, strict=True):
        # What is left has the probability that it had.
        assert (other.text, other.probability) == every.alternatives[0]
        assert (every.text, other.text) == ("", "the")


def test_where_there_is_nothing_but_the_empty_translation(pieces: Pieces) -> None:
    model, bias = _ending(replace(SMALL, output=1.5), pieces)
    with torch.no_grad():
        bias[0] += 10
    (found,) = translate(model, pieces, LINES[:1], replace(SMALL, output=1.5))
    assert found.certificate is not None
    assert found.certificate.status is Status.ENUMERATED
    assert (found.reason or "").startswith("No sequence that the search may find has probability.")
    assert [rates([found])[name] for name in ("exact", "enumerated", "without")] == [0, 0, 100]


@pytest.mark.parametrize("beam", [2, 6])
def test_proofs_without_the_empty_sequence_are_about_all_others(beam: int) -> None:
    models = toys(300, 3)
    step = seq2seq.not_empty(models.step, EOS)
    found = decoding.beam_search(step, models.start, models.state, eos=EOS, beam=beam, max_length=5, endings="all")
    seen = set()
    for model, (shown, proof) in enumerate(zip(found.hypotheses, found.certificates, strict=True)):
        truth, _ = models.sequences(model)
        truth.pop((EOS,), None)
        listed = {h.tokens: h.log_prob for h in shown}
        seen.add(proof.status)
        assert listed.items() <= truth.items()
        assert proof.status is not Status.ENUMERATED or listed == truth
        assert not proof.exact or max(listed.values(), default=0) == max(truth.values(), default=0)
        assert max(truth.values(), default=-math.inf) <= max(listed.values(), default=-math.inf) + proof.gap
    assert len(seen) > 1


def test_translations_are_those_of_their_lines(pieces: Pieces) -> None:
    model = _model(SMALL, len(pieces))
    with torch.no_grad():
        assert model.output.bias is not None
        model.output.bias[0] = 6.0
    lines = [" ".join(["dog", "the", "sees", "sled", "small"][i:]) for i in range(5)]
    found = list(translate(model, pieces, lines, replace(SMALL, output=1.0, empty=True), n_best=1))
    # The empty translation is the best of each, and how probable it is depends on the line.
    assert [t.text for t in found] == [""] * 5
    assert [t.log_prob for t in found] == pytest.approx(
        [_log_prob(model, pieces, line, "") for line in lines], abs=1e-5
    )
    assert len({round(t.log_prob or 0, 3) for t in found}) > 3


@pytest.mark.parametrize(("kept", "most"), [(2**30, 15), (2**16, 6), (1, 3)])
def test_searches_keep_within_their_memory(
    kept: int, most: int, pieces: Pieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = _model(SMALL, len(pieces)), replace(SMALL, max_length=6)
    sources = [torch.tensor(pieces.encode(line)[0]) for line in ["the dog", "a sled", "sees", "small dogs", "the"]]
    expected, rows = seq2seq.search(model, sources, config), []

    def step(tokens: Tensor, state: Any) -> Any:
        rows.append(len(tokens))
        return ts.nn.TransformerSeq2Seq.step(model, tokens, state)

    monkeypatch.setattr(seq2seq, "KEPT", kept)
    monkeypatch.setattr(model, "step", step)
    found = seq2seq.search(model, sources, config)
    assert max(rows) == most
    assert found.rows == expected.rows == sum(rows)
    for one, other in zip(found.hypotheses, expected.hypotheses, strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
    assert [c.status for c in found.certificates] == [c.status for c in expected.certificates]


def test_models_elsewhere_are_given_what_they_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has no numbers shows where tensors are."""
    model, seen = ts.nn.LSTMSeq2Seq(5, width=4, layers=1).to("meta"), []
    proof = Certificate(Status.ENUMERATED, 0.0, 1, 1.0, -math.inf, 1)

    def align(source: Tensor, target: Tensor) -> Tensor:
        seen.extend([source.device.type, target.device.type])
        return torch.ones(1, target.shape[1], source.shape[1])

    monkeypatch.setattr(model, "align", align)
    monkeypatch.setattr(seq2seq, "search", lambda *_, **__: Decoded([[Hypothesis((3, 0), 0.0, 0.0)]], [proof], 1))
    (found,) = seq2seq.predictions(model, [(["a", "."], [4, 0])], SMALL, str, str, explain=True)
    assert seen == ["meta"] * 2
    assert found.alignment is not None
    assert found.alignment.weights.shape == (2, 2)


def test_scores_carry_their_signatures() -> None:
    same = scores(["Ein Hund rennt schnell."], ["Ein Hund rennt schnell."])
    assert same["BLEU"].value == pytest.approx(100)
    assert same["chrF"].value == pytest.approx(100)
    assert "case:mixed|eff:no|tok:13a|smooth:exp|version:" in same["BLEU"].signature
    assert length(["Ein Hund.", ""], ["Ein Hund.", "Hund rennt."]) == 0.5
    assert scores(["ein hund rennt schnell."], ["Ein Hund rennt schnell."])["BLEU"].value < 60
    # 4 of 5, 3 of 4, 2 of 3 and 1 of 2 n-grams: the fourth root of their product.
    assert scores(["a b c d e"], ["a b c d f"])["BLEU"].value == pytest.approx(100 * 0.2**0.25)


def test_made_sentences_are_a_language_pair() -> None:
    corpus = load(Config())
    assert corpus.hash == load(Config(seed=3)).hash
    questions = [line.endswith("?") for line in corpus.train.source]
    assert questions == [line.startswith("ob ") for line in corpus.train.target]
    assert 0.3 < sum(questions) / len(questions) < 0.7
    pieces = Pieces.learn([*corpus.train.source, *corpus.train.target], 340)
    pairs = encoded(corpus.train, pieces, 12)
    assert 0 < len(pairs) < len(corpus.train)
    assert max(max(len(s), len(t)) for s, t in zip(pairs.sources, pairs.targets, strict=True)) == 12
    with pytest.raises(DataError, match="Raise max_length"):
        encoded(corpus.train, pieces, 2)


def test_multi30k_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSALLIS_DATA", raising=False)
    config = Config(dataset="multi30k", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="pass --data-dir DIR"):
        load(replace(config, data_dir=None))
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for name in MULTI30K.files:
        # A separator within a sentence is no end of it.
        (folder / name.removesuffix(".gz")).write_text("A dog.\N{NEXT LINE}\nTwo dogs.\n", encoding="utf-8")
    corpus = load(config)
    assert corpus.train.source == ["A dog.\N{NEXT LINE}", "Two dogs."]
    assert list(corpus.tests) == ["2016", "2017"]
    path = folder / "val.de"
    path.write_text("Ein Hund.\n")
    with pytest.raises(DataError, match="val: 2 sentences in English, 1 in German"):
        load(config)
    path.write_text("Ein Hund.\n \n")
    with pytest.raises(DataError, match=r"val\.de: line 2 is empty"):
        load(config)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        load(config)
    path.unlink()
    with pytest.raises(DataError, match=r"no file val\.de"):
        load(config)


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_multi30k() -> None:
    corpus = load(Config(dataset="multi30k"))
    sizes = [len(part) for part in (corpus.train, corpus.validation, *corpus.tests.values())]
    assert sizes == [29_000, 1_014, 1_000, 1_000]
    pieces = Pieces.learn([*corpus.train.source, *corpus.train.target], 8000)
    assert len(pieces) == 8000
    for text in corpus.tests.values():
        assert all(pieces.decode(pieces.encode(line)[0]) == normalised(line) for line in text.target)
    assert len(encoded(corpus.train, pieces, 60)) == 29_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pieces": FIRST}, "more than 257"), ({"heads": 5}, "multiple of twice the heads"),
        ({"fixed": 9}, "0 to 8"), ({"fixed": 5, "heads": 4}, "0 to 4"), ({"log_every": 0}, "at least 1"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be(change: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Config(**change)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory):
    """All rows of the smoke preset, trained in this process, and the fields of the configuration that were read."""
    folder = tmp_path_factory.mktemp("smoke")
    results, read = train_watched(recipe, SMOKE, folder)
    return results, read, folder


def test_smoke(smoke) -> None:
    results, read, folder = smoke
    assert read >= {f.name for f in fields(Config)} - {"data_dir"}, "a field that nothing reads"
    assert len({result.split for result in results.values()}) == 1
    assert results["softmax"].metrics["density encoder"] == pytest.approx(100)
    assert results["learned alpha"].metrics["density encoder"] < 100
    assert "moved" in results["learned alpha"].metrics
    assert "moved" not in results["softmax"].metrics
    runs = finished_runs(SMOKE, results, folder)
    rows = recipe.table(runs)
    assert [row["model"] for row in rows] == ["softmax", "learned alpha", "fixed"]
    assert {"BLEU", "chrF", "proved %", "minutes"} <= set(rows[0])
    drawn = set(recipe.figures(runs))
    assert {"bleu", "minutes", "density", "disagreement", "alphas-learned_alpha", "trajectories-learned_alpha"} <= drawn
    assert "alphas-softmax" not in drawn
    looks = read_table(folder / "learned_alpha-seed0" / "alphas.csv")
    steps = int(read_table(folder / "learned_alpha-seed0" / "metrics.csv")[-1]["step"])
    assert [look["step"] for look in looks] == list(range(3, steps + 1, 3))
    assert set(looks[0]) == {"step", *(f"{kind} layer0 head{j}" for kind in NAMES for j in range(2))}
    found = recipe.details(runs)
    answers = {row["question"]: row["answer"] for row in found["Found in the heads: learned alpha, seed 0"]}
    assert "quarter" in answers["Alphas further than 0.05 from 1.5"]
    assert len(answers) == 5
    # The first head follows a pattern, which is no finding.
    assert "encoder layer 0 head 1" in found["Found in the heads: fixed, seed 0"][0]["answer"]
    assert all("version:" in row["signature"] for row in found["Signatures"])


def test_an_interrupted_training_ends_as_one_that_was_not(smoke, tmp_path: Path) -> None:
    results, _, folder = smoke
    member = next(m for m in SMOKE if m.row == "learned alpha")
    again, _ = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=8)
    assert replace(again, seconds=0) == replace(results["learned alpha"], seconds=0)
    for name in ("metrics.csv", "model.safetensors", "heads.csv", "alphas.csv", "translations-made.txt", "pieces.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes(), name
    assert [look["epoch"] for look in read_table(tmp_path / "run" / "seconds.csv")] == [1, 2]


def test_it_learns_in_bfloat16(tmp_path: Path) -> None:
    """With the same optimizer and gradients cut to the same norm."""
    found = recipe.train(replace(SMOKE[0].config, precision="bf16-mixed", epochs=1), tmp_path / "run")
    assert found.n
    losses = [float(row["train/loss"]) for row in read_table(tmp_path / "run" / "metrics.csv")]
    assert all(map(math.isfinite, losses))


def test_seconds_before_an_interruption_count(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(current_epoch=0)
    module: Any = None
    for told in (total, median):
        before, after = Clock(tmp_path, told), Clock(tmp_path, told)
        before.steps = [(3.0, 2.0), (5.0, 1.0)]
        after.load_state_dict(before.state_dict())
        after.on_train_batch_start(trainer, module, None, 0)
        after.on_train_batch_end(trainer, module, None, None, 0)
        after.on_train_epoch_end(trainer, module)
        (row,) = read_table(tmp_path / "seconds.csv")
        assert after.steps == []
        if told is median:
            assert row == {"epoch": 1, "seconds": 3.0}
        else:
            assert 8 < row["seconds"] < 9
            assert 3 < row["processor"] < 4


def test_what_was_learned_is_told_on_a_page_and_translates_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--attention", "learn", "--epochs", "5", "--width", "32", "--batch_tokens", "600"]
    assert main(["run", "translation", "--preset", "smoke", *options, "--out", str(run)]) == 0
    assert main(["report", str(run), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "case:mixed" in page
    assert "a quarter" in page
    heads = next(run.glob("*/heads.csv"))
    heads.rename(heads.with_name("other.csv"))
    capsys.readouterr()
    assert main(["report", str(run), "--out", str(tmp_path / "page")]) == 2
    assert "heads.csv" in capsys.readouterr().err
    heads.with_name("other.csv").rename(heads)
    assert (tmp_path / "page" / "alphas-learned_alpha.png").exists()
    folder = run / "learned_alpha-seed0"
    losses = [row["val/loss"] for row in read_table(folder / "metrics.csv")]
    assert losses[-1] < 0.6 * losses[0]
    model, pieces, config = recipe.load_model(folder)
    assert not model.training
    lines = load(config).tests["made"].source
    found = translate(model, pieces, lines, config, n_best=1)
    assert [t.text or "" for t in found] == (folder / "translations-made.txt").read_text().splitlines()
    finished = SimpleNamespace(folder=folder)
    (wide,) = recipe.predict(finished, lines[:1], beam=7, n_best=3)
    (expected,) = translate(model, pieces, lines[:1], replace(config, beam=7), n_best=3)
    assert (wide.text, wide.certificate, wide.alternatives) == (
        expected.text, expected.certificate, expected.alternatives,
    )  # fmt: skip
    assert len(wide.alternatives) == 2
    (tmp_path / "line").write_text(lines[0])
    assert main(["predict", str(folder), str(tmp_path / "line"), "--explain", str(tmp_path / "why")]) == 0
    assert f"<p>{recipe.PROOFS}</p>" in (tmp_path / "why" / "index.html").read_text()
    (folder / "pieces.json").unlink()
    with pytest.raises(RunError, match="pieces"):
        recipe.load_model(folder)
