"""trainer_loss, and what transformers' Trainer does around it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from transformers.modeling_outputs import (
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError
from tsallis.integrations.transformers import TrainerLoss, check_trainer, trainer_loss

from .transformers_oracle import EOS, PAD, WORDS, gpt2, pair, t5

pytestmark = pytest.mark.usefixtures("quiet_transformers")


def inputs(shape: tuple[int, ...] = (3, 5)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(*shape, WORDS, generator=generator, dtype=torch.float64)
    labels = torch.randint(WORDS, shape, generator=generator)
    labels[0, -2:] = labels[1, 0] = -100
    return z.requires_grad_(), labels


def by_hand(z: Tensor, labels: Tensor, alpha: float, smoothing: float = 0.0) -> tuple[Tensor, int]:
    """Sum over labels that are not ignored, one by one from the definition: Omega*(z) - <t, z>."""
    total, count = z.sum() * 0, 0
    for row, label in zip(z.reshape(-1, z.shape[-1]), labels.flatten().tolist(), strict=True):
        if label == -100:
            continue
        t = torch.full_like(row, smoothing / len(row))
        t[label] += 1 - smoothing
        p = ts.entmax(row.detach(), alpha)
        entropy = (p - p**alpha).sum() / (alpha * (alpha - 1)) if alpha != 1 else -torch.xlogy(p, p).sum()
        # The maximum does not move to first order: this has the right gradient.
        total, count = total + (p * row).sum() + entropy - (t * row).sum(), count + 1
    return total, count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("kind", [CausalLMOutputWithCrossAttentions, Seq2SeqLMOutput])
def test_value_and_gradient(kind: Any, alpha: float, smoothing: float) -> None:
    z, labels = inputs()
    loss = trainer_loss(alpha, label_smoothing=smoothing)
    shift = kind is CausalLMOutputWithCrossAttentions
    used = (z[:, :-1], labels[:, 1:]) if shift else (z, labels)
    expected, count = by_hand(*used, alpha, smoothing)
    assert 0 < count < used[1].numel()
    for items in (None, 40, torch.tensor(40)):
        got = loss(kind(logits=z), labels, num_items_in_batch=items)
        torch.testing.assert_close(got, expected / (count if items is None else 40))
        (gradient,) = torch.autograd.grad(got, z, retain_graph=True)
        (right,) = torch.autograd.grad(expected / (count if items is None else 40), z, retain_graph=True)
        torch.testing.assert_close(gradient, right, rtol=0, atol=1e-10)
        assert gradient.abs().sum() > 0
    if not smoothing and alpha == 1:
        flat = [x.flatten(0, 1) for x in used]
        torch.testing.assert_close(loss(kind(logits=z), labels), nn.functional.cross_entropy(*flat))


def test_which_outputs_are_shifted() -> None:
    z, labels = inputs()
    loss = trainer_loss()
    shifted = trainer_loss(shift=True)((z,), labels)
    plain = trainer_loss(shift=False)((z,), labels)
    assert shifted != plain
    assert loss(CausalLMOutputWithCrossAttentions(logits=z), labels) == shifted
    for kind in (Seq2SeqLMOutput, MaskedLMOutput, TokenClassifierOutput):
        assert loss(kind(logits=z), labels) == plain
    assert trainer_loss(shift=False)(CausalLMOutputWithCrossAttentions(logits=z), labels) == plain
    assert trainer_loss(shift=True)({"logits": z}, labels) == shifted
    for outputs in ((z,), {"logits": z}, ModelOutput(logits=z)):
        with pytest.raises(ParameterError, match="shift"):
            loss(outputs, labels)
    classes = loss(SequenceClassifierOutput(logits=z[0]), torch.tensor([1, 2, -100, 0, 3]))
    torch.testing.assert_close(classes, ts.entmax_loss(z[0], torch.tensor([1, 2, -100, 0, 3])))


@pytest.mark.parametrize("items", [None, 0, torch.tensor(0)])
def test_no_labels_that_count(items: Any) -> None:
    z, labels = inputs()
    loss = trainer_loss()(Seq2SeqLMOutput(logits=z), torch.full_like(labels, -100), num_items_in_batch=items)
    assert loss == 0
    loss.backward()
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_half_precision_sums_in_float32() -> None:
    z = torch.zeros(1, 3000, WORDS, dtype=torch.bfloat16)
    labels = torch.ones(1, 3000, dtype=torch.long)
    loss = trainer_loss()(Seq2SeqLMOutput(logits=z), labels, num_items_in_batch=1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss / 3000, ts.entmax_loss(torch.zeros(1, WORDS), torch.tensor([1])))


def test_labels_that_are_no_classes() -> None:
    z, labels = inputs()
    for wrong in (None, labels[:, :-1], torch.zeros(3, 5), torch.zeros(3, 5, WORDS)):
        with pytest.raises(ShapeError, match="class indices"):
            trainer_loss()(Seq2SeqLMOutput(logits=z), wrong)


def test_a_learned_alpha_is_refused_as_it_would_only_rise() -> None:
    z, labels = inputs()
    for value in (1.05, 1.3, 1.5, 1.9):
        alpha = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        losses = ts.entmax_loss(z.flatten(0, 1), labels.flatten(), alpha, reduction="none")
        slopes = [torch.autograd.grad(x, alpha, retain_graph=True)[0].item() for x in losses]
        assert max(slopes) <= 0
        assert min(slopes) < -1e-3
    for alpha in (ts.nn.Alpha(), nn.Parameter(torch.tensor(1.5)), torch.tensor(1.5, requires_grad=True)):
        with pytest.raises(ParameterError, match="falls as alpha rises"):
            trainer_loss(alpha)
    fixed = ts.nn.Alpha(1.25).requires_grad_(False)
    assert trainer_loss(fixed).alpha == pytest.approx(1.25)
    assert trainer_loss(torch.tensor(1.25)) == trainer_loss(1.25)


@pytest.mark.parametrize(
    "options", [{"alpha": 0.0}, {"alpha": -1}, {"alpha": "learn"}, {"label_smoothing": 1.5}, {"label_smoothing": None}]
)
def test_arguments_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(options))):
        trainer_loss(**options)


def test_it_can_be_pickled() -> None:
    loss = trainer_loss(1.3, label_smoothing=0.1, shift=True)
    assert isinstance(loss, TrainerLoss)
    assert pickle.loads(pickle.dumps(loss)) == loss


# --- in Trainer


class Recorded:
    """A loss that notes what Trainer gave it."""

    def __init__(self, loss: TrainerLoss) -> None:
        self.loss, self.items, self.names = loss, [], []

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        self.items.append(None if num_items_in_batch is None else int(num_items_in_batch))
        self.names.append(type(outputs).__name__)
        return self.loss(outputs, labels, num_items_in_batch)


SENTENCES = [[3, 4, 5, EOS], [4, EOS], [5, 3, EOS], [6, 6, 3, 4, 5, EOS]]


def collated(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(row["tokens"]) for row in rows)
    tokens = torch.tensor([row["tokens"] + [PAD] * (longest - len(row["tokens"])) for row in rows])
    labels = tokens.masked_fill(tokens == PAD, -100)
    return {"input_ids": tokens, "attention_mask": (tokens != PAD).long(), "labels": labels}


def seq2seq(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    made = collated(rows)
    start = torch.ones(len(rows), 1, dtype=torch.long)
    made["decoder_input_ids"] = torch.cat([start, made["input_ids"][:, :-1]], 1)
    return made


def trained(tmp_path: Any, make: Any, loss: Any, collate: Any = collated, size: int = 4, **options: Any) -> Any:
    """One step of SGD on four sentences."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model = make()
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=size, per_device_eval_batch_size=4,
        gradient_accumulation_steps=4 // size, max_steps=1, learning_rate=0.1, optim="sgd", max_grad_norm=0.0,
        report_to=[], save_strategy="no", lr_scheduler_type="constant", remove_unused_columns=False, use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False, **options,
    )  # fmt: skip
    rows: Any = [{"tokens": s} for s in SENTENCES]
    trainer = Trainer(
        model, arguments, data_collator=collate, train_dataset=rows, eval_dataset=rows, compute_loss_func=loss
    )
    trainer.train()
    return trainer


def step_by_hand(make: Any, collate: Any, alpha: float, smoothing: float, shift: bool) -> dict[str, Tensor]:
    model = make()
    given = collate([{"tokens": s} for s in SENTENCES])
    labels = given.pop("labels")
    z = model(**given, use_cache=False).logits
    total, count = by_hand(z[:, :-1] if shift else z, labels[:, 1:] if shift else labels, alpha, smoothing)
    (total / count).backward()
    return {name: (p - 0.1 * p.grad).detach() for name, p in model.named_parameters() if p.grad is not None}


def causal() -> Any:
    """Named so that Trainer does not count the first label of each sentence, which nothing predicts."""
    model = gpt2()
    model.loss_type = "ForCausalLM"
    return model


def same(model: Any, expected: dict[str, Tensor]) -> None:
    found = dict(model.named_parameters())
    for name, p in expected.items():
        torch.testing.assert_close(found[name].detach(), p, rtol=0, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("size", [4, 2, 1])
def test_accumulated_batches_are_one_large_one(size: int, smoothing: float, tmp_path: Any) -> None:
    loss = Recorded(trainer_loss(1.5, label_smoothing=smoothing))
    trainer = trained(tmp_path, causal, loss, size=size)
    # Labels after the first of each sentence, over all batches of the step.
    assert loss.items == [11] * (4 // size)
    same(trainer.model, step_by_hand(gpt2, collated, 1.5, smoothing, shift=True))


def test_trainer_counts_too_many_where_a_class_is_not_named_for_causal_lm(tmp_path: Any) -> None:
    loss = Recorded(trainer_loss())
    trained(tmp_path, gpt2, loss)
    assert loss.items == [15]


def steady_pair() -> Any:
    model = pair()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("make", [t5, steady_pair])
@pytest.mark.parametrize("size", [4, 1])
def test_models_with_an_encoder(size: int, make: Any, tmp_path: Any) -> None:
    loss = Recorded(trainer_loss(2.0))
    trainer = trained(tmp_path, make, loss, seq2seq, size=size)
    assert loss.items == [15] * (4 // size)
    assert set(loss.names) == {"Seq2SeqLMOutput"}
    same(trainer.model, step_by_hand(make, seq2seq, 2.0, 0.0, shift=False))


@pytest.mark.parametrize("make", [t5, steady_pair])
def test_labels_are_taken_from_models_that_need_them(make: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        trained(tmp_path, make, trainer_loss(), collated)


def test_trainer_has_no_count_without_labels_and_zero_of_ignored_ones(tmp_path: Any) -> None:
    loss = Recorded(trainer_loss())
    with pytest.raises(ShapeError, match="labels None"):
        trained(tmp_path, causal, loss, lambda rows: {k: v for k, v in collated(rows).items() if k != "labels"})
    assert loss.items == [None]
    loss = Recorded(trainer_loss())
    trainer = trained(tmp_path, causal, loss, lambda rows: (m := collated(rows)) | {"labels": 0 * m["labels"] - 100})
    assert loss.items == [0]
    same(trainer.model, {name: p.detach() for name, p in causal().named_parameters()})


def test_check_trainer(tmp_path: Any) -> None:
    def checked(make: Any, loss: Any, **options: Any) -> None:
        trainer = trained(tmp_path, make, loss, seq2seq if make is t5 else collated, **options)
        assert check_trainer(trainer) is trainer

    checked(causal, trainer_loss())
    checked(causal, trainer_loss(shift=True))
    checked(t5, trainer_loss())
    checked(gpt2, trainer_loss(shift=False))
    with pytest.raises(ParameterError, match=r"label_smoothing_factor=0\.2.*trainer_loss\(label_smoothing=0\.2"):
        checked(causal, trainer_loss(), label_smoothing_factor=0.2)
    with pytest.raises(ParameterError, match=r"GPT2LMHeadModel.*counts the first label.*ForCausalLM"):
        checked(gpt2, trainer_loss())
    with pytest.raises(ParameterError, match=r"leaves out the first label.*trainer_loss\(shift=True\)"):
        checked(causal, trainer_loss(shift=False))
    with pytest.raises(ParameterError, match="with compute_loss_func="):
        checked(causal, Recorded(trainer_loss()))


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_the_optimum_with_smoothing_is_dense(alpha: float) -> None:
    label, words = torch.tensor([3]), 20
    smoothed = torch.full((words,), 0.1 / words, dtype=torch.float64)
    smoothed[label] += 0.9
    certain = nn.functional.one_hot(label[0], words).double()
    # Scores whose entmax is p; the loss is convex, so that it is least where its gradient is zero.
    for eps, p, least in ((0.1, smoothed, True), (0.1, certain, False), (0.0, certain, True)):
        z = (p ** (alpha - 1) / (alpha - 1)).requires_grad_()
        torch.testing.assert_close(ts.entmax(z.detach(), alpha), p)
        trainer_loss(alpha, label_smoothing=eps, shift=False)((z[None],), label).backward()
        assert z.grad is not None
        assert (z.grad.abs().max() < 1e-9) == least


def test_the_smoothing_of_trainer_is_ignored(tmp_path: Any) -> None:
    trainer = trained(tmp_path, causal, trainer_loss(1.5), label_smoothing_factor=0.2)
    same(trainer.model, step_by_hand(gpt2, collated, 1.5, 0.0, shift=True))


def test_evaluation_counts_its_own_labels(tmp_path: Any) -> None:
    loss = Recorded(trainer_loss(1.5))
    trainer = trained(tmp_path, causal, loss)
    measured = trainer.evaluate()["eval_loss"]
    assert loss.items[-1] == 11
    given = collated([{"tokens": s} for s in SENTENCES])
    labels = given.pop("labels")
    with torch.no_grad():
        z = trainer.model(**given).logits
    assert measured == pytest.approx(by_hand(z[:, :-1], labels[:, 1:], 1.5)[0].item() / 11)


def test_a_trained_model_searches_with_its_cache(tmp_path: Any) -> None:
    from tsallis.integrations.transformers import certified_search

    trainer = trained(tmp_path, causal, trainer_loss())
    model = trainer.model
    assert model.config.use_cache is False
    given = {"input_ids": torch.tensor([[3, 4]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    with pytest.raises(ParameterError, match=r"model\.eval"):
        model.generate(**given, custom_generate=certified_search, max_new_tokens=3, num_beams=2)
    widths = []
    model.eval().register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    model.generate(**given, custom_generate=certified_search, max_new_tokens=4, num_beams=2)
    assert widths[:3] == [2, 1, 1]
    assert set(widths[3:]) <= {1}
