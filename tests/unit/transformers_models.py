"""Tiny models of transformers and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tsallis.integrations.transformers.tiny import peaked

SMALL: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
TOKENS = torch.randint(8, 80, (2, 9), generator=torch.Generator().manual_seed(3))
PADDED = torch.ones_like(TOKENS)
PADDED[1, 6:] = 0


def bert(kind: type[PreTrainedModel] = BertModel, **config: Any) -> Any:
    return peaked(kind(BertConfig(**SMALL, **config)))


def llama(**config: Any) -> Any:
    return peaked(LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, pad_token_id=0, **config)))


def t5() -> Any:
    sizes = {"vocab_size": 99, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64}
    config = T5Config(**sizes, decoder_start_token_id=0)
    # Its scores are not divided by the root of their width: smaller weights, so that heads do not see one key only.
    return peaked(T5ForConditionalGeneration(config), 0.7)


def pair() -> Any:
    parts = BertConfig(**SMALL), BertConfig(**SMALL, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    config.pad_token_id, config.decoder_start_token_id = 0, 1
    return peaked(EncoderDecoderModel(config))


def other_at(where: torch.Tensor, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    return torch.where(where, 8 + (tokens - 8 + 31) % 72, tokens)


@torch.no_grad()
def hidden(model: Any, tokens: torch.Tensor = TOKENS, attention_mask: torch.Tensor | None = PADDED) -> torch.Tensor:
    out = model(input_ids=tokens, attention_mask=attention_mask)
    return out.last_hidden_state if hasattr(out, "last_hidden_state") else out.logits
