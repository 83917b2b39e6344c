"""Translation: pieces of words, fixed patterns, and what heads do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tsallis as ts
from tsallis.recipes._shared.files import RunError, read_json, read_table, write_json
from tsallis.recipes.translation.config import Config
from tsallis.recipes.translation.data import Text
from tsallis.recipes.translation.findings import answers, measures
from tsallis.recipes.translation.heads import NAMES, analyse
from tsallis.recipes.translation.model import build
from tsallis.recipes.translation.patterns import PATTERNS, PatternAttention, patterns
from tsallis.recipes.translation.pieces import FIRST, RARE, Pieces, normalised

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
            # Tokens for which the pattern has no place are left out.
            share += [float((row > 0).sum()) / len(numbers) for row in p if row.any()]
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


def _head(kind: int, head: int, **more: float) -> dict[str, float]:
    return {"type": kind, "layer": 0.0, "head": head, "density": 1.0, "disagreement": 0.0, "alpha": 1.5, **more}


def test_kinds_are_found_among_heads_that_could_be_of_them() -> None:
    fixed = _head(0, 0, positional=1.0, offset=0, merging=1.0, interrogation=0.9)
    del fixed["alpha"]
    heads = [
        fixed,
        _head(0, 1, positional=0.9, offset=-1, merging=0.95, interrogation=0.05),
        _head(0, 2, positional=0.3, offset=1, merging=0.7, interrogation=0.2),
        _head(0, 3, positional=0.2, offset=1, merging=0.1, interrogation=0.0),
        _head(1, 0, positional=0.85, offset=0), _head(1, 1, positional=0.1, offset=0), _head(2, 0), _head(2, 1),
    ]  # fmt: skip
    found = {row["question"]: row["answer"] for row in answers(heads, learned=False)}
    assert found == {
        "Positional, encoder": "1 of 3 heads from 80% on; the best has 90.0% at -1: encoder layer 0 head 1, alpha 1.50",
        "Positional, decoder": "1 of 2 heads from 80% on; the best has 85.0% at +0: decoder layer 0 head 0, alpha 1.50",
        "Merging pieces of a word, not positional": "1 of 2 heads from 50% on; the best has 70.0%: encoder layer 0 "
        "head 2, alpha 1.50",
        "Looking at the mark of questions": "1 of 3 heads from 10% on; the best has 20.0%: encoder layer 0 head 2, "
        "alpha 1.50",
    }
    # The same heads are the best among a run's numbers.
    numbers = measures(heads, learned=False)
    assert [numbers[name] for name in ("positional", "merging", "interrogation")] == pytest.approx([90, 70, 20])
    alone = {row["question"]: row["answer"] for row in answers([fixed, *heads[6:]], learned=False)}
    assert alone["Positional, encoder"] == alone["Looking at the mark of questions"] == "no head that could"
    assert alone["Positional, decoder"] == "nothing to look at in the test"
    assert "merging" not in measures([fixed, *heads[6:]], learned=False)
