"""What is silent about transformers' EncoderDecoderModel: its loss, ties, weights of context attention, and inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

from transformers import BertLMHeadModel, BertModel, EncoderDecoderModel

from tsallis.integrations.transformers import certified_search, generation_options, sparsify

from .transformers_models import PADDED, TOKENS, bert, pair

pytestmark = pytest.mark.usefixtures("quiet_transformers")


def sparse_pair() -> Any:
    return sparsify(pair(), 1.5).eval()


# --- its own loss


def test_its_own_loss_is_cross_entropy_with_a_warning() -> None:
    model = sparsify(pair(), 2.0)
    with pytest.warns(FutureWarning, match="computing the loss inside the encoder-decoder framework"):
        out = model(input_ids=TOKENS, attention_mask=PADDED, labels=TOKENS)
    shifted = torch.cat([torch.ones_like(TOKENS[:, :1]), TOKENS[:, :-1]], 1)
    logits = model(input_ids=TOKENS, attention_mask=PADDED, decoder_input_ids=shifted).logits
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS.flatten()))


# --- ties of encoder and decoder


def shared_names(model: Any) -> Iterator[tuple[str, str]]:
    own = dict(model.encoder.named_parameters())
    for name, _ in model.decoder.bert.named_parameters():
        if name in own:
            yield f"decoder.bert.{name}", f"encoder.{name}"


def tie(model: Any) -> Any:
    for target, source in shared_names(model):
        where, _, name = target.rpartition(".")
        setattr(model.get_submodule(where), name, model.get_parameter(source))
    return model


class TiedPair(EncoderDecoderModel):
    _tied_weights_keys = dict(shared_names(pair()))


def tied_pair(declared: bool) -> Any:
    model = sparse_pair()
    config = model.config
    if declared:
        config.tie_word_embeddings = True
    made = TiedPair(config)
    made.load_state_dict(model.state_dict())
    return tie(made).eval()


def logits(model: Any) -> Tensor:
    return model(input_ids=TOKENS, attention_mask=PADDED, decoder_input_ids=TOKENS).logits


def count(model: Any) -> int:
    return len({id(p) for p in model.parameters()})


def test_ties_that_are_not_declared_cannot_be_saved(tmp_path: Path) -> None:
    model = tie(sparse_pair())
    assert count(model) < count(pair())
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)


def test_declared_ties_hold_where_the_configuration_ties(tmp_path: Path) -> None:
    model = tied_pair(declared=True)
    model.save_pretrained(tmp_path)
    loaded = TiedPair.from_pretrained(tmp_path).eval()
    assert count(loaded) == count(model) < count(pair())
    assert torch.equal(logits(loaded), logits(model))
    for target, source in shared_names(model):
        assert loaded.get_parameter(target) is loaded.get_parameter(source)


def test_declared_ties_lose_weights_where_the_configuration_does_not_tie(tmp_path: Path) -> None:
    model = tied_pair(declared=False)
    assert not getattr(model.config, "tie_word_embeddings", False)
    model.save_pretrained(tmp_path)
    loaded, report = TiedPair.from_pretrained(tmp_path, output_loading_info=True)
    assert any(name.startswith("decoder.bert.encoder.layer.0.attention") for name in report["missing_keys"])
    assert not torch.allclose(logits(loaded.eval()), logits(model), atol=1e-2)


# --- context attention that begins as self-attention


def cloned(model: Any) -> Any:
    for layer in model.bert.encoder.layer:
        for part in ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm"):
            state = layer.attention.get_submodule(part).state_dict()
            layer.crossattention.get_submodule(part).load_state_dict(state)
    return model


def test_context_attention_is_missing_from_encoders_and_can_be_cloned(tmp_path: Path) -> None:
    bert(BertModel).save_pretrained(tmp_path)
    options = {"is_decoder": True, "add_cross_attention": True}
    decoder, report = BertLMHeadModel.from_pretrained(tmp_path, output_loading_info=True, **options)
    missing = [name for name in report["missing_keys"] if ".crossattention." in name]
    assert len(missing) == 10 * decoder.config.num_hidden_layers
    sparsify(cloned(decoder), 1.5).eval()
    layer = decoder.bert.encoder.layer[0]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 9, decoder.config.hidden_size, generator=generator)
    # The same attention of states to themselves, as nothing is masked.
    context = layer.crossattention(hidden, encoder_hidden_states=hidden, encoder_attention_mask=None)[0]
    masked = torch.zeros(2, 1, 9, 9)
    assert torch.allclose(context, layer.attention(hidden, attention_mask=masked)[0], atol=1e-6)


# --- inputs beyond tokens


# Segments of inputs have types, and positions begin again with the second.
KINDS = (torch.arange(9) >= 5).long().expand(2, -1)
PLACES = torch.cat([torch.arange(5), torch.arange(4)]).expand(2, -1)


def recorded(model: Any) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = []
    for name in ("encoder", "decoder"):
        part = getattr(model, name)
        part.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: calls.append((name, dict(kwargs))), with_kwargs=True
        )
    return calls


def test_types_and_positions_count() -> None:
    model = sparse_pair()
    plain = logits(model)
    for name, value in {"token_type_ids": KINDS, "position_ids": PLACES, "decoder_token_type_ids": KINDS}.items():
        given = {"input_ids": TOKENS, "attention_mask": PADDED, "decoder_input_ids": TOKENS, name: value}
        assert (model(**given).logits - plain).abs().max() > 1e-2, name


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("searched", [False, True])
def test_types_and_positions_reach_generation(searched: bool, beams: int) -> None:
    model = sparse_pair()
    calls = recorded(model)
    options = {"custom_generate": certified_search} if searched else generation_options(1.5, num_beams=beams)
    model.generate(
        input_ids=TOKENS, attention_mask=PADDED, token_type_ids=KINDS, position_ids=PLACES, num_return_sequences=1,
        decoder_token_type_ids=torch.ones(2, 1, dtype=torch.long), max_new_tokens=4, eos_token_id=2, pad_token_id=0,
        decoder_start_token_id=1, return_dict_in_generate=True, **(options | {"num_beams": beams}),
    )  # fmt: skip
    encoded = [kwargs for name, kwargs in calls if name == "encoder"]
    decoded = [kwargs for name, kwargs in calls if name == "decoder"]
    assert len(encoded) == 1
    assert torch.equal(encoded[0]["token_type_ids"], KINDS)
    assert torch.equal(encoded[0]["position_ids"], PLACES)
    assert len(decoded) == 4
    for kwargs in decoded:
        kinds = kwargs["token_type_ids"]
        assert bool((kinds == 1).all())
        # One type for each row, for whatever tokens it has.
        assert kinds.shape == (kwargs["input_ids"].shape[0], 1)


def test_keywords_that_no_part_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="token_kinds"):
        sparse_pair().generate(input_ids=TOKENS, token_kinds=KINDS, max_new_tokens=2, **generation_options(1.5))
