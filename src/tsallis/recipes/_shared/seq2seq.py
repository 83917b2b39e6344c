"""Training of encoder-decoders, and searches over what they have learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ... import decoding
from ...core.errors import ParameterError
from ...decoding.beam import Endings
from ...decoding.steps import Step
from ...losses import entmax_loss
from ...nn import Seq2Seq
from ...nn.seq2seq import PADDING
from .config import RunConfig
from .files import RunError, read_weights
from .pairs import padded
from .predictions import ALTERNATIVES, Alignment, Prediction, found
from .training import fusible, log_means, scheduled

# Norm at which gradients are cut.
CLIP = 1.0
# Bytes of states that a search may keep of its prefixes at once.
KEPT = 2**30


@dataclass(frozen=True)
class SequenceConfig(RunConfig):
    """Hyper-parameters that encoder-decoders share.

    Attributes:
        attention: alpha of attention: 1 is softmax, 2 sparsemax; learn for one of each head.
        output: alpha of the output and its loss.
        label_smoothing: of the loss.
        width: of embeddings and hidden states.
        layers: of the encoder and of the decoder.
        dropout: of inputs and states.
        batch_tokens: in each step, of both sides and with padding; pairs of a batch are about as long as each other.
        epochs: of the training.
        lr: largest learning rate of Adam.
        warmup: steps over which it rises to that; then it falls to 0 on a line.
        beam: prefixes that a search keeps.
        endings: which sequences that end it finds, as in `ts.decoding.beam_search`.
        empty: whether the empty sequence may be found; without it certificates are about all others.
        max_length: tokens that it makes of a sequence at most.
        search_batch: sequences searched at once.
    """

    attention: float | Literal["learn"] = 1.5
    output: float = 1.5
    label_smoothing: float = 0.0
    width: int = 128
    layers: int = 2
    dropout: float = 0.3
    batch_tokens: int = 2000
    epochs: int = 20
    lr: float = 1e-3
    warmup: int = 200
    beam: int = 5
    endings: Endings = "beam"
    empty: bool = True
    max_length: int = 60
    search_batch: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "layers", "batch_tokens", "epochs", "beam", "max_length", "search_batch"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("attention", self.attention == "learn" or self.attention >= 0, "0 or more, or learn")
        self._require("output", self.output > 0, "more than 0")
        self._require("dropout", 0 <= self.dropout < 1, "a number in [0, 1)")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "a number in [0, 1)")
        self._require("lr", self.lr > 0, "more than 0")
        self._require("warmup", self.warmup >= 0, "0 or more")


class SequenceTraining(LightningModule):
    """An encoder-decoder in training; total is the number of steps."""

    def __init__(self, config: SequenceConfig, model: Seq2Seq, total: int) -> None:
        super().__init__()
        self.config, self.model, self.total = config, model, total

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(
            self.parameters(), lr=self.config.lr, betas=(0.9, 0.98), fused=fusible(self.config)
        )
        return scheduled(optimizer, self.config.warmup, self.total)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # Lightning's own way refuses fused optimizers in mixed precision, of bfloat16 too, where nothing is scaled.
        nn.utils.clip_grad_norm_(self.parameters(), CLIP)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        source, target = batch
        loss = self.model.loss(source, target)
        return {"loss": loss, "metrics": {"loss": loss}, "examples": int((target >= 0).sum())}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        source, target = batch
        scores, inside = self.model(source, target), target >= 0
        losses = entmax_loss(
            scores.flatten(0, 1), target.flatten(), self.config.output, ignore_index=PADDING, reduction="none"
        )
        # A sequence is what greedy decoding makes if each of its tokens has the best score after those before it.
        right = ((scores.argmax(-1) == target) | ~inside).all(1)
        log_means(self, "val", loss=losses.unflatten(0, target.shape).sum(1), wrong=(~right).float())


def search(
    model: Seq2Seq, sources: Sequence[Tensor], config: SequenceConfig, *, n_best: int | None = None
) -> decoding.Decoded:
    """Beam searches of all sources, in batches of such that are about as long as each other; results in their order."""
    hypotheses: list[list[decoding.Hypothesis]] = [[] for _ in sources]
    certificates: dict[int, decoding.Certificate] = {}
    lengths, rows = torch.tensor([len(source) for source in sources], dtype=torch.long), 0
    device = next(model.parameters()).device
    model.eval()
    step = model.step if config.empty else not_empty(model.step, model.eos)
    for positions in lengths.argsort(stable=True).split(config.search_batch) if len(sources) else ():
        batch = padded([sources[i] for i in positions.tolist()]).to(device)
        start = model.start(batch)
        part = decoding.beam_search(
            step, *start, eos=model.eos, beam=config.beam, max_length=config.max_length, n_best=n_best,
            endings=config.endings, max_rows=_max_rows(model, config, batch.shape[1]),
        )  # fmt: skip
        rows += part.rows
        for i, shown, certificate in zip(positions.tolist(), part.hypotheses, part.certificates, strict=True):
            hypotheses[i], certificates[i] = shown, certificate
    return decoding.Decoded(hypotheses, [certificates[i] for i in range(len(sources))], rows)


def not_empty(step: Step, eos: int) -> Step:
    """The step of a model that gives the empty sequence no probability, and others what they had."""

    def after(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        log_probs, state = step(tokens, state)
        # Sequences begin after an end, and nothing else does.
        first = tokens == eos
        if bool(first.any()):
            log_probs = log_probs.clone()
            log_probs[first, eos] = -torch.inf
        return log_probs, state

    return after


def _max_rows(model: Seq2Seq, config: SequenceConfig, source_length: int) -> int:
    """How many prefixes a search may run at once."""
    try:
        return model.max_rows(KEPT, beam=config.beam, max_length=config.max_length, source_length=source_length)
    except ParameterError:
        # What a beam may keep is too much. It mostly keeps less: one sequence at a time.
        return config.beam


def load_weights(model: Seq2Seq, folder: Path) -> None:
    """Give a model the weights that a training kept in its folder."""
    path = folder / "model.safetensors"
    weights = {name.removeprefix("model."): tensor for name, tensor in read_weights(path).items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{path}: weights of another model", "those of the run's configuration", "Run again") from error
    model.eval()


def predictions(
    model: Seq2Seq,
    examples: Sequence[tuple[list[str], list[int]]],
    config: SequenceConfig,
    name: Callable[[int], str],
    spell: Callable[[tuple[int, ...]], str],
    *,
    n_best: int | None = None,
    explain: bool = False,
) -> list[Prediction]:
    """What a search says of examples, each the tokens of a source and their numbers.

    Args:
        model: that has learned.
        examples: to predict.
        config: of the search.
        name: of a token of the target.
        spell: the text of a sequence.
        n_best: sequences sought of each, as in `beam_search`, and named: the prediction and its alternatives.
        explain: whether to add trees and alignments.
    """
    sources = [torch.tensor(numbers) for _, numbers in examples]
    device = next(model.parameters()).device
    result = search(model, sources, config, n_best=n_best)
    alternatives = ALTERNATIVES if n_best is None else n_best - 1
    made = []
    for (tokens, _), source, hypotheses, certificate in zip(
        examples, sources, result.hypotheses, result.certificates, strict=True
    ):
        alignment = None
        if explain and hypotheses:
            best = hypotheses[0].tokens
            weights = model.align(source[None].to(device), torch.tensor([best], device=device))[0].cpu()
            alignment = Alignment(tokens, [name(token) for token in best], weights)
        made.append(
            found(
                hypotheses, certificate, spell, alternatives=alternatives, name=name if explain else None,
                alignment=alignment,
            )
        )  # fmt: skip
    return made
