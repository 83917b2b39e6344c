"""The translation model in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ...nn import TransformerSeq2Seq
from .._shared.files import append_row
from .._shared.seq2seq import SequenceTraining
from .config import Config
from .data import Text
from .heads import named_alphas
from .patterns import PatternAttention
from .pieces import Pieces
from .translate import greedy, scores

ALPHAS = "alphas.csv"


def build(config: Config, pieces: int) -> TransformerSeq2Seq:
    """The model of a configuration, for a vocabulary of this size."""
    model = TransformerSeq2Seq(
        pieces, width=config.width, layers=config.layers, heads=config.heads, feedforward=config.feedforward,
        dropout=config.dropout, attention_alpha=config.attention, output_alpha=config.output,
        label_smoothing=config.label_smoothing,
    )  # fmt: skip
    if config.fixed:
        for layer in model.encoder:
            layer.self_attn = PatternAttention(
                config.width, config.heads, config.fixed, config.dropout, config.attention
            )
    return model


class Training(SequenceTraining):
    """The model in training, validated by the BLEU of greedy translations."""

    def __init__(self, config: Config, model: TransformerSeq2Seq, total: int, pieces: Pieces, validation: Text) -> None:
        super().__init__(config, model, total)
        # No module: what it is made of is kept beside the weights.
        self.translation, self.pieces, self.validation = config, pieces, validation

    def on_validation_epoch_end(self) -> None:
        assert isinstance(self.model, TransformerSeq2Seq)
        made = greedy(self.model, self.pieces, self.validation.source, self.translation)
        bleu = scores(made, self.validation.target)["BLEU"].value
        # The smallest is kept.
        self.log("val/BLEU", bleu)
        self.log("val/lost", 100 - bleu)


class Alphas(Callback):
    """Alphas of all heads now and then, in a file of their own."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.every, self.learned = path, config.log_every, config.attention == "learn"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.learned or step % self.every:
            return
        assert isinstance(pl_module, Training)
        assert isinstance(pl_module.model, TransformerSeq2Seq)
        row = named_alphas(pl_module.model)
        append_row(self.path, {"step": step, **row}, "step")
