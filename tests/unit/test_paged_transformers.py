"""generate() of a small Llama with a cache in pages: tokens and scores as with the cache of transformers and none."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tsallis as ts
from tsallis.core.errors import ParameterError

transformers = pytest.importorskip("transformers")

from transformers.masking_utils import eager_mask  # noqa: E402

from tsallis.attention import page_search  # noqa: E402
from tsallis.integrations.transformers.cache import PagedKeyValues, PagedLayer, padding_of, paged_attention  # noqa: E402

ALPHA = torch.tensor([1.3, 1.5, 2.0, 1.5])


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    out = paged_attention(module, query, key, attention_mask, scaling, ALPHA)
    if out is None:
        out = ts.entmax_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=True, alpha=ALPHA)
        out = out.transpose(1, 2).contiguous()
    return out, None


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    transformers.AttentionInterface.register("paged_test", _attention)
    transformers.AttentionMaskInterface.register("paged_test", eager_mask)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.4, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, attn_implementation="paged_test",
    )  # fmt: skip
    # In float32 other orders of sums move the scores of so peaked a model by 2e-5, without a cache too.
    yield transformers.LlamaForCausalLM(config).double().eval()
    for interface in (transformers.AttentionInterface, transformers.AttentionMaskInterface):
        interface._global_mapping.pop("paged_test", None)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are skipped in short texts, too."""
    monkeypatch.setattr(page_search, "FEWEST", 1)
    monkeypatch.setattr(page_search, "DENSE", 2.0)


def _prompt(padded: bool) -> dict[str, Tensor]:
    ids = torch.randint(3, 60, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        for i, n in enumerate((13, 0, 22)):
            ids[i, :n], mask[i, :n] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 0},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_generate_is_that_of_other_caches(model: Any, way: str, padded: bool) -> None:
    found, paged = {}, PagedKeyValues(page_size=4)
    for name, options in {
        "none": {"use_cache": False}, "dynamic": {"past_key_values": transformers.DynamicCache()},
        "paged": {"past_key_values": paged},
    }.items():  # fmt: skip
        torch.manual_seed(5)
        found[name] = model.generate(
            **_prompt(padded), **WAYS[way], **options, max_new_tokens=12, min_new_tokens=12, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    for other in ("none", "dynamic"):
        assert torch.equal(found["paged"].sequences, found[other].sequences)
        for a, b in zip(found["paged"].scores, found[other].scores, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    read, there = paged.pages_read()
    # Eleven steps after the prompt, two layers of two heads.
    batch = 3 * (4 if way == "beams" else 1)
    assert there == batch * 2 * 2 * sum(-(-(40 + i) // 4) for i in range(1, 12))
    assert 0 < read < there


def test_a_few_tokens_at_once_and_cropping(model: Any) -> None:
    """What assisted generation does."""
    inputs = _prompt(True)
    more = torch.randint(3, 60, (3, 5))
    ids, mask = (
        torch.cat([inputs["input_ids"], more], 1), torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
    )  # fmt: skip
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, position_ids=positions).logits[:, 40:]
        cache = PagedKeyValues(page_size=4)
        model(**inputs, past_key_values=cache, position_ids=positions[:, :40])
        assert cache.pages_read() == (0, 0)
        for _ in range(2):
            got = model(more, attention_mask=mask, past_key_values=cache, position_ids=positions[:, 40:]).logits
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
            cache.crop(-5)
            assert cache.get_seq_length() == 40
        assert cache.pages_read()[1] == 2 * 3 * 2 * 2 * 12
        twin = copy.deepcopy(cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([1, 2, 5]))
        index = torch.tensor([0, 1, 2])
        got = model(more[index], attention_mask=mask[index], past_key_values=cache, position_ids=positions[index, 40:])
        torch.testing.assert_close(got.logits, expected[index], rtol=0, atol=1e-5)
        got = model(more, attention_mask=mask, past_key_values=twin, position_ids=positions[:, 40:]).logits
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        cache.reset()
        assert cache.get_seq_length() == 0
        model(**inputs, past_key_values=cache)
        assert cache.get_seq_length() == 40
    with pytest.raises(ParameterError, match="negative"):
        cache.crop(3)


def test_update_copies_nothing() -> None:
    layer = PagedLayer()
    keys, values = layer.update(torch.randn(1, 2, 100, 8), torch.randn(1, 2, 100, 8))
    more, _ = layer.update(torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8))
    assert keys.tsallis_pages is more.tsallis_pages is layer.pages
    assert more.data_ptr() == keys.data_ptr()
    assert values.untyped_storage().data_ptr() == layer.pages.values.untyped_storage().data_ptr()


def test_where_the_paged_way_does_not_apply(model: Any) -> None:
    layer, module = PagedLayer(), torch.nn.Identity().eval()
    x = torch.randn(2, 2, 30, 8)
    key, value = layer.update(x, x)
    query = torch.randn(2, 4, 1, 8)

    def ask(**change: Any) -> Tensor | None:
        given = {"query": query, "key": key, "attention_mask": None, "scaling": None, "alpha": 1.5}
        return paged_attention(module, **given | change)

    out = ask()
    assert out is not None
    torch.testing.assert_close(out.transpose(1, 2), ts.entmax_attention(query, key, value, enable_gqa=True))
    out = ask(scaling=2.0, alpha=1.2)
    assert out is not None
    expected = ts.entmax_attention(query, key, value, enable_gqa=True, scale=2.0, alpha=1.2)
    torch.testing.assert_close(out.transpose(1, 2), expected)
    assert ask(key=key.clone()) is None
    assert ask(query=torch.randn(2, 4, 9, 8)) is None
    assert ask(query=torch.randn(2, 4, 2, 8)) is None
    assert ask(alpha=torch.tensor(1.5, requires_grad=True)) is None
    assert ask(query=query.clone().requires_grad_()) is None
    assert ask(attention_mask=torch.randn(2, 1, 1, 30)) is None
    assert ask(attention_mask=torch.ones(2, 4, 1, 30, dtype=torch.bool)) is None
    module.train()
    assert ask() is None
    module.eval()
    # After one token more the keys of before are old.
    layer.update(x[:, :, :1], x[:, :, :1])
    assert ask() is None


def test_masks_that_are_padding_and_causality() -> None:
    keep = torch.ones(2, 10, dtype=torch.bool)
    keep[0, :4] = False
    causal = torch.ones(3, 10, dtype=torch.bool).tril(7) & keep[:, None]
    mask = causal[:, None]
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    for given in (mask, added, added.masked_fill(~mask, -torch.inf)):
        assert torch.equal(padding_of(given, 3, 10), keep)
        assert torch.equal(padding_of(given[:, :, -1:], 1, 10), keep)
    window = mask.clone()
    window[:, :, 2, 5] = False
    assert padding_of(window, 3, 10) is None
    # One query's window is as good as padding.
    assert padding_of(window[:, :, 2:], 1, 10) is not None
    assert padding_of(mask, 3, 11) is None
    assert padding_of(mask[0], 3, 10) is None
