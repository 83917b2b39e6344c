"""Inflection: its words and their numbers, what is measured of it, its smoke preset, and searches over batches."""

from __future__ import annotations

import gzip
import json
import math
import os
import unicodedata
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from tsallis import decoding
from tsallis.cli.main import main
from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError
from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes._shared.files import RunError, read_json, write_json
from tsallis.recipes._shared.pairs import Pairs, Vocabulary, read_vocabularies, save_vocabularies
from tsallis.recipes._shared.seq2seq import SequenceTraining, load_weights, search
from tsallis.recipes.inflection import recipe
from tsallis.recipes.inflection.config import Config
from tsallis.recipes.inflection.data import BACK, FRONT, Word, letters, load, tags_of, word_of
from tsallis.recipes.inflection.findings import edits, examine, macro
from tsallis.recipes.inflection.model import build

from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "inflection", "smoke", {}).members
FILES = {
    "xx-train-medium": "gehen\tist gegangen\tV;PST\nhaus\thäuser\tN;PL\n\n",
    "xx-dev": "tor\ttore\tN;PL\n",
    "xx-test": "öl\töle\tN;PL\n",
}


def _written(folder: Path, **changes: str) -> Config:
    place = folder / "sigmorphon2018"
    place.mkdir(exist_ok=True)
    for name, text in {**FILES, **{k.replace("_", "-"): v for k, v in changes.items()}}.items():
        (place / f"{name.replace('xx', 'german')}.gz").write_bytes(gzip.compress(text.encode()))
    return Config(dataset="sigmorphon2018", languages=["german"], data_dir=str(folder))


def test_words_of_files_as_tokens(tmp_path: Path) -> None:
    data = load(_written(tmp_path))
    assert data.train.words[0] == Word("german", "gehen", ("V", "PST"), "ist gegangen")
    assert data.train.words[0].source == ["language german", "tag V", "tag PST", *"gehen"]
    assert letters("ist g") == ["i", "s", "t", "<space>", "g"]
    assert word_of(letters("ist g")) == "ist g"
    source, target = data.train.pairs.batch(torch.tensor([1, 0]))
    assert source.shape == (2, 9)
    assert data.source.decode(source[1].tolist()) == ["language german", "tag V", "tag PST", *"gehen"]
    assert source[1].tolist()[-1] == 0
    assert source[0].tolist()[-2:] == [0, -1]
    assert word_of(data.target.decode(target[1].tolist())) == "ist gegangen"
    assert tags_of("ADJ;ABL; PL") == ("ADJ", "ABL", "PL")
    # Letters that training has not seen are all one.
    assert data.test.pairs.sources[0].tolist()[3:] == [1, 1, 0]


def test_words_may_hold_what_others_take_for_ends_of_lines(tmp_path: Path) -> None:
    data = load(_written(tmp_path, xx_dev="to\u2028r\tt\x0bore\tN;PL\r\n"))
    assert data.dev.words == [Word("german", "to\u2028r", ("N", "PL"), "t\x0bore")]


@pytest.mark.parametrize("line", ["gehen\tging", "gehen\tging\tV\tX", "gehen\t\tV", "gehen ging V"])
def test_lines_that_are_no_words(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"german-dev\.gz, line 2.*parted by tabs"):
        load(_written(tmp_path, xx_dev=FILES["xx-dev"] + line))


def test_data_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _written(tmp_path)
    with pytest.raises(DataError, match=r"languages=elvish.*arabic"):
        load(replace(config, languages=["german", "elvish"]))
    with pytest.raises(DataError, match="no file german-train-high"):
        load(replace(config, setting="high"))
    monkeypatch.delenv("TSALLIS_DATA", raising=False)
    with pytest.raises(DataError, match="pass --data-dir DIR"):
        load(replace(config, data_dir=None))


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_fifteen_languages() -> None:
    data = load(Config(dataset="sigmorphon2018"))
    assert [len(part.words) for part in (data.train, data.dev, data.test)] == [15_000, 14_100, 14_100]
    assert len({word.language for word in data.test.words}) == 15
    assert sum(" " in word.form for word in data.test.words if word.language == "hindi") == 964


def test_made_languages_are_harmonic_and_one_is_open() -> None:
    data = load(Config())
    words = [word for part in (data.train, data.dev, data.test) for word in part.words]
    assert all(not (set(w.form) & set(BACK) and set(w.form) & set(FRONT)) for w in words if w.language == "harmonic")
    plurals = [w.form[-1] for w in words if w.language == "open" and w.tags == ("N", "PL")]
    assert 0.35 < plurals.count("n") / len(plurals) < 0.65
    assert not {w.lemma for w in data.train.words} & {w.lemma for w in data.test.words}
    assert load(Config(seed=5)).hash == data.hash != load(Config(languages=["open"])).hash
    assert len(load(Config(words=7, languages=["open"])).train.words) == 7


def test_vocabularies_come_back(tmp_path: Path) -> None:
    known = Vocabulary.of([list("abca"), ["<space>", "b"]])
    assert known.tokens == ("<end>", "<unknown>", "a", "b", "<space>", "c")
    save_vocabularies(tmp_path / "v.json", source=known, target=Vocabulary.of(["x"]))
    source, target = read_vocabularies(tmp_path / "v.json", "source", "target")
    assert (source.tokens, target.tokens) == (known.tokens, ("<end>", "<unknown>", "x"))
    assert source.decode(source.encode(["a", "?", "c"])) == ["a", "<unknown>", "c"]
    with pytest.raises(DataError, match="The token <unknown>"):
        Vocabulary.of([["<unknown>", "a"]])
    write_json(tmp_path / "w.json", {"source": ["<end>", "<unknown>", "a", "b", "a"]})
    with pytest.raises(RunError, match=r"w\.json: vocabulary 'source' has a token twice"):
        read_vocabularies(tmp_path / "w.json", "source")
    for wrong in ([], {"source": 3}, {"source": ["a", "b"]}, {"source": ["<end>", "<unknown>", 3]}):
        write_json(tmp_path / "w.json", wrong)
        with pytest.raises(RunError, match=r"w\.json: no vocabulary 'source'"):
            read_vocabularies(tmp_path / "w.json", "source")


def test_batches_hold_pairs_of_a_length() -> None:
    pairs = Pairs([[2] * n + [0] for n in range(1, 40)], [[3] * n + [0] for n in range(1, 40)])
    loader = pairs.batches(100, seed=0)
    seen = list(loader)
    assert sum(len(source) for source, _ in seen) == 39
    assert all(source.numel() + target.numel() <= 100 for source, target in seen)
    assert len(seen) == loader.n < 39
    lengths = [int((source[:, 0] >= 0).sum() and source.shape[1]) for source, _ in pairs.evaluation(10)]
    assert lengths == sorted(lengths)


def test_distances() -> None:
    pairs = [
        ("", "", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("abc", "abc", 0),
        ("ab", "ba", 2),
        ("flaw", "lawn", 2),
    ]
    for guess, form, distance in pairs:
        assert edits(guess, form) == edits(form, guess) == distance


def test_the_mean_over_languages_is_of_rounded_figures() -> None:
    measured = {
        "a": {"words": 3.0, "accuracy": 200 / 3, "distance": 1 / 3, "mass": 0.123456},
        "b": {"words": 9.0, "accuracy": 100 / 9, "distance": 0.005, "mass": 0.5},
    }
    found = macro(measured)
    assert found["accuracy"] == pytest.approx((66.67 + 11.11) / 2, abs=1e-12)
    assert found["distance"] == pytest.approx((0.33 + round(0.005, 2)) / 2, abs=1e-12)
    assert found["mass"] == pytest.approx(0.311728, abs=1e-12)


def test_searches_of_batches_are_those_of_single_words() -> None:
    torch.manual_seed(1)
    data, config = load(Config()), Config(output=2.0, search_batch=7, max_length=9, beam=3)
    model = build(replace(config, width=12, layers=1), len(data.source), len(data.target)).double().eval()
    sources = data.dev.pairs.sources[:20]
    found = search(model, sources, config, n_best=1)
    for source, hypotheses, certificate in zip(sources, found.hypotheses, found.certificates, strict=True):
        alone = decoding.beam_search(model.step, *model.start(source[None]), eos=0, beam=3, max_length=9, n_best=1)
        assert [h.tokens for h in hypotheses] == [h.tokens for h in alone.hypotheses[0]]
        assert certificate.status is alone.certificates[0].status


def test_smoke_reads_every_field_and_its_report_shows_languages(tmp_path: Path) -> None:
    results, read = train_watched(recipe, SMOKE, tmp_path)
    base = {"seed", "data_dir", "accelerator", "devices", "precision", "threads", "checkpoint_minutes"}
    # Those of files are read where there are files.
    assert {f.name for f in fields(Config)} - base - read == {"setting"}
    runs = finished_runs(SMOKE, results, tmp_path)
    assert [row["attention, output"] for row in recipe.table(runs)] == ["softmax", "sparse"]
    assert [row["language"] for row in recipe.details(runs)["Languages: sparse"]] == ["harmonic", "open"]
    assert set(recipe.figures(runs)) == {"wrong", "languages"}
    # softmax rules nothing out: no beam of it holds all words there are.
    soft, sparse = (results[row].metrics for row in ("softmax", "sparse"))
    assert soft["enumerated"] == soft["lowest share of all words"] == 0
    assert (
        sparse["support"]
        < soft["support"]
        == len(read_vocabularies(tmp_path / SMOKE[0].name / "vocabularies.json", "target")[0])
    )
    assert sparse["attended"] < soft["attended"]
    per_language = read_json(tmp_path / SMOKE[1].name / "languages.json")
    assert results["sparse"].value == pytest.approx(macro(per_language)["accuracy"], abs=1e-12)


def test_it_learns_and_says_of_an_open_plural_that_there_are_two(tmp_path: Path) -> None:
    config = replace(SMOKE[1].config, epochs=14, width=32, dropout=0.0, lr=0.02, output=2.0)
    result = recipe.train(config, tmp_path)
    by_language = read_json(tmp_path / "languages.json")
    assert by_language["harmonic"]["accuracy"] > 80
    # Half of the open plurals are right by chance; the other forms of that language are always the same.
    assert by_language["open"]["accuracy"] > 50
    assert result.metrics["enumerated"] > 50
    data = load(config)
    model = build(config, len(data.source), len(data.target))
    load_weights(model, tmp_path)
    again = examine(model, data.test, data, config)
    assert again == by_language
    plural = next(i for i, w in enumerate(data.test.words) if w.language == "open" and w.tags == ("N", "PL"))
    found = search(model, [data.test.pairs.sources[plural]], config)
    forms = {word_of(data.target.decode(h.tokens)): math.exp(h.log_prob) for h in found.hypotheses[0]}
    lemma = data.test.words[plural].lemma
    assert forms.get(lemma + "n", 0) + forms.get(lemma + "r", 0) > 0.5


def test_resumed_training_is_the_same(tmp_path: Path) -> None:
    config = replace(SMOKE[1].config, words=60, epochs=2)
    whole = recipe.train(config, tmp_path / "whole")
    resumed, begun = train_interrupted(recipe, SequenceTraining, config, tmp_path / "parts", 4)
    assert len(begun) > 4
    assert (resumed.value, resumed.metrics) == (whole.value, whole.metrics)


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"attention": -1.0}, {"attention": "some"}, {"output": 0.0}, {"beam": 0}, {"languages": []},
              {"dropout": 1.0}, {"label_smoothing": 1.0}, {"words": 0}, {"setting": "low"}],
)  # fmt: skip
def test_configurations_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        plan.make_plan(recipe, "inflection", "smoke", wrong)


def test_options_choose_rows_of_two_fields() -> None:
    def rows(**given: object) -> list[str]:
        return [member.row for member in plan.make_plan(recipe, "inflection", "default", given).members]

    assert len(rows()) == 9
    assert rows(attention=1.5) == ["entmax15, softmax", "entmax15, entmax15", "entmax15, sparsemax"]
    assert rows(attention=1.5, output=2.0) == ["entmax15, sparsemax"]
    assert rows(attention=1.3, output=2.0) == ["attention=1.3, output=2.0"]


def test_predict_answers_each_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, asked, page = tmp_path / "run", tmp_path / "asked.tsv", tmp_path / "page"
    assert main(["run", "inflection", "--preset", "smoke", "--attention", "1.5", "--out", str(run)]) == 0
    right = ["harmonic\tpaku\tN;PL", " open \t mölö \t N; IN ", unicodedata.normalize("NFD", "open\tmölö\tN;IN")]
    wrong = {
        "": "An empty line",
        "harmonic\tpaku": "2 fields",
        "harmonic\t\tN;PL": "No lemma",
        "elvish\tpaku\tN;PL": "language 'elvish', which",
        "N\tpaku\tharmonic": "language 'N', tag 'harmonic', which",  # columns that are swapped
        "harmonic\tpaku\tend": "tag 'end', which",
        "unknown\tpaku\tN;PL": "language 'unknown', which",
        "open\tpaxu\tN;PL": "letter 'x', which",
        "open\tpaku\tN;DU": "tag 'DU', which",
        "open\tpaku\tN;;PL": "tag '', which",
        "open\tpaku\t" + "N" * 10_000: f"tag {'N' * 29 + '…'!r}, which",
        "open\tpaku\t" + "N;" * 10_000: "10001 tags. Expected at most 20",
        "open\t" + "pa" * 5000 + "\tN;PL": "10000 letters. Expected at most 20",
        "open\t<script>\tN;IN": "letter '<', letter 'c', letter 'r', letter 'i', letter '>', which",
        "open\tbcdfghijk\tN;PL": "letter 'b', letter 'c', letter 'd', letter 'f', letter 'g' and 3 more, which",
    }
    lines = [right[0], *wrong, *right[1:]]
    asked.write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    assert main(["predict", str(run), str(asked), "--format", "json", "--explain", str(page)]) == 1
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == len(lines)
    for said, answer in zip(wrong.values(), answers[1:-2], strict=True):
        assert said in (answer["reason"] or "")
        assert answer["prediction"] is None
    assert answers[-1] == {**answers[-2], "line": len(lines)}
    assert 0 < answers[0]["probability"] <= 1
    assert "<script>" not in (page / "index.html").read_text()
    # The same as the library finds.
    config = replace(SMOKE[1].config, output=1.5)
    data = load(config)
    model = build(config, len(data.source), len(data.target))
    load_weights(model, run / "sparse-seed0")
    word = Word("open", "mölö", ("N", "IN"), "")
    found = search(model, [torch.tensor(data.source.encode(word.source))], config)
    best = found.best[0]
    assert best is not None
    assert answers[-1]["prediction"] == word_of(data.target.decode(best.tokens))
    assert answers[-1]["log_prob"] == pytest.approx(best.log_prob, abs=1e-6)
    asked.write_text(lines[-1] + "\n")
    assert main(["predict", str(run), str(asked), "--format", "json", "--beam", "30", "--n-best", "2"]) == 0
    few = json.loads(capsys.readouterr().out)
    found = search(model, [torch.tensor(data.source.encode(word.source))], replace(config, beam=30), n_best=2)
    texts = [word_of(data.target.decode(h.tokens)) for h in found.hypotheses[0]]
    assert [few["prediction"], *(other["text"] for other in few["alternatives"])] == texts
    assert few["certificate"]["status"] == found.certificates[0].status.name
    (run / "sparse-seed0" / "vocabularies.json").unlink()
    assert main(["predict", str(run), str(asked)]) == 2
    assert "vocabularies.json" in capsys.readouterr().err
