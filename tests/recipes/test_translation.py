"""Translation: pieces of words, fixed patterns, what heads do, and the smoke preset."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import tsallis as ts
from tsallis.cli.main import main
from tsallis.decoding.certificates import Status
from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError
from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes._shared.files import RunError, read_json, read_table, write_json

pytest.importorskip("sacrebleu", reason="the extra `recipes` is not installed whole")

from tsallis.recipes.translation import recipe
from tsallis.recipes.translation.config import Config
from tsallis.recipes.translation.data import MULTI30K, Text, encoded, load
from tsallis.recipes.translation.findings import measures
from tsallis.recipes.translation.heads import NAMES, analyse
from tsallis.recipes.translation.model import Training, build
from tsallis.recipes.translation.patterns import PATTERNS, PatternAttention, patterns
from tsallis.recipes.translation.pieces import FIRST, RARE, Pieces, normalised
from tsallis.recipes.translation.translate import rates, scores, translate

from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "translation", "smoke", {}).members
LINES = ["the small dog sees the smallest dogs.", "a dogsled, small and smaller?", "sees the sled"] * RARE


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces.learn(LINES, FIRST + 30)


@pytest.mark.parametrize(
    "line",
    [
        "the dog sees a sled.",
        "  two  spaces,\ttabs \N{NO-BREAK SPACE} and \N{LINE SEPARATOR} lines ",
        "日本語 and 👍🏽, never seen; naïve e\N{COMBINING ACUTE ACCENT}",
        'a <end> that is none, <0x41> neither, nor <unk>; "quoted" (so) 3.50',
        "\N{LOWER ONE EIGHTH BLOCK}a\N{LOWER ONE EIGHTH BLOCK}",
        "Z\x00\x7f\N{ZERO WIDTH JOINER}",
        "",
        " ",
    ],
)
def test_pieces_spell_every_line(pieces: Pieces, line: str) -> None:
    numbers, words = pieces.encode(line)
    assert pieces.decode(numbers) == normalised(line)
    assert numbers[-1] == 0
    assert 0 not in numbers[:-1]
    assert len(words) == len(numbers)
    assert words[-1] == -1
    assert words[:-1] == sorted(words[:-1])


def test_pieces_are_merged_and_rare_characters_are_bytes(pieces: Pieces) -> None:
    assert len(pieces) == FIRST + 30
    numbers, words = pieces.encode("the dogs, é")
    assert [pieces.names[n] for n in numbers[-3:]] == ["<0xC3>", "<0xA9>", "<end>"]
    assert words[-3:-1] == [words[-2]] * 2
    assert numbers[0] >= FIRST
    assert words[0] != words[1], "a word of one piece"
    assert len(pieces.encode("smaller")[0]) < len("smaller")
    # One character below RARE stays spelled in bytes, one at it is a piece.
    few = Pieces.learn([*LINES, *["x"] * (RARE - 1), *["y"] * RARE], FIRST + 30)
    assert all(n < FIRST for n in few.encode("x")[0][1:])
    assert len(few.encode("y")[0]) <= 3
    assert few.encode("y")[0][0] >= FIRST
    # Bytes that spell no character.
    assert pieces.decode([1 + 0xC3, numbers[0], 0]) == "\N{REPLACEMENT CHARACTER} the"


def test_pieces_are_what_was_saved(pieces: Pieces, tmp_path: Path) -> None:
    path = tmp_path / "pieces.json"
    pieces.save(path)
    again = Pieces.read(path)
    assert again.names == pieces.names == Pieces.learn(LINES, FIRST + 30).names
    assert all(again.encode(line) == pieces.encode(line) for line in [*LINES, "日本 smallish"])
    content = read_json(path)
    for wrong in (
        [], {"characters": ["a"]}, {**content, "merges": [["a"]]}, {**content, "merges": [["q", "zz"]]},
        {**content, "characters": [3]},
    ):  # fmt: skip
        write_json(path, wrong)
        with pytest.raises(RunError, match=r"pieces\.json"):
            Pieces.read(path)


def _cubes(*places: int) -> list[float]:
    return [place**3 / sum(p**3 for p in places) for place in places]


def test_patterns_are_those_written_by_hand() -> None:
    inside = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    found = patterns(inside, len(PATTERNS))
    eye = torch.eye(4)
    left, right = torch.zeros(4, 4), torch.zeros(4, 4)
    left[2, 0], left[3, :2] = 1.0, torch.tensor(_cubes(1, 2))
    right[1, 3], right[0, 2:] = 1.0, torch.tensor(_cubes(2, 1))
    end = torch.tensor(_cubes(1, 2, 3, 4)).expand(4, 4)
    last = torch.zeros(4, 4)
    last[:, 3] = 1
    four = [eye, eye.roll(-1, 1).tril(), eye.roll(1, 1).triu(), left, right, end, end.flip(1), last]
    assert torch.allclose(found[0], torch.stack(four))
    two: dict[str, list[list[float]]] = {
        "current": [[1, 0], [0, 1]], "previous": [[0, 0], [1, 0]], "next": [[0, 1], [0, 0]], "left": [[0, 0]] * 2,
        "right": [[0, 0]] * 2, "end": [[1 / 9, 8 / 9]] * 2, "start": [[8 / 9, 1 / 9]] * 2, "last": [[0, 1]] * 2,
    }  # fmt: skip
    for number, name in enumerate(PATTERNS):
        expected = torch.zeros(4, 4)
        expected[:2, :2] = torch.tensor(two[name])
        assert torch.allclose(found[1, number], expected), name
        expected = torch.zeros(4, 4)
        expected[0, 0] = name in ("current", "end", "start", "last")
        assert torch.equal(found[2, number], expected), name
    assert torch.equal(patterns(inside, 3), found[:, :3])
    assert patterns(inside, 0).shape == (3, 0, 4, 4)


@pytest.mark.parametrize("fixed", [1, 5, 8])
def test_fixed_heads_average_values_by_their_patterns(fixed: int) -> None:
    torch.manual_seed(0)
    layer = PatternAttention(32, 8, fixed, 0.0, "learn").double()
    x = torch.randn(2, 5, 32, dtype=torch.float64, requires_grad=True)
    inside = torch.arange(5) < torch.tensor([[5], [3]])
    out, _ = layer(x, x, x, key_padding_mask=torch.where(inside, 0.0, -torch.inf).double(), need_weights=False)
    free = (8 - fixed) * 4
    q, k, v = (x @ layer.in_proj_weight.T + layer.in_proj_bias).split([free, free, 32], -1)
    seen = []
    for head in range(8):
        own = v[..., 4 * head : 4 * head + 4]
        if head < fixed:
            weights = patterns(inside, 8)[:, head].double()
        else:
            at = slice(4 * (head - fixed), 4 * (head - fixed) + 4)
            z = q[..., at] @ k[..., at].mT / 2
            weights = ts.entmax(z.masked_fill(~inside[:, None], -torch.inf), 1.5)
        seen.append(weights @ own)
    expected = layer.out_proj(torch.cat(seen, -1))
    assert torch.allclose(out[inside], expected[inside], atol=1e-10)
    assert torch.equal(out, layer(x, x, x, ~inside)[0]), "a boolean mask means the same"
    out[inside].sum().backward()
    assert x.grad is not None
    assert (x.grad[inside] != 0).any()
    # No parameter without use: fixed heads have no queries and keys.
    assert all(p.grad is not None for p in layer.parameters())
    assert sum(p.numel() for p in layer.parameters()) == (2 * free + 64) * 33 + (8 - fixed)


def _model(config: Config, size: int) -> ts.nn.TransformerSeq2Seq:
    torch.manual_seed(0)
    return build(config, size).eval()


SMALL = Config(
    width=32, heads=8, feedforward=16, layers=2, dropout=0.0, pieces=FIRST + 30, search_batch=2, max_length=20, beam=3
)


def test_padding_changes_nothing_behind_fixed_patterns(pieces: Pieces) -> None:
    model = _model(replace(SMALL, fixed=7), len(pieces))
    source = torch.tensor([[260, 261, 0], [262, 0, -1]])
    target = torch.tensor([[263, 0], [264, 0]])
    both, alone = model(source, target), model(source[1:, :2], target[1:])
    assert torch.allclose(both[1], alone[0], atol=1e-5)


def test_heads_are_found_to_do_what_they_were_built_for(pieces: Pieces, tmp_path: Path) -> None:
    model = _model(replace(SMALL, fixed=8, attention=1.0), len(pieces))
    text = Text(["the smallest sled.", "a dogs smaller?", "sees sled."], ["a", "the small dog sees", "sled sees"])
    rows = analyse(model, pieces, text, SMALL, tmp_path)
    assert read_table(tmp_path / "heads.csv") == rows
    assert len(rows) == 3 * 2 * 8
    encoder = {PATTERNS[int(r["head"])]: r for r in rows if NAMES[int(r["type"])] == "encoder" and r["layer"] == 1}
    for name, offset in (("current", 0), ("previous", -1), ("next", 1)):
        assert (encoder[name]["offset"], encoder[name]["positional"]) == (offset, 1.0)
    assert "alpha" not in encoder["current"]
    # By hand: weights inside words of several pieces, on the piece before the end, and how many are not zero.
    read = [pieces.encode(line) for line in text.source]
    for number, name in enumerate(PATTERNS):
        within, asked, told, share = [], [], [], []
        for line, (numbers, words) in zip(text.source, read, strict=True):
            p = patterns(torch.ones(1, len(numbers), dtype=torch.bool), 8)[0, number].double()
            assert pieces.names[numbers[-2]] in (".", "?")
            (asked if line.endswith("?") else told).extend(p[:, -2].tolist())
            share += ((p > 0).sum(1) / len(numbers)).tolist()
            for i, word in enumerate(words):
                same = [j for j, other in enumerate(words) if other == word and word >= 0]
                if len(same) > 1:
                    within.append(float(p[i, same].sum()))
        assert encoder[name]["merging"] == pytest.approx(sum(within) / len(within), abs=1e-6)
        difference = sum(asked) / len(asked) - sum(told) / len(told)
        assert encoder[name]["interrogation"] == pytest.approx(difference, abs=1e-6)
        assert encoder[name]["density"] == pytest.approx(sum(share) / len(share), abs=1e-6)
    assert 0 < encoder["previous"]["merging"] < 1
    for row in rows:
        if NAMES[int(row["type"])] != "encoder":
            assert row["density"] == pytest.approx(1.0), "softmax is dense, and padding is no query"
    assert measures(rows, learned=False)["density context"] == pytest.approx(100.0)


def test_heads_are_the_same_in_batches_with_padding(pieces: Pieces, tmp_path: Path) -> None:
    model = _model(replace(SMALL, attention=1.5), len(pieces))
    text = Text(["the smallest sled sees a dog.", "a", "sees sled."], ["a", "the small dog sees the sled", "sled"])
    alone, together = (analyse(model, pieces, text, replace(SMALL, search_batch=n), tmp_path) for n in (1, 3))
    assert {row["density"] for row in alone if NAMES[int(row["type"])] == "context"} != {1.0}
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def _shares(alphas: list[float]) -> dict[str, float]:
    rows = [{"type": 0.0, "density": 1.0, "disagreement": 0.0, "alpha": alpha} for alpha in alphas]
    rows += [{"type": float(i), "density": 0.5, "disagreement": 0.0} for i in (1, 2)]
    return measures(rows, learned=True)


def test_alphas_that_moved_are_counted() -> None:
    assert _shares([1.5, 1.54, 1.46, 1.56])["moved"] == 25
    assert _shares([1.5, 1.44, 1.6])["alpha, most"] == 1.6
    assert _shares([1.5])["moved"] == 0


@torch.no_grad()
def _log_prob(model: ts.nn.TransformerSeq2Seq, pieces: Pieces, source: str, target: str) -> float:
    numbers = [torch.tensor([pieces.encode(line)[0]]) for line in (source, target)]
    found = model.log_probs(model(*numbers))[0].double()
    return float(found.gather(1, numbers[1].T).sum())


def test_translations_come_with_proofs_or_reasons(pieces: Pieces) -> None:
    config = replace(SMALL, output=1.5)
    model = _model(config, len(pieces))
    # What the bias says: end, or go on with one of two words.
    with torch.no_grad():
        model.target.weight.mul_(0.02)
        bias = model.output.bias
        assert bias is not None
        bias.zero_()
        bias[0], bias[pieces.encode("the")[0][0]], bias[pieces.encode("sees")[0][0]] = 12.0, 11.6, 11.2
    lines = ["the dog", "", "sees " * 30, "日本"]
    found = translate(model, pieces, lines, config)
    assert found[1].reason == "the line is empty"
    assert found[2].text is None
    assert found[2].reason == "61 pieces: at most 20 are translated"
    for line, translation in ((lines[0], found[0]), (lines[3], found[3])):
        assert translation.reason is None
        assert translation.certificate is not None
        assert translation.certificate.status >= Status.BOUNDED
        every = [(translation.text, translation.log_prob), *translation.alternatives]
        assert len(every) > 1
        for text, log_prob in every:
            assert text is not None
            assert log_prob == pytest.approx(_log_prob(model, pieces, line, text), abs=1e-4)
        assert [p for _, p in every] == sorted((p for _, p in every), reverse=True)
    alone = translate(model, pieces, lines[:1], config, n_best=1)[0]
    assert (alone.text, alone.alternatives) == (found[0].text, [])
    assert alone.log_prob == pytest.approx(found[0].log_prob, abs=1e-5)
    assert rates(found)["without"] == 50
    with torch.no_grad():
        bias[0] = -30
    assert "at most 20 pieces" in (translate(model, pieces, lines[:1], config)[0].reason or "")
    assert translate(model, pieces, [], config) == []


def test_translations_are_those_of_their_lines(pieces: Pieces) -> None:
    model = _model(SMALL, len(pieces))
    with torch.no_grad():
        assert model.output.bias is not None
        model.output.bias[0] = 6.0
    lines = [" ".join(["dog", "the", "sees", "sled", "small"][i:]) for i in range(5)]
    found = translate(model, pieces, lines, replace(SMALL, output=1.0), n_best=1)
    # The empty translation is the best of each, and how probable it is depends on the line.
    assert [t.text for t in found] == [""] * 5
    assert [t.log_prob for t in found] == pytest.approx(
        [_log_prob(model, pieces, line, "") for line in lines], abs=1e-5
    )
    assert len({round(t.log_prob or 0, 3) for t in found}) > 3


def test_scores_carry_their_signatures() -> None:
    same = scores(["Ein Hund rennt schnell."], ["Ein Hund rennt schnell."])
    assert same["BLEU"].value == pytest.approx(100)
    assert same["chrF"].value == pytest.approx(100)
    assert "case:mixed|eff:no|tok:13a|smooth:exp|version:" in same["BLEU"].signature
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
    assert [look["step"] % 3 for look in looks] == [0] * len(looks)
    assert set(looks[0]) == {"step", *(f"{kind} layer0 head{j}" for kind in NAMES for j in range(2))}
    found = recipe.details(runs)
    answers = {row["question"]: row["answer"] for row in found["Found in the heads: learned alpha, seed 0"]}
    assert "quarter" in answers["Alphas further than 0.05 from 1.5"]
    assert len(answers) == 5
    assert "fixed" in found["Found in the heads: fixed, seed 0"][0]["answer"]
    assert all("version:" in row["signature"] for row in found["Signatures"])


def test_an_interrupted_training_ends_as_one_that_was_not(smoke, tmp_path: Path) -> None:
    results, _, folder = smoke
    member = next(m for m in SMOKE if m.row == "learned alpha")
    again, _ = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=8)
    assert replace(again, seconds=0) == replace(results["learned alpha"], seconds=0)
    for name in ("metrics.csv", "model.safetensors", "heads.csv", "alphas.csv", "translations-made.txt", "pieces.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes(), name
    assert [look["epoch"] for look in read_table(tmp_path / "run" / "seconds.csv")] == [1, 2]


def test_what_was_learned_is_told_on_a_page_and_translates_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--attention", "learn", "--epochs", "5", "--width", "32", "--batch_tokens", "600"]
    assert main(["run", "translation", "--preset", "smoke", *options, "--out", str(run)]) == 0
    assert main(["report", str(run), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "case:mixed" in page
    assert "a quarter" in page
    assert (tmp_path / "page" / "alphas-learned_alpha.png").exists()
    folder = run / "learned_alpha-seed0"
    losses = [row["val/loss"] for row in read_table(folder / "metrics.csv")]
    assert losses[-1] < 0.6 * losses[0]
    model, pieces, config = recipe.load_model(folder)
    assert not model.training
    lines = load(config).tests["made"].source
    found = translate(model, pieces, lines, config, n_best=1)
    assert [t.text or "" for t in found] == (folder / "translations-made.txt").read_text().splitlines()
    (folder / "pieces.json").unlink()
    with pytest.raises(RunError, match="pieces"):
        recipe.load_model(folder)
