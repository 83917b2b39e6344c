"""Sparsified models that are saved, in whole or in part, and loaded again: never softmax, never other alphas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

from safetensors.torch import load_file, save_file
from transformers import BertModel, EncoderDecoderModel

from tsallis.core.errors import ParameterError
from tsallis.integrations.transformers import alpha_parameters, alphas, seen_weights, sparsify

from .transformers_models import PADDED, TOKENS, bert, llama, pair


def _outputs(model: Any) -> torch.Tensor:
    return model(input_ids=TOKENS, decoder_input_ids=TOKENS).logits


def test_alphas_that_a_checkpoint_lacks_are_at_their_start(tmp_path: Path) -> None:
    sparsify(bert(), init=1.2).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "entmax" not in k}, file, metadata={"format": "pt"})
    for _ in range(2):
        loaded = alphas(BertModel.from_pretrained(tmp_path))
        assert all(torch.allclose(a, torch.tensor(1.2)) for a in loaded.values())
    with torch.device("meta"):
        made = BertModel(bert().config)
    made = sparsify(made, init=1.3).to_empty(device="cpu")
    made.init_weights()
    assert all(torch.allclose(a, torch.tensor(1.3)) for a in alphas(made).values())


def test_a_sparse_part_stays_sparse_in_a_whole(tmp_path: Path) -> None:
    model = pair().eval()
    dense = _outputs(model)
    sparsify(model.encoder, 2.0)
    sparse = _outputs(model)
    assert not torch.allclose(dense, sparse, atol=1e-2)
    model.save_pretrained(tmp_path)
    assert torch.allclose(_outputs(EncoderDecoderModel.from_pretrained(tmp_path).eval()), sparse, atol=1e-5)


def test_a_part_of_a_sparse_whole_is_sparse_alone(tmp_path: Path) -> None:
    model = sparsify(pair(), {"encoder.*": 2.0, "*": "learn"}, init=1.7).eval()
    model.encoder.save_pretrained(tmp_path)
    alone = BertModel.from_pretrained(tmp_path).eval()
    assert torch.equal(alone(TOKENS).last_hidden_state, model.encoder(TOKENS).last_hidden_state)
    assert {float(a) for a in alphas(alone).values()} == {2.0}


def test_half_precision_keeps_alphas(tmp_path: Path) -> None:
    model = sparsify(bert().bfloat16()).eval()
    with torch.no_grad():
        for p in alpha_parameters(model):
            p.normal_(0, 2)
    model.save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(a, alphas(loaded)[name]) for name, a in alphas(model).items())
    assert torch.equal(loaded(TOKENS).last_hidden_state, model(TOKENS).last_hidden_state)
    with torch.no_grad():
        alpha_parameters(model)[0].fill_(-8.0)
    assert float(next(iter(alphas(model.half()).values())).min()) > 1.0003


def test_another_attention_is_not_taken_for_sparse() -> None:
    model = sparsify(bert(), 2.0).eval()
    sparse = model(TOKENS).last_hidden_state
    model.set_attn_implementation("sdpa")
    with pytest.raises(ParameterError, match=r"'sdpa': softmax.*set_attn_implementation\('tsallis'\)"):
        alphas(model)
    model.set_attn_implementation("tsallis")
    assert {float(a) for a in alphas(model).values()} == {2.0}
    assert torch.equal(model(TOKENS).last_hidden_state, sparse)


def test_choices_that_fail_change_nothing(tmp_path: Path) -> None:
    model = sparsify(bert(), np.float32(1.5))
    before = model(TOKENS).last_hidden_state
    with pytest.raises(ParameterError, match=r"init=3\.0"):
        sparsify(model, "learn", init=3.0)
    with pytest.raises(ParameterError, match="for 0, which no layer takes"):
        sparsify(model, {"*": 2.0, 0: 1.2})
    assert torch.equal(model(TOKENS).last_hidden_state, before)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["tsallis_alphas"]
    assert set(saved.values()) == {1.5}


def test_weights_are_seen_with_their_masks() -> None:
    model = sparsify(llama(), 1.5).eval()
    with seen_weights() as seen, torch.no_grad():
        model(TOKENS, attention_mask=PADDED)
    assert len(seen) == 2
    model(TOKENS)
    assert len(seen) == 2, "nothing is seen outside"
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    real = PADDED.bool()[:, :, None] & PADDED.bool()[:, None]
    for module, weights, kept in seen:
        assert module.layer_idx in (0, 1)
        assert kept is not None
        allowed = kept.expand(2, 1, 9, 9)[:, 0]
        assert torch.equal(allowed & real, causal & real)
        assert not bool(weights.masked_fill(kept, 0.0).any())
        assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 9))
