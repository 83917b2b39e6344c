"""Fine-tunes a GPT-2 of transformers with the loss of entmax, or trains a tiny one, on lines of text.

    python -m tsallis.recipes.language_model.gpt2 LINES.txt --out FOLDER [--model FOLDER_OR_NAME] [--alpha 1.5]

The last tenth of the lines is held out. The model is measured on it before and after, and in the end its first half
chooses k and p of the sampling methods of the recipe, which are measured on its second half: see `measured.json`.

Without --model: a random model of two layers on bytes, which needs no download. The protocol is that of Martins,
Marinho and Martins (2020): AdamW at 6.25e-5 falling to 0, weight decay 0.01, gradients cut at 1. A random model needs a
larger learning rate, 1e-3 for example.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

import tsallis as ts

from ...core.errors import ParameterError, TsallisError
from ...integrations.transformers import trainer_loss
from ...nn.seq2seq import evaluating
from .._shared.datasets import DataError, read_lines
from .._shared.files import write_json
from .._shared.seeding import seed_all
from . import measures
from .data import Stream
from .model import EPSILON

# Of the tokenizer of bytes: the end of a line, behind all of them.
END = 256
# Parts of a text as errors and measured.json name them.
TRAIN, HELD_OUT = "training lines", "held-out lines"
# Fewest lines of which a tenth can be held out, and most windows of each half of it that methods are measured in.
FEWEST, WINDOWS = 10, 64


def tiny() -> GPT2LMHeadModel:
    """A random GPT-2 on bytes."""
    config = GPT2Config(
        vocab_size=END + 1, n_embd=64, n_layer=2, n_head=4, n_positions=512, bos_token_id=END, eos_token_id=END,
        pad_token_id=END,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def blocks(lines: Sequence[str], size: int, tokenizer: Any = None, part: str = TRAIN) -> Tensor:
    """(N, size) tokens of all lines, one after the other with an end behind each; what is over is left out.

    Args:
        lines: of text.
        size: tokens in a block.
        tokenizer: of transformers, with an end of text; None for bytes.
        part: what errors call the lines.
    """
    stream: list[int] = []
    for line in lines:
        stream += (
            [*line.encode(), END] if tokenizer is None else [*tokenizer(line)["input_ids"], tokenizer.eos_token_id]
        )
    if len(stream) < size:
        raise DataError(
            f"{part}: {len(stream)} tokens in {len(lines)} lines",
            f"at least the {size} of a block",
            "Give more lines or a smaller --block",
        )
    whole = len(stream) // size
    return torch.tensor(stream[: whole * size]).view(whole, size)


@torch.no_grad()
def measure(model: PreTrainedModel, texts: Tensor, alpha: float, batch_size: int = 8) -> dict[str, float]:
    """Perplexity with EPSILON added to each probability, tokens with probability, and the share of tokens that have
    some, over all tokens but the first of each block.
    """
    surprise, support, covered, count = 0.0, 0.0, 0.0, 0
    with evaluating(model):
        for tokens in texts.to(model.device).split(batch_size):
            z = model(input_ids=tokens).logits[:, :-1].float()
            p = ts.entmax(z, alpha)
            right = p.gather(-1, tokens[:, 1:, None]).squeeze(-1)
            surprise += ts.decoding.metrics.surprise(right, p.shape[-1], EPSILON).double().sum().item()
            support += (p > 0).sum().item()
            covered += (right > 0).sum().item()
            count += right.numel()
    return {"perplexity": math.exp(surprise / count), "support": support / count, "covered": covered / count}


def by_method(model: PreTrainedModel, texts: Tensor, alpha: float, seed: int = 0) -> dict[str, dict[str, float]]:
    """What the recipe measures of its own models' sampling methods; a word is a token here.

    Args:
        model: in evaluation mode.
        texts: (N, size) blocks, at least two; the first half chooses k and p, and epsilon, the second is measured on.
        alpha: of its distributions.
        seed: of draws.
    """
    size = texts.shape[1] - 1
    # A block is a window with the token that follows it.
    validation, test = (Stream(half.flatten(), size) for half in texts.tensor_split([len(texts) // 2]))

    def distributions(windows: Tensor) -> Tensor:
        return ts.entmax(model(input_ids=windows.to(model.device)).logits.float(), alpha)

    chosen = measures.choose(distributions, validation, WINDOWS)
    along, found = (measures.follow(distributions, part, WINDOWS, chosen, seed) for part in (validation, test))
    words = model.config.vocab_size
    return {
        name: {**asdict(method), **measures.of_tokens(name, along, found, words)}  # pyright: ignore[reportArgumentType]
        for name, method in chosen.items()
    }


def _pretrained(name: str) -> tuple[Any, PreTrainedModel]:
    """A tokenizer and a causal model of transformers."""
    try:
        return AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"--model {name}: {reason}", "a folder or a name of a causal model with its tokenizer", "Choose another"
        ) from error


def _check(network: PreTrainedModel, tokenizer: Any, block: int) -> None:
    """What else would fail in the middle of a training."""
    places = getattr(network.config, "max_position_embeddings", None)
    if block < 2 or (places is not None and block > places):
        most = "" if places is None else f", at most the {places} places of the model"
        raise ParameterError(f"block={block}", f"2 or more{most}", "Choose another --block")
    if tokenizer is not None and tokenizer.eos_token_id is None:
        raise DataError(
            "A tokenizer without an end of text",
            "one that says which token ends a line",
            "Set its eos_token and save it",
        )


def fine_tune(
    lines: Sequence[str],
    folder: Path,
    *,
    held_out: Sequence[str] = (),
    model: str | None = None,
    alpha: float = 1.5,
    label_smoothing: float = 0.0,
    epochs: float = 1.0,
    lr: float = 6.25e-5,
    batch_size: int = 1,
    accumulate: int = 1,
    block: int = 512,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Train on lines and save the model in the folder.

    Args:
        lines: to train on.
        folder: gets the model, its tokenizer if it has one, and measured.json: which lines were measured on, what this
            returns, and `by_method` of the lines held out if they are two blocks or more.
        held_out: lines to measure on; the training lines themselves if there are none.
        model: a folder or name of a causal model of transformers; None for a tiny random one on bytes.
        alpha: of the loss and of what is measured.
        label_smoothing: as in `ts.entmax_loss`.
        epochs: passes over the lines.
        lr: learning rate at the beginning, which falls to 0.
        batch_size: blocks in a batch.
        accumulate: batches in a step.
        block: tokens in a block.
        seed: of weights and of the order of blocks.

    Returns:
        what `measure` gives, before and after.

    Raises:
        ParameterError: a block of more tokens than the model has places, or of fewer than two.
        DataError: lines that do not fill a block, a model that cannot be had, a tokenizer without an end of text.
        OSError: a folder that cannot be written.
    """
    seed_all(seed, "weights")
    tokenizer, network = (None, tiny()) if model is None else _pretrained(model)
    _check(network, tokenizer, block)
    # Trainer would count the first token of each block, which nothing predicts: see trainer_loss.
    network.loss_type = "ForCausalLM"
    texts = blocks(lines, block, tokenizer)
    tests = blocks(held_out, block, tokenizer, HELD_OUT) if held_out else texts
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        # Before the training, not after it.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    arguments = TrainingArguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate, learning_rate=lr, weight_decay=0.01, max_grad_norm=1.0,
        lr_scheduler_type="linear", seed=seed, save_strategy="no", report_to=[], remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
    )  # fmt: skip
    rows: Any = [{"input_ids": text, "labels": text} for text in texts]
    trainer = Trainer(
        network, arguments, train_dataset=rows, compute_loss_func=trainer_loss(alpha, label_smoothing=label_smoothing)
    )
    measured = {"before": measure(network, tests, alpha)}
    trainer.train()
    network.eval()
    measured["after"] = measure(network, tests, alpha)
    # Trainer leaves it off, and generation would run the whole prefix at each step.
    network.config.use_cache = True
    network.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    report: dict[str, Any] = {"measured on": HELD_OUT if held_out else TRAIN, **measured}
    if held_out and len(tests) > 1:
        report["methods"] = by_method(network, tests, alpha, seed)
    write_json(folder / "measured.json", report)
    return measured


def main(arguments: list[str] | None = None) -> int:
    """Train on the lines of a file; the last tenth is held out."""
    parser = argparse.ArgumentParser(
        prog="python -m tsallis.recipes.language_model.gpt2", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("lines", type=Path, help="UTF-8 text, gzipped or not")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--model", help="folder or name of a causal model; a tiny random one on bytes without it")
    for name, kind, default, text in (
        ("alpha", float, 1.5, "of entmax; 1 is softmax"),
        ("label-smoothing", float, 0.0, "share of the uniform distribution in targets"),
        ("epochs", float, 1.0, "passes over the lines"),
        ("lr", float, 6.25e-5, "learning rate at the beginning"),
        ("batch-size", int, 1, "blocks in a batch"),
        ("accumulate", int, 1, "batches in a step"),
        ("block", int, 512, "tokens in a block"),
        ("seed", int, 0, "of weights and order"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default: {default})")
    options = vars(parser.parse_args(arguments))
    path, folder = options.pop("lines"), options.pop("out")
    try:
        lines = [line for line in read_lines(path, "UTF-8 text, gzipped or not") if line.strip()]
        if len(lines) < FEWEST:
            raise DataError(
                f"{path}: {len(lines)} lines",
                f"{FEWEST} or more, of which the last tenth is held out",
                "Give more lines",
            )
        train = len(lines) - len(lines) // FEWEST
        measured = fine_tune(lines[:train], folder, held_out=lines[train:], **options)
    except TsallisError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        sys.stderr.write(f"{parser.prog}: {what}. Expected a folder with room on its disk. Choose another --out.\n")
        return 2
    for when, values in measured.items():
        sys.stdout.write(f"{when}: {', '.join(f'{name} {value:.4g}' for name, value in values.items())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
