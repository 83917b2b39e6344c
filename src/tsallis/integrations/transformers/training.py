"""The loss of `entmax` for transformers' Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ...core.errors import ParameterError, ShapeError
from ...core.inputs import HALF
from ...losses import entmax_loss
from ...losses.targets import fixed_alpha, smoothing_amount

# Labels that Trainer does not count.
IGNORED = -100
# Names of models' outputs say what their scores are of: the next token, or what is at the same place.
_NEXT, _SAME = ("CausalLM",), ("Seq2Seq", "MaskedLM", "TokenClassifier", "SequenceClassifier", "MultipleChoice")


@dataclass(frozen=True)
class TrainerLoss:
    """What `trainer_loss` returns; its arguments are there."""

    alpha: float
    label_smoothing: float
    shift: bool | None

    def __call__(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:  # fmt: skip
        """The loss of a batch.

        Args:
            outputs: of the model.
            labels: class indices.
            num_items_in_batch: how many labels there are in all batches of the step.
        """
        scores = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != scores.shape[:-1]:
            kind = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else f"{labels!r}"
            raise ShapeError(
                f"labels {kind} for scores of shape {tuple(scores.shape)}",
                f"class indices of shape {tuple(scores.shape[:-1])}",
                "Have the data collator give them as labels",
            )
        if self._shifts(outputs):
            scores, labels = scores[:, :-1], labels[:, 1:]
        labels = labels.reshape(-1).to(scores.device)
        # A sum over a batch is too long for half precision.
        scores = scores.reshape(-1, scores.shape[-1]).to(torch.float32 if scores.dtype in HALF else scores.dtype)
        total = entmax_loss(
            scores, labels, self.alpha, ignore_index=IGNORED, reduction="sum",
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
        if num_items_in_batch is None:
            num_items_in_batch = (labels != IGNORED).sum()
        count = torch.as_tensor(num_items_in_batch, device=total.device)
        # Of no labels the loss is zero, and so is its gradient.
        return total / count.clamp(min=1)

    def _shifts(self, outputs: Any) -> bool:
        if self.shift is not None:
            return self.shift
        name = type(outputs).__name__
        for parts, shifts in ((_NEXT, True), (_SAME, False)):
            if any(part in name for part in parts):
                return shifts
        raise ParameterError(
            f"outputs of type {name}, which does not say whether scores are of the next token", "shift", "Pass "
            "trainer_loss(shift=True) where the scores at each place are of the next one, as in causal models",
        )  # fmt: skip


def trainer_loss(
    alpha: float | Tensor | nn.Module = 1.5,
    *,
    label_smoothing: float = 0.0,
    shift: bool | None = None,
) -> TrainerLoss:
    r"""`ts.entmax_loss` for `Trainer(compute_loss_func=trainer_loss(1.5))`.

    $$\frac1N \sum_i \Omega^*_\alpha(z_i) - \langle t_i, z_i \rangle$$

    over the labels i of a batch other than -100. N is what Trainer counts over all batches that it accumulates for
    a step, so that the step is that of one large batch.

    With such a function Trainer takes labels out of a model's inputs: models that make decoder_input_ids of them need
    those from the data collator, `DataCollatorForSeq2Seq(tokenizer, model=model)` for example. Its own argument
    label_smoothing_factor has no effect then. Of causal models Trainer knows by the name of their class that the first
    label of a text does not count; of others, such as GPT2LMHeadModel, it counts one label too many for each text
    unless `model.loss_type = "ForCausalLM"` is set before. `check_trainer` refuses both.

    With label smoothing the loss is least where entmax gives the smoothed targets themselves, every class at least
    eps/V: the optimum is dense for every alpha, and a model meant to have zeros, for searches with proofs, is trained
    away from them.

    Args:
        alpha: a number above 0. A learned one is refused: the loss falls as alpha rises, whatever the scores are, and
            alpha would only run to the end of its interval.
        label_smoothing: eps as in `ts.entmax_loss`: targets (1 - eps) t + eps q, q uniform over the V classes.
        shift: whether scores at each place are of the next token; None to know it from the type of the model's outputs.

    Returns:
        a function (outputs, labels, num_items_in_batch) -> loss, which can be pickled. Without a number of items the
        mean over the batch's own labels, 0 if there are none.

    Raises:
        ParameterError: alpha that is learned or not above 0, label_smoothing outside [0, 1].

    Differentiability:
        as `ts.entmax_loss` in scores.

    Complexity:
        as `ts.entmax_loss`.

    Example:
        >>> import torch
        >>> from tsallis.integrations.transformers import trainer_loss
        >>> loss = trainer_loss(2.0, shift=True)
        >>> scores = torch.tensor([[[0.5, 1.2, -1.0], [0.0, 0.0, 0.0]]])
        >>> loss((scores,), torch.tensor([[-100, 1]]), num_items_in_batch=2)
        tensor(0.0112)

    References:
        peters2019sparse, peters2021smoothing
    """
    return TrainerLoss(fixed_alpha(alpha), smoothing_amount(label_smoothing), shift)


def check_trainer(trainer: Trainer) -> Trainer:
    """Refuse settings that a Trainer with a `trainer_loss` would silently take for others.

    Its label_smoothing_factor has no effect beside a function for the loss; and it must count the labels that the
    function sums over: those behind the first of each text exactly if scores are of the next token. Of models whose
    class does not say so, and of a loss that leaves it to their outputs, nothing is known before they run: they pass.

    Args:
        trainer: made with compute_loss_func=trainer_loss(...). What it does with a model it decides when it is made:
            `model.loss_type` has to be set before.

    Returns:
        the trainer.

    Raises:
        ParameterError: another loss, a label_smoothing_factor other than 0, labels that are not counted as the loss
            sums them.

    Example:
        >>> from tsallis.integrations.transformers import check_trainer, trainer_loss
        >>> check_trainer(Trainer(model, arguments, compute_loss_func=trainer_loss(1.5)))  # doctest: +SKIP
    """
    loss, smoothing = trainer.compute_loss_func, trainer.args.label_smoothing_factor
    if not isinstance(loss, TrainerLoss):
        raise ParameterError(
            f"a Trainer with compute_loss_func={loss!r}", "a trainer_loss",
            "Make it with compute_loss_func=trainer_loss(1.5)",
        )  # fmt: skip
    if smoothing:
        raise ParameterError(
            f"label_smoothing_factor={smoothing}", "0, as it has no effect beside a compute_loss_func",
            f"Leave it out and pass trainer_loss(label_smoothing={smoothing}); its optimum has no zeros",
        )  # fmt: skip
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "get_base_model"):
        # An adapter of peft stands around it.
        model = model.get_base_model()
    shifts = loss.shift
    if shifts is None and type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        shifts = True
    encoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    kind = getattr(model, "loss_type", None)
    counts = LOSS_MAPPING.get(str(kind)) is ForCausalLMLoss and not encoder
    if shifts is not None and shifts != counts:
        name = type(model).__name__
        raise ParameterError(
            f"a {name} of loss_type {kind!r}, of which Trainer {'leaves out' if counts else 'counts'} the first label "
            "of each text", f"the labels that the loss sums over, which {'have not' if shifts else 'have'} those",
            f'Set model.loss_type = "ForCausalLM" before Trainer is made, or pass trainer_loss(shift={counts})'
            if shifts else f"Pass trainer_loss(shift={counts}), or set another model.loss_type before",
        )  # fmt: skip
    return trainer
