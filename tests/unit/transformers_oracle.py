"""Models of transformers with a vocabulary of seven tokens, and all their sequences by plain passes in float64."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import entmax
import pytest
import torch
from transformers import (
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tsallis.decoding import Status
from tsallis.integrations.transformers import certified_search
from tsallis.integrations.transformers.tiny import peaked

PAD, START, EOS, WORDS = 0, 1, 2, 7
# Tokens of a sequence at most.
LENGTH = 5
SMALL: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
SPECIAL: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": EOS}
PROMPTS = [[3, 4], [5, 1, 6, 3, 4, 1], [6]]


def gpt2() -> Any:
    sizes: dict[str, Any] = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    # No dropout, so that training computes the same in batches of any size.
    sizes |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    return _flat(GPT2LMHeadModel(GPT2Config(**sizes, **SPECIAL)))


def llama() -> Any:
    return _flat(LlamaForCausalLM(LlamaConfig(**SMALL, **SPECIAL, num_key_value_heads=1)))


def mistral() -> Any:
    """With a window of three tokens."""
    return _flat(MistralForCausalLM(MistralConfig(**SMALL, **SPECIAL, num_key_value_heads=1, sliding_window=3)))


def t5() -> Any:
    sizes = {"vocab_size": WORDS, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 32}
    return _flat(
        T5ForConditionalGeneration(T5Config(**sizes, **SPECIAL, decoder_start_token_id=START, dropout_rate=0.0))
    )


def pair() -> Any:
    parts = BertConfig(**SMALL), BertConfig(**SMALL, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    config.pad_token_id, config.decoder_start_token_id, config.eos_token_id = PAD, START, EOS
    model = EncoderDecoderModel(config)
    model.generation_config.eos_token_id = EOS
    model.generation_config.decoder_start_token_id = START
    model.generation_config.pad_token_id = PAD
    return _flat(model)


MODELS = {"gpt2": gpt2, "llama": llama, "mistral": mistral, "t5": t5, "pair": pair}


def _flat(model: Any) -> Any:
    """Peaked inside, with scores at which entmax leaves a few tokens, the end often among them."""
    model = peaked(model).double()
    layer, generator = model.get_output_embeddings(), torch.Generator().manual_seed(4)
    layer.weight = torch.nn.Parameter(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64))
    # T5 divides by the root of its width.
    width = layer.weight.shape[1] ** (0.0 if isinstance(model, T5ForConditionalGeneration) else 0.5)
    layer.weight.data.mul_(1.2 / width)
    layer.bias = torch.nn.Parameter(torch.zeros(WORDS, dtype=torch.float64))
    layer.bias.data[EOS] = 1.0
    return model


def batch(prompts: list[list[int]], model: Any) -> dict[str, torch.Tensor]:
    """Padded at the beginning where the model goes on with them, else at the end."""
    longest = max(map(len, prompts))
    left = not model.config.is_encoder_decoder
    rows = [[PAD] * (longest - len(p)) + p if left else p + [PAD] * (longest - len(p)) for p in prompts]
    real = [
        [0] * (longest - len(p)) + [1] * len(p) if left else [1] * len(p) + [0] * (longest - len(p)) for p in prompts
    ]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(real)}


@torch.no_grad()
def scores_after(model: Any, prompt: list[int], prefixes: list[tuple[int, ...]]) -> torch.Tensor:
    """Scores of what follows prefixes of one length, by one pass over all tokens, without cache and padding."""
    n, given = len(prefixes), torch.tensor(prompt)
    after = torch.tensor(prefixes, dtype=torch.long).reshape(n, -1)
    if model.config.is_encoder_decoder:
        decoder = torch.cat([torch.full((n, 1), START), after], 1)
        out = model(input_ids=given.expand(n, -1), decoder_input_ids=decoder, use_cache=False)
    else:
        out = model(input_ids=torch.cat([given.expand(n, -1), after], 1), use_cache=False)
    return out.logits[:, -1]


def mapped(scores: torch.Tensor, alpha: float) -> torch.Tensor:
    """Another library's entmax."""
    if alpha == 1:
        return scores.softmax(-1)
    return entmax.sparsemax(scores, -1) if alpha == 2 else entmax.entmax15(scores, -1)


def all_sequences(
    model: Any, prompt: list[int], length: int, alpha: float = 1.5, ends: tuple[int, ...] = (EOS,), edit: Any = None
) -> tuple[dict[tuple[int, ...], float], float]:
    """Every sequence of at most that length that ends, with its probability, and that of the most probable open prefix.

    Sequences that end with another of several ends are one, with the most probable end.
    """
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    ended: dict[tuple[int, ...], float] = {}
    for _ in range(length):
        prefixes, longer = list(open_), {}
        if not prefixes:
            break
        scores = scores_after(model, prompt, prefixes)
        p = mapped(edit(prefixes, scores) if edit else scores, alpha)
        for prefix, row in zip(prefixes, p.tolist(), strict=True):
            if (total := sum(row[e] for e in ends)) > 0:
                ended[(*prefix, max(ends, key=lambda e: row[e]))] = open_[prefix] * total
            longer |= {(*prefix, t): open_[prefix] * q for t, q in enumerate(row) if q > 0 and t not in ends}
        open_ = longer
    return ended, max(open_.values(), default=0.0)


def ranked(sequences: dict[tuple[int, ...], float]) -> list[tuple[int, ...]]:
    """The most probable first."""
    return sorted(sequences, key=lambda s: -sequences[s])


def found_in(hypotheses: Any) -> dict[tuple[int, ...], float]:
    """The same of a search's result."""
    return {h.tokens: math.exp(h.log_prob) for h in hypotheses}


@cache
def model_of(name: str) -> Any:
    """One of MODELS, made once: tests do not change it."""
    return MODELS[name]()


def search(model: Any, prompts: list[list[int]] = PROMPTS, **options: Any) -> Any:
    given = {"max_new_tokens": LENGTH, "return_dict_in_generate": True, "num_beams": 4} | options
    return model.generate(**batch(prompts, model), custom_generate=certified_search, **given)


def check(certificate: Any, hypotheses: Any, sequences: dict[tuple[int, ...], float], open_: float) -> None:
    """Whatever a certificate claims holds of all sequences."""
    found, best = found_in(hypotheses), ranked(sequences)
    for tokens, p in found.items():
        assert p == pytest.approx(sequences[tokens], rel=1e-9)
    # The search has found others too that are no better than those it shows.
    least = min(found.values(), default=0.0)
    unseen = max([p for s, p in sequences.items() if s not in found and p > least] + [open_])
    assert math.exp(certificate.unseen) >= unseen * (1 - 1e-9)
    if certificate.status == Status.ENUMERATED:
        assert found.keys() == sequences.keys()
        assert open_ == 0
        assert certificate.mass == pytest.approx(1, abs=1e-9)
    if certificate.exact:
        assert hypotheses[0].tokens == best[0]
    else:
        assert certificate.gap == pytest.approx(
            certificate.unseen - (hypotheses[0].log_prob if hypotheses else -math.inf)
        )
    assert [h.tokens for h in hypotheses[: certificate.proven]] == best[: certificate.proven]
