"""The dependency parser: its sentences and batches, its losses and trees, what is found in them, its smoke preset."""

from __future__ import annotations

import gzip
import os
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError
from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes._shared.files import read_json
from tsallis.recipes._shared.loading import buckets
from tsallis.recipes.parser import recipe
from tsallis.recipes.parser.config import Config
from tsallis.recipes.parser.data import LETTERS, NO_LETTER, OTHER_LETTER, UNKNOWN, Part, Vocabulary, load
from tsallis.recipes.parser.findings import examine
from tsallis.recipes.parser.model import LOSSES, Parser, Training, parse
from tsallis.recipes.parser.sentences import OF_EITHER, OF_NOUNS, OF_VERBS, VERBS, Sentence, is_tree, made, read_conllu
from tsallis.structured import DependencyTree, sparsemap, sparsemap_loss

from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "parser", "smoke", {}).members
SMALL = Config(word_width=8, letter_width=4, letter_filters=4, hidden=6, arc_width=5)
SENTENCES = [
    Sentence(["The", "dog", "saw", "the", "garden"], [2, 3, 0, 5, 3]),
    Sentence(["saw", "dog"], [0, 1]),
    Sentence(["Incomprehensibilities", "!"], [0, 1]),
]
# Multiword tokens, an empty node, comments.
CONLLU = """# sent_id = 1
# text = He can't say.
1\tHe\the\tPRON\tPRP\t_\t4\tnsubj\t_\t_
2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\t_
2\tca\tcan\tAUX\tMD\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
4\tsay\tsay\tVERB\tVB\t_\t0\troot\t_\t_
4.1\tit\tit\tPRON\tPRP\t_\t_\t_\t4:obj\t_
5\t.\t.\tPUNCT\t.\t_\t4\tpunct\t_\t_

# text = So
1\tSo\tso\tADV\tRB\t_\t0\troot\t_\t_
"""


def _treebank() -> tuple[Part, Vocabulary]:
    vocabulary = Vocabulary(SENTENCES)
    return Part(SENTENCES, vocabulary), vocabulary


def test_made_sentences_are_trees_with_open_questions() -> None:
    parts = made()
    assert [len(part) for part in parts] == [800, 200, 200]
    to_verb = {word: [] for word in OF_NOUNS + OF_VERBS + OF_EITHER}
    for sentence in (s for part in parts for s in part):
        assert is_tree(sentence.heads)
        for word, head in zip(sentence.words, sentence.heads, strict=True):
            if word in to_verb:
                to_verb[word].append(sentence.words[sentence.heads[head - 1] - 1] in VERBS)
    assert not any(any(to_verb[word]) for word in OF_NOUNS)
    assert all(all(to_verb[word]) for word in OF_VERBS)
    assert all(0.3 < sum(to_verb[word]) / len(to_verb[word]) < 0.7 for word in OF_EITHER)
    assert load(Config()).hash == load(Config(seed=3)).hash != load(Config(sentences=10)).hash


@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_words_of_conllu_are_syntactic_words(pack, end: str, tmp_path: Path) -> None:
    path = tmp_path / "dev.conllu.gz"
    path.write_bytes(pack(CONLLU.replace("\n", end)))
    first, second = read_conllu(path)
    assert first == Sentence(["He", "ca", "n't", "say", "."], [4, 4, 4, 0, 4])
    assert second == Sentence(["So"], [0])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\t0\troot", "\t5\troot"), ("\t4\tpunct", "\t0\tpunct"), ("\t4\tpunct", "\t6\tpunct"),
        ("\t4\taux", "\t2\taux"), ("\t4\taux", "\t_\taux"), ("2\tca", "3\tca"), ("5\t.", "6\t."),
        ("\tPUNCT\t.\t_\t4\tpunct\t_\t_", ""),
        (CONLLU, "# text = none\n"),
    ],
)  # fmt: skip
def test_files_that_hold_no_trees(old: str, new: str, tmp_path: Path) -> None:
    assert old in CONLLU
    (tmp_path / "x.conllu").write_text(CONLLU.replace(old, new, 1))
    with pytest.raises(DataError, match=r"x\.conllu.*CoNLL-U.*Get it again"):
        read_conllu(tmp_path / "x.conllu")


def test_treebank_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSALLIS_DATA", raising=False)
    with pytest.raises(DataError, match="pass --data-dir DIR"):
        load(Config(dataset="ud-english-ewt"))
    (tmp_path / "ud-english-ewt").mkdir()
    for name in ("train", "dev", "test"):
        (tmp_path / "ud-english-ewt" / f"{name}.conllu").write_text(CONLLU)
    data = load(Config(dataset="ud-english-ewt", data_dir=str(tmp_path)))
    # In order of their length.
    assert [len(s.words) for s in data.test.sentences] == [1, 5]
    assert data.dev.n == 6
    (tmp_path / "ud-english-ewt" / "dev.conllu").write_bytes(b"\x1f\x8b half")
    with pytest.raises(DataError, match=r"dev\.conllu"):
        load(Config(dataset="ud-english-ewt", data_dir=str(tmp_path)))


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_real_treebank() -> None:
    data = load(Config(dataset="ud-english-ewt"))
    assert [(len(part), part.n) for part in (data.train, data.dev, data.test)] == [
        (12544, 204577), (2001, 25147), (2077, 25094)
    ]  # fmt: skip
    assert len(data.vocabulary.words) == 8865


def test_words_and_letters_as_numbers() -> None:
    part, vocabulary = _treebank()
    # Twice or more, case ignored; ties in alphabetical order.
    assert list(vocabulary.words) == ["dog", "saw", "the"]
    assert min(vocabulary.words.values()) > UNKNOWN
    assert vocabulary.spelled("dz")[:3] == [vocabulary.letters["d"], OTHER_LETTER, NO_LETTER]
    long = "Incomprehensibilities"
    assert vocabulary.spelled(long) == [vocabulary.letters[c] for c in long[:8] + long[-8:]]
    batch = part.batch(torch.tensor([2, 0]))
    assert batch.lengths.tolist() == [5, 2]
    assert batch.heads.tolist() == [[2, 3, 0, 5, 3], [0, 1, 0, 0, 0]]
    the, dog, saw = (vocabulary.words[w] for w in ("the", "dog", "saw"))
    assert batch.words.tolist() == [[the, dog, saw, the, UNKNOWN], [saw, dog, 0, 0, 0]]
    assert batch.counts.tolist() == [[2, 2, 2, 2, 1], [2, 2, 0, 0, 0]]
    assert batch.inside.tolist() == [[True] * 5, [True] * 2 + [False] * 3]
    assert batch.letters.shape[1] == LETTERS
    spelled = [vocabulary.spelled(word) for word in SENTENCES[0].words]
    assert batch.letters[batch.spellings[0]].tolist() == spelled
    assert spelled[0] != spelled[3], "letters know case"


def test_batches_of_an_epoch_have_all_sentences_of_about_a_length() -> None:
    part = load(Config(sentences=150)).train
    first, second = (buckets(part.lengths, 60, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert sorted(torch.cat(first).tolist()) == list(range(150))
    assert [len(batch) for batch in first] == [len(batch) for batch in second]
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert all(len(batch) * int(part.lengths[batch].max()) <= 60 for batch in first)
    # No two neighbours would fit into one.
    both = [torch.cat(pair) for pair in pairwise(first)]
    assert all(len(batch) * int(part.lengths[batch].max()) > 60 for batch in both)
    assert [len(batch) for batch in buckets(part.lengths, 1, torch.Generator())] == [1] * 150


def test_padding_changes_no_score() -> None:
    part, vocabulary = _treebank()
    torch.manual_seed(0)
    model = Parser(SMALL, vocabulary).eval()
    scores = model(part.batch(torch.tensor([2, 0])))
    assert scores.shape == (2, 6, 5)
    alone = model(part.batch(torch.tensor([0])))
    assert torch.allclose(scores[1, :3, :2], alone[0], atol=1e-6)
    assert not torch.allclose(scores[0, :3, :2], alone[0], atol=1e-3)


def test_spellings_end_with_their_last_letter() -> None:
    part, vocabulary = _treebank()
    model = Parser(SMALL, vocabulary).eval()
    found = model._inputs(part.batch(torch.tensor([0])))[0, :, SMALL.word_width :]
    for word, vector in zip(SENTENCES[1].words, found, strict=True):
        letters = model.letters(torch.tensor([vocabulary.letters[letter] for letter in word]))
        assert torch.allclose(vector, model.spelling(letters.T[None])[0].amax(-1).relu(), atol=1e-6)


def test_frequent_words_keep_their_vectors() -> None:
    part, vocabulary = _treebank()
    batch = part.batch(torch.tensor([2]))
    seen: list[Tensor] = []
    for word_dropout in (0.0, 1e9):
        model = Parser(replace(SMALL, dropout=0.0, word_dropout=word_dropout), vocabulary).train()
        model.words.register_forward_hook(lambda module, given, made: seen.append(given[0]))
        model(batch)
        model.eval()(batch)
    assert [torch.equal(words, batch.words) for words in seen] == [True, True, False, True]
    assert not bool(seen[2].any())


def _scores(batch) -> Tensor:
    n = batch.words.shape[1]
    return torch.randn(len(batch.words), n + 1, n, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_losses_are_sums_over_sentences_without_padding() -> None:
    part, _ = _treebank()
    batch = part.batch(torch.arange(3))
    scores = _scores(batch)
    by_hand = {"softmax": 0.0, "sparsemap": 0.0}
    for own, heads, n in zip(scores, batch.heads, batch.lengths.tolist(), strict=True):
        inside = own[: n + 1, :n]
        by_hand["sparsemap"] += sparsemap_loss(
            DependencyTree(n), inside[None], functional.one_hot(heads[:n], n + 1).T[None], tol=1e-12
        )
        for word in range(n):
            # A word is not its own head.
            rest = torch.cat([inside[: word + 1, word], inside[word + 2 :, word]])
            by_hand["softmax"] += rest.logsumexp(0) - inside[heads[word], word]
    for name, kind in LOSSES.items():
        found = kind(replace(SMALL, tol=1e-12, max_iter=1000)).loss(scores, batch)
        assert torch.allclose(found, torch.as_tensor(by_hand[name]), atol=1e-5), name
        (slope,) = torch.autograd.grad(found, scores)
        marginals, _ = kind(SMALL).marginals(scores.detach(), batch)
        gold = functional.one_hot(batch.heads, scores.shape[1]).mT * batch.inside[:, None]
        assert torch.allclose(slope, marginals - gold, atol=1e-4), name
    options = ({}, {"max_iter": 1}, {"tol": 1.0})
    exact, *less = (LOSSES["sparsemap"](replace(SMALL, **given)).loss(scores.detach(), batch) for given in options)
    assert all(bool(loss < exact - 1e-3) for loss in less)


@pytest.mark.parametrize("name", list(LOSSES))
def test_marginals_are_distributions_over_heads(name: str) -> None:
    part, _ = _treebank()
    batch = part.batch(torch.arange(3))
    scores = _scores(batch).detach()
    marginals, trees = LOSSES[name](SMALL).marginals(scores, batch)
    assert torch.allclose(marginals.sum(1), batch.inside.float(), atol=1e-6)
    assert not bool(marginals[0, 3:].any())
    if name == "softmax":
        assert trees is None
    else:
        assert trees is not None
        assert trees.tolist() == sparsemap(DependencyTree(5), scores, lengths=batch.lengths).mask.sum(1).tolist()
        assert int(trees.max()) > 1


def test_trees_are_the_best_ones_with_one_word_on_the_root() -> None:
    part = load(Config(sentences=60)).train
    whole = part.batch(torch.arange(3))
    batch = replace(whole, words=whole.words[:, :4], lengths=torch.tensor([4, 2, 3]))
    scores = _scores(batch).detach()
    heads = parse(scores, batch)
    for own, found, n in zip(scores, heads, batch.lengths.tolist(), strict=True):
        every = DependencyTree(n).enumerate().unflatten(1, (n + 1, n))
        best = every[(every * own[: n + 1, :n]).sum((1, 2)).argmax()]
        assert found.tolist() == best.argmax(0).tolist() + [0] * (4 - n)


def test_what_is_found_of_a_parser_that_hesitates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gold trees get the best scores, but for one word with two heads that are equally good, and a wrong one."""
    part, vocabulary = _treebank()

    def forward(self, batch):
        scores = 3.0 * functional.one_hot(batch.heads, batch.heads.shape[1] + 1).mT.float()
        if batch.words.shape[1] == 5:
            scores[-1, 2, 3] = 3.0  # "the" between "garden" and "dog"
            scores[-1, 3, 0] = 9.0  # "The" on "saw"
        return scores

    monkeypatch.setattr(Parser, "forward", forward)
    found = examine(Training(replace(SMALL, loss="sparsemap"), vocabulary, 1), part, 3)
    # Which of the two is chosen is open.
    right = [True] * 4 + [False] + [True] * 2 + [bool(found.right[7]), True]
    assert found.right.tolist() == right
    assert found.covered.tolist() == [True] * 4 + [False] + [True] * 4
    assert found.uas == pytest.approx(sum(right) / 9)
    assert found.lengths.tolist() == [2, 2, 5]
    assert found.trees is not None
    assert found.trees.tolist() == [1, 1, 2]
    assert found.several.tolist() == [1] * 7 + [2, 1]
    assert found.confidence.tolist() == pytest.approx([1.0] * 7 + [0.5, 1.0])
    measures = found.measures()
    assert measures["single"] == pytest.approx(2 / 3)
    assert measures["trees"] == pytest.approx(4 / 3)
    assert measures["several"] == pytest.approx(1 / 9)
    assert measures["covered"] == pytest.approx(8 / 9)
    assert measures["whole"] == pytest.approx(2 / 3)
    (shown,) = found.ambiguous
    (choice,) = shown["choices"]
    assert shown["words"] == SENTENCES[0].words
    assert (choice["word"], choice["gold"]) == (4, 5)
    assert sorted(choice["heads"]) == [[2, pytest.approx(0.5)], [5, pytest.approx(0.5)]]
    dense = examine(Training(replace(SMALL, loss="softmax"), vocabulary, 1), part, 2)
    assert dense.trees is None
    assert not dense.ambiguous
    assert set(dense.measures()) == {"whole"}
    assert found.uas == dense.uas


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 0}, "at least 1"), ({"tol": -1.0}, "0 or more"), ({"sentences": 0}, "at least 1, or null"),
        ({"dropout": 1.0}, "in \\[0, 1"), ({"lr": 0.0}, "more than 0"), ({"word_dropout": -1.0}, "0 or more"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Config(**change)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory):
    """Both rows of the smoke preset, trained in this process, and the fields of the configuration that were read."""
    folder = tmp_path_factory.mktemp("smoke")
    results, read = train_watched(recipe, SMOKE, folder)
    return results, read, folder


def test_smoke(smoke) -> None:
    results, read, folder = smoke
    assert read >= {f.name for f in fields(Config)} - {"data_dir"}, "a field that nothing reads"
    sparse = results["sparsemap"].metrics
    assert 0 <= sparse["single, dev"] < 1 < sparse["trees, dev"]
    assert "trees, dev" not in results["softmax"].metrics
    assert results["softmax"].split == results["sparsemap"].split
    assert results["softmax"].n == results["sparsemap"].n
    runs = finished_runs(SMOKE, results, folder)
    rows = recipe.table(runs)
    assert [row["loss"] for row in rows] == ["softmax", "sparsemap"]
    assert rows[0]["trees (test)"] == "-"
    assert float(rows[1]["trees (test)"]) > 1
    drawn = recipe.figures(runs)
    assert set(drawn) == {"confidence", "trees", "lengths"}
    for figure, _ in drawn.values():
        figure.canvas.draw()
    assert set(recipe.figures(runs[:1])) == {"confidence"}
    (shown,) = recipe.details(runs).values()
    kept = read_json(folder / SMOKE[1].name / "ambiguous.json")
    assert len(shown) == sum(len(found["choices"]) for found in kept)
    assert all(", " in row["heads with probability"] for row in shown)


def test_an_interrupted_training_ends_as_one_that_was_not(smoke, tmp_path: Path) -> None:
    results, _, folder = smoke
    member = next(m for m in SMOKE if m.row == "sparsemap")
    again, begun = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=5)
    assert len(set(begun)) < len(begun), "more than an epoch"
    assert replace(again, seconds=0) == replace(results["sparsemap"], seconds=0)
    for name in ("metrics.csv", "model.safetensors", "ambiguous.json", "dev-words.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes()
