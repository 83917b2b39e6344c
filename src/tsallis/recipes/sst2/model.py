"""A sequence classifier of transformers with its tokens, and its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from lightning.pytorch import LightningModule
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from ...core.errors import TsallisError
from ...integrations.transformers import alpha_parameters, sparsify
from ...integrations.transformers.alphas import SAVED
from ...integrations.transformers.model import sparse_modules
from .._shared.training import log_means
from .config import Config

Batch = dict[str, Tensor]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Of attention, what is done to a model.
KINDS: dict[str, Callable[[Any, Config], Any]] = {
    "softmax": lambda model, config: model,
    "learn": lambda model, config: sparsify(model, "learn", init=config.alpha),
    "fixed": lambda model, config: sparsify(model, config.alpha),
}


@dataclass(frozen=True)
class Encoded:
    """Sentences as tokens.

    Attributes:
        ids: of each sentence's tokens.
        words: of each token, the number of the word (between spaces) that it is a piece of; -1 for none.
        last: (N) the token with each sentence's last character; -1 where the sentence was cut before it.
        labels: (N).
        padding: the token of padding.
    """

    ids: list[Tensor]
    words: list[Tensor]
    last: Tensor
    labels: Tensor
    padding: int

    def batch(self, positions: Tensor) -> Batch:
        """What a model takes, and words."""
        ids, words = ([source[i] for i in positions.tolist()] for source in (self.ids, self.words))
        pad = torch.nn.utils.rnn.pad_sequence
        lengths = torch.tensor([len(x) for x in ids])
        input_ids = pad(ids, batch_first=True, padding_value=self.padding)
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            "labels": self.labels[positions],
            "words": pad(words, batch_first=True, padding_value=-1),
        }


def build(config: Config, sentences: list[str]) -> tuple[Any, Any]:
    """(tokenizer, model) with the attention of the configuration; sentences are for the words of a new model."""
    with _quiet():
        tokenizer, model = _new(sentences) if config.model == "new" else _pretrained(config.model)
        _check(config.model, tokenizer, model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, KINDS[config.attention](model, config)


def _check(place: str, tokenizer: Any, model: Any) -> None:
    """Raise for what could not be trained or looked at."""
    if not getattr(tokenizer, "is_fast", False):
        raise TsallisError(f"{place}: a tokenizer in Python", "a fast one, which knows places", "Choose another model")
    if tokenizer.pad_token_id is None:
        raise TsallisError(f"{place}: no token for padding", "a tokenizer that has one", "Set its pad_token")
    if model.config.is_encoder_decoder:
        raise TsallisError(f"{place}: an encoder with a decoder", "one stack of layers", "Choose another model")
    if getattr(model.config, SAVED, None):
        raise TsallisError(f"{place}: a model that is sparse already", "one with softmax", "Name what it was made of")
    # Heads of softmax are looked at as those of alpha = 1, after the training.
    sparse_modules(model)


def _new(sentences: list[str]) -> tuple[Any, Any]:
    vocabulary = [*SPECIAL, *sorted({word for sentence in sentences for word in sentence.lower().split()})]
    numbers = {word: i for i, word in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, numbers[name]) for name in ("[CLS]", "[SEP]")]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
    small = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        pad_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    return tokenizer, transformers.BertForSequenceClassification(small)


def _pretrained(place: str) -> tuple[Any, Any]:
    try:
        return (
            transformers.AutoTokenizer.from_pretrained(place),
            transformers.AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=2, ignore_mismatched_sizes=True
            ),
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise TsallisError(
            f"--model {place}: {reason}", "a folder or a hub name of a model with its tokenizer", "Correct it"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without reports on weights that a new head does not have, and without bars."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def encode(tokenizer: Any, sentences: list[str], labels: Tensor, longest: int) -> Encoded:
    """Sentences as the model reads them, cut behind so many tokens."""
    found = tokenizer(sentences, truncation=True, max_length=longest, return_offsets_mapping=True)
    placed = [_words(*pair) for pair in zip(sentences, found["offset_mapping"], strict=True)]
    return Encoded(
        [torch.tensor(ids) for ids in found["input_ids"]], [torch.tensor(words) for words, _ in placed],
        torch.tensor([last for _, last in placed]), labels, tokenizer.pad_token_id,
    )  # fmt: skip


def _words(sentence: str, places: list[tuple[int, int]]) -> tuple[list[int], int]:
    """Of each token, from the places of its first and behind its last character: the number of its word, -1 for none;
    and the token with the last character, -1 where there is none.
    """
    # Tokenizers differ in what they take for words; spaces are the same for all.
    number, numbers = -1, []
    for before, character in zip(" " + sentence, sentence, strict=False):
        number += before.isspace() and not character.isspace()
        numbers.append(number)
    end, words, last = len(sentence.rstrip()), [], -1
    for token, (first, behind) in enumerate(places):
        # Some tokens begin with the space before a word.
        own = [i for i in range(first, behind) if not sentence[i].isspace()]
        words.append(numbers[own[0]] if own else -1)
        if own and own[-1] == end - 1:
            last = token
    return words, last


def longest(config: Config, tokenizer: Any, model: Any) -> int:
    """How many tokens of a sentence are read."""
    places = getattr(model.config, "max_position_embeddings", None) or config.max_length
    return min(config.max_length, tokenizer.model_max_length, places)


class Training(LightningModule):
    """The classifier in training; total is the number of steps."""

    def __init__(self, config: Config, model: Any, total: int) -> None:
        super().__init__()
        self.config, self.model, self.total = config, model, total

    def configure_optimizers(self) -> Any:
        config, own = self.config, alpha_parameters(self.model)
        apart = {id(p) for p in own}
        groups = [
            {
                "params": [p for p in self.model.parameters() if id(p) not in apart],
                "lr": config.lr, "weight_decay": config.weight_decay,
            },
            {"params": own, "lr": config.alpha_lr, "weight_decay": 0.0},
        ]  # fmt: skip
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
        rising = max(1, round(config.warmup * self.total))

        def height(step: int) -> float:
            return min((step + 1) / rising, max(0.0, (self.total - step) / max(1, self.total - rising)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, height)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _scores(self, batch: Batch) -> Tensor:
        return self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        scores, labels = self._scores(batch), batch["labels"]
        loss = torch.nn.functional.cross_entropy(scores, labels)
        right = (scores.argmax(-1) == labels).float().mean()
        return {"loss": loss, "metrics": {"loss": loss, "accuracy": right}, "examples": len(labels)}

    def _evaluate(self, stage: str, batch: Batch) -> None:
        scores, labels = self._scores(batch), batch["labels"]
        wrong = (scores.argmax(-1) != labels).float()
        log_means(self, stage, error=wrong, loss=torch.nn.functional.cross_entropy(scores, labels, reduction="none"))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)
