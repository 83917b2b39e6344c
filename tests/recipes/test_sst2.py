"""The sentence classifier: its sentences, its models, what is seen of heads, and its smoke preset."""

from __future__ import annotations

import gzip
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from tsallis.core.errors import TsallisError
from tsallis.recipes._shared import plan
from tsallis.recipes._shared.config import ConfigError
from tsallis.recipes._shared.datasets import DataError
from tsallis.recipes._shared.files import read_table

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    PreTrainedTokenizerFast,
)  # fmt: skip

from tsallis.integrations.transformers import alpha_parameters, alphas, sparsify
from tsallis.recipes.sst2 import recipe
from tsallis.recipes.sst2.config import Config
from tsallis.recipes.sst2.data import BAD, GOOD, load
from tsallis.recipes.sst2.heads import _marked, analyse, draw_example
from tsallis.recipes.sst2.model import KINDS, Training, build, encode

from .conftest import finished_runs, train_interrupted, train_watched

SMOKE = plan.make_plan(recipe, "sst2", "smoke", {}).members
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
SENTENCES = ["a dull film .", "not a lovely story ?", "music"]


def test_made_sentences_tell_their_label() -> None:
    text = load(Config())
    for sentence, label in zip(text.train.sentences, text.train.labels.tolist(), strict=True):
        words = sentence.split()
        (place,) = [i for i, word in enumerate(words) if word in GOOD + BAD]
        assert label == ((words[place] in GOOD) != (words[place - 1] == "not" and place > 0))
    assert 0.4 < float(text.train.labels.float().mean()) < 0.6
    assert text.hash == load(Config(seed=3)).hash
    assert set(text.marked) == set(text.dev.sentences)


def test_sentences_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSALLIS_DATA", raising=False)
    files = Config(dataset="sst-2", questions="ud-english-ewt")
    with pytest.raises(DataError, match="pass --data-dir DIR"):
        load(files)
    (tmp_path / "sst2").mkdir()
    for name in ("train", "dev", "test"):
        (tmp_path / "sst2" / f"{name}.tsv").write_text(f"1\tgood {name}\n0\tbad {name} .\n")
    (tmp_path / "ud-english-ewt").mkdir()
    trees = "# sent_id = 1\n# text = Why?\n1\tWhy\t_\n\n# text = So.\n\n# text = Well\n"
    (tmp_path / "ud-english-ewt" / "dev.conllu.gz").write_bytes(gzip.compress(trees.encode()))
    text = load(replace(files, data_dir=str(tmp_path)))
    assert text.dev.sentences == ["good dev", "bad dev ."]
    assert text.dev.labels.tolist() == [1, 0]
    assert text.marked == ["Why?", "So."]
    for content in ("2\tworse\n", "no label\n", ""):
        (tmp_path / "sst2" / "dev.tsv").write_text(content)
        with pytest.raises(DataError, match=r"dev\.tsv"):
            load(replace(files, data_dir=str(tmp_path)))


@pytest.mark.data
@pytest.mark.skipif("TSALLIS_DATA" not in os.environ, reason="TSALLIS_DATA is not set")
def test_real_sentences() -> None:
    text = load(Config(dataset="sst-2", questions="ud-english-ewt"))
    assert [len(part.sentences) for part in (text.train, text.dev, text.test)] == [6920, 872, 1821]
    assert sum(s.endswith("?") for s in text.marked) == 170
    assert sum(s.endswith(".") for s in text.marked) == 1140


def test_tokens_and_their_words() -> None:
    tokenizer, _ = build(Config(), SENTENCES)
    encoded = encode(tokenizer, [*SENTENCES, "unknown words"], torch.tensor([0, 0, 1, 1]), 5)
    batch = encoded.batch(torch.tensor([0, 2]))
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist()) == ["[CLS]", "a", "dull", "film", "[SEP]"]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1] * 3 + [0] * 2]
    assert batch["words"].tolist() == [[-1, 0, 1, 2, -1], [-1, 0, -1, -1, -1]]
    assert batch["labels"].tolist() == [0, 1]
    assert tokenizer.convert_ids_to_tokens(encoded.ids[3].tolist())[1:3] == ["[UNK]"] * 2
    # The first two are cut before their last characters.
    assert encoded.last.tolist() == [-1, -1, 1, 2]


@pytest.mark.parametrize("kind", ["words", "bytes", "spaces"])
def test_words_are_what_lies_between_spaces_whatever_the_tokenizer(kind: str) -> None:
    """Tokenizers that never split a sentence into words, or keep the space with a token, are no different."""
    sentence, pieces = (
        "un able  to ?",
        ["[PAD]", "[UNK]", "un", "able", "to", "?", "Ġable", "Ġto", "Ġ?", "Ġ", "▁un", "▁able"],
    )
    pieces += ["▁to", "▁?", "▁"]
    numbers = {piece: i for i, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocab=numbers | _letters(numbers), merges=[], unk_token="[UNK]"))
    made.pre_tokenizer = {
        "words": pre_tokenizers.Whitespace(),
        "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "spaces": pre_tokenizers.Metaspace(split=False),
    }[kind]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    encoded = encode(tokenizer, [sentence], torch.tensor([1]), 50)
    tokens = tokenizer.convert_ids_to_tokens(encoded.ids[0].tolist())
    letters = [(token.strip("Ġ▁"), word) for token, word in zip(tokens, encoded.words[0].tolist(), strict=True)]
    assert [pair for pair in letters if pair[0]] == [
        ("u", 0), ("n", 0), ("a", 1), ("b", 1), ("l", 1), ("e", 1), ("t", 2), ("o", 2), ("?", 3)
    ]  # fmt: skip
    assert tokens[int(encoded.last)].endswith("?")


def _letters(numbers: dict[str, int]) -> dict[str, int]:
    letters = [c for c in "unabletoĠ▁?" if c not in numbers]
    return {c: len(numbers) + i for i, c in enumerate(dict.fromkeys(letters))}


def test_marks_are_the_last_of_their_sentences() -> None:
    tokenizer, _ = build(Config(), SENTENCES)
    # The second is cut before its mark.
    sentences = ["a ? dull film .", "not a lovely story a lovely story ?", "music ?"]
    encoded = encode(tokenizer, sentences, torch.zeros(3, dtype=torch.long), 7)
    ((batch, more),) = _marked(encoded, torch.tensor([False, True, True]), Config())
    assert more["marks"].tolist() == [5, 2]
    assert more["questions"].tolist() == [False, True]
    last = batch["input_ids"].gather(1, more["marks"][:, None]).flatten().tolist()
    assert tokenizer.convert_ids_to_tokens(last) == [".", "?"]


@pytest.mark.parametrize("attention", list(KINDS))
def test_any_model_in_a_folder(attention: str, tmp_path: Path) -> None:
    """A model that was saved is found again with its tokenizer; the head is new."""
    tokenizer, model = build(Config(attention="softmax"), SENTENCES)
    tokenizer.save_pretrained(tmp_path)
    model.bert.save_pretrained(tmp_path)
    config = Config(model=str(tmp_path), attention=attention, alpha=1.25)
    _, again = build(config, [])
    assert torch.equal(again.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)
    if attention != "softmax":
        assert all(torch.allclose(a, torch.tensor(1.25)) for a in alphas(again).values())
    assert len(alpha_parameters(again)) == (2 if attention == "learn" else 0)
    # Alphas have a group of their own in the optimiser.
    groups = Training(config, again, 10).configure_optimizers()["optimizer"].param_groups
    assert sum(len(g["params"]) for g in groups) == len(list(again.parameters()))
    assert [g["weight_decay"] for g in groups] == ([0.01, 0.0] if attention == "learn" else [0.01])
    with pytest.raises(TsallisError, match=r"--model nowhere/at/all.*a folder or a hub name"):
        build(replace(config, model="nowhere/at/all"), [])


def test_models_that_cannot_be_worked_with(tmp_path: Path) -> None:
    tokenizer, model = build(Config(attention="softmax"), SENTENCES)
    tokenizer.save_pretrained(tmp_path)
    sparsify(model).save_pretrained(tmp_path)
    config = Config(model=str(tmp_path), attention="softmax")
    with pytest.raises(TsallisError, match="sparse already"):
        build(config, [])
    # Labels of another task are replaced.
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=5))
    model.save_pretrained(tmp_path)
    assert build(config, [])[1].num_labels == 2
    BartForSequenceClassification(
        BartConfig(d_model=16, encoder_layers=1, decoder_layers=1, vocab_size=30, encoder_attention_heads=2,
                   decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16)
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(TsallisError, match="an encoder with a decoder"):
        build(config, [])
    Gemma2ForSequenceClassification(Gemma2Config(**SMALL, head_dim=8, num_key_value_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(TsallisError, match="softcap"):
        build(config, [])
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(TsallisError, match="no token for padding"):
        build(config, [])


@pytest.mark.parametrize("kind", ["causal", "windows", "shared layers", "learned queries and keys together"])
def test_density_of_softmax_is_1_in_any_model(kind: str, tmp_path: Path) -> None:
    tokenizer, _ = build(Config(), SENTENCES)
    small = SMALL
    model = {
        "causal": lambda: LlamaForSequenceClassification(LlamaConfig(**small, pad_token_id=0)),
        "windows": lambda: MistralForSequenceClassification(
            MistralConfig(**small, pad_token_id=0, sliding_window=3, num_key_value_heads=2)
        ),
        "shared layers": lambda: AlbertForSequenceClassification(AlbertConfig(**small, embedding_size=8)),
        "learned queries and keys together": lambda: GPT2ForSequenceClassification(
            GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=30, pad_token_id=0)
        ),
    }[kind]()
    encoded = encode(tokenizer, SENTENCES, torch.zeros(3, dtype=torch.long), 12)
    asked = torch.tensor([False, True, False])
    for attention in ("softmax", "fixed"):
        config = Config(attention=attention, alpha=2.0)
        if attention == "fixed":
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(5)
            sparsify(model, 2.0)
        rows = analyse(config, model.eval(), encoded, encoded, asked, tmp_path)
        assert len(rows) == 4, "two layers of two heads"
        densities = torch.tensor([row["density"] for row in rows])
        assert torch.allclose(densities, torch.ones(4)) == (attention == "softmax")
        assert all(row["alpha"] == (1.0 if attention == "softmax" else 2.0) for row in rows)
        assert all("interrogation" in row for row in rows)
        assert all("merging" not in row for row in rows), "no word has several pieces"
        draw_example(model, tokenizer, encoded, tmp_path)


def test_heads_of_softmax_are_those_of_eager_attention(tmp_path: Path) -> None:
    config = Config(attention="softmax")
    tokenizer, model = build(config, SENTENCES)
    encoded = encode(tokenizer, SENTENCES, torch.zeros(3, dtype=torch.long), 12)
    model.eval()
    batch = encoded.batch(torch.arange(3))
    model.set_attn_implementation("eager")
    weights = model(batch["input_ids"], batch["attention_mask"], output_attentions=True).attentions
    rows = analyse(config, model, encoded, encoded, torch.tensor([False, True, False]), tmp_path)
    inside = batch["attention_mask"].bool()
    top = [weights[0][i, :, :n, :n].amax(-1).mean(-1) for i, n in enumerate(inside.sum(-1).tolist())]
    assert torch.allclose(torch.stack(top).mean(0), torch.tensor([row["confidence"] for row in rows[:4]]), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 2.0}, "inside"), ({"attention": "fixed", "alpha": -1.0}, "0 or more"), ({"epochs": 0}, "at least 1"),
        ({"warmup": 1.0}, "in \\[0, 1"), ({"model": ""}, "a hub name"), ({"alpha_lr": 0.0}, "more than 0"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be(change: dict[str, object], words: str) -> None:
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
    dense, sparse = results["softmax"].metrics, results["learned alpha"].metrics
    assert dense["density"] == dense["alpha, mean"] == 1
    assert sparse["density"] < 1
    assert 1 < sparse["alpha, least"] < sparse["alpha, most"] < 2
    assert results["softmax"].split == results["learned alpha"].split
    looks = read_table(folder / "learned_alpha-seed0" / "alphas.csv")
    assert [look["step"] for look in looks] == list(range(4, 33, 4))
    assert all(looks[-1][name] != looks[0][name] for name in looks[0] if name.startswith("layer"))
    runs = finished_runs(SMOKE, results, folder)
    assert [row["attention"] for row in recipe.table(runs)] == ["softmax", "learned alpha"]
    shown = recipe.details(runs)
    assert list(shown) == ["Heads: softmax, seed 0", "Heads: learned alpha, seed 0"]
    assert [(row["layer"], row["head"], row["alpha"]) for row in shown["Heads: softmax, seed 0"]][5] == (
        "1",
        "1",
        "1.000",
    )
    drawn = recipe.figures(runs)
    assert {name for name in drawn if name.endswith("learned_alpha")} == {
        f"{kind}-learned_alpha"
        for kind in (
            "alphas",
            "density",
            "density-alpha",
            "interrogation",
            "maps-layer0",
            "maps-layer1",
            "trajectories",
        )
    }
    for figure, _ in drawn.values():
        figure.canvas.draw()


def test_an_interrupted_training_ends_as_one_that_was_not(smoke, tmp_path: Path) -> None:
    results, _, folder = smoke
    member = next(m for m in SMOKE if m.row == "learned alpha")
    again, _ = train_interrupted(recipe, Training, member.config, tmp_path / "run", at=20)
    assert replace(again, seconds=0) == replace(results[member.row], seconds=0)
    for name in ("metrics.csv", "model.safetensors", "alphas.csv", "heads.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / member.name / name).read_bytes()
