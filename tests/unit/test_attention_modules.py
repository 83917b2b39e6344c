"""Attention modules beside those of torch: arguments, parameters, masks, and the Transformer made of them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tsallis as ts
from tsallis.core.errors import ParameterError, ShapeError

from .processes import run_two

OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"kdim": 5, "vdim": 7, "batch_first": True},
]


def _pair(**options: Any) -> tuple[nn.MultiheadAttention, ts.nn.MultiheadAttention]:
    """Torch's, and ours at alpha = 1 with its parameters."""
    theirs = nn.MultiheadAttention(8, 2, **options)
    ours = ts.nn.MultiheadAttention(8, 2, alpha=1.0, **options)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("options", OPTIONS)
def test_at_alpha_one_it_is_torch_s(options: dict[str, Any]) -> None:
    theirs, ours = _pair(**options)
    q, k, v = torch.randn(3, 5, 8), torch.randn(3, 6, options.get("kdim", 8)), torch.randn(3, 6, options.get("vdim", 8))
    if not options.get("batch_first"):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    ignore = torch.rand(5, 6) < 0.3
    ignore[:, 0] = False
    added = torch.randn(5, 6)
    per_head = torch.randn(6, 5, 6)
    for masks in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": ignore, "key_padding_mask": padding},
        {"attn_mask": added},
        {"attn_mask": per_head, "key_padding_mask": padding.float()},
    ):
        for average in (True, False):
            expected = theirs(q, k, v, average_attn_weights=average, **masks)
            got = ours(q, k, v, average_attn_weights=average, **masks)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b)
        out, weights = ours(q, k, v, need_weights=False, **masks)
        assert weights is None
        torch.testing.assert_close(out, expected[0])


def test_one_sequence_and_causality() -> None:
    theirs, ours = _pair()
    x = torch.randn(5, 8)
    later = nn.Transformer.generate_square_subsequent_mask(5)
    expected = theirs(x, x, x, attn_mask=later)
    for hint in (False, True):
        for a, b in zip(ours(x, x, x, attn_mask=later, is_causal=hint), expected, strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours(x, x, x, is_causal=True)[0], expected[0])


def test_added_keys_are_for_all_queries() -> None:
    theirs, ours = _pair(add_bias_kv=True, add_zero_attn=True, batch_first=True)
    x, later = torch.randn(3, 5, 8), nn.Transformer.generate_square_subsequent_mask(5)
    expected = theirs(x, x, x, attn_mask=later, is_causal=True)
    for a, b in zip(ours(x, x, x, attn_mask=later, is_causal=True), expected, strict=True):
        torch.testing.assert_close(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x, x, x, need_weights=False)[0].isfinite().all()


def test_scores_are_in_float32_under_autocast() -> None:
    _, layer = _pair(batch_first=True)
    x = 30 * torch.randn(3, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        with_weights, without = layer(x, x, x)[0], layer(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(with_weights, without, rtol=0.02, atol=0.1)


@pytest.mark.parametrize(
    "masks",
    [
        {"key_padding_mask": torch.zeros(3, 4, dtype=torch.bool)},
        {"key_padding_mask": torch.zeros(1, 5, dtype=torch.bool)},
        {"attn_mask": torch.zeros(5, 4, dtype=torch.bool)},
        {"attn_mask": torch.zeros(1, 5, dtype=torch.bool)},
    ],
)
def test_masks_of_too_few_keys_are_refused(masks: dict[str, Any]) -> None:
    x = torch.randn(3, 5, 8)
    with pytest.raises(ShapeError, match=r"mask of shape .* Expected \("):
        ts.nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x, **masks)


def test_boolean_masks_mean_the_opposite_of_the_function_s() -> None:
    _, ours = _pair(batch_first=True)
    x, ignore = torch.randn(1, 4, 8), torch.eye(4, dtype=torch.bool)
    weights = ours(x, x, x, attn_mask=ignore)[1]
    assert not weights[0][ignore].any()
    out = ts.entmax_attention(x[:, None], x[:, None], torch.eye(4).expand(1, 1, 4, 4), ~ignore)
    assert not out[0, 0][ignore].any()


def test_alphas_are_learned_saved_and_copied() -> None:
    layer = ts.nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True, alpha="learn")
    x = 3 * torch.randn(3, 5, 8)
    layer(x, x, x, need_weights=False)[0].square().sum().backward()
    assert layer.alpha.theta.grad.shape == (2,)
    assert layer.alpha.theta.grad.any()
    layer.eval()
    assert float((layer(x, x, x)[1] == 0).double().mean()) > 0.01
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x, x, x)[0], layer(x, x, x)[0])
    fixed = ts.nn.MultiheadAttention(8, 2, alpha=torch.tensor([1.2, 1.8]))
    assert "alpha" in fixed.state_dict()
    with pytest.raises(ParameterError, match="learn"):
        ts.nn.MultiheadAttention(8, 2, alpha="learned")
    with pytest.raises(ShapeError, match="attn_mask of shape"):
        layer(x, x, x, attn_mask=torch.zeros(2, 5, 5))


def test_queries_without_keys_get_zeros() -> None:
    layer = ts.nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    x = torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [True] * 5])
    out, weights = layer(x, x, x, key_padding_mask=padding)
    assert not out[1].any()
    assert not weights[1].any()
    assert out[0].any()


# Of torch's own layers.
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("norm_first", [False, True])
def test_the_transformer_is_torch_s_at_alpha_one(norm_first: bool) -> None:
    theirs = nn.Transformer(8, 2, 2, 2, 16, 0.0, batch_first=True, norm_first=norm_first).eval()
    options: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first, "alpha": 1.0}
    encoder = nn.TransformerEncoder(
        ts.nn.TransformerEncoderLayer(8, 2, 16, **options), 2, nn.LayerNorm(8), enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(ts.nn.TransformerDecoderLayer(8, 2, 16, **options), 2, nn.LayerNorm(8))
    ours = nn.Transformer(8, 2, custom_encoder=encoder, custom_decoder=decoder, batch_first=True).eval()
    ours.load_state_dict(theirs.state_dict())
    source, target = torch.randn(3, 6, 8), torch.randn(3, 5, 8)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[0, 3:] = True
    masks = {
        "tgt_mask": torch.ones(5, 5, dtype=torch.bool).triu(1), "src_key_padding_mask": padding,
        "memory_key_padding_mask": padding,
    }  # fmt: skip
    with torch.no_grad():
        # Where torch takes its fused way.
        torch.testing.assert_close(ours(source, target, **masks), theirs(source, target, **masks))
        for layer in ours.encoder.layers:
            layer.self_attn.alpha = 2.0
        assert not torch.allclose(ours(source, target, **masks), theirs(source, target, **masks))


def test_two_layers_compile_to_one_graph_and_train() -> None:
    torch.compiler.reset()
    layer = ts.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, alpha="learn")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 5, 8)
    whole = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    for model in (encoder, whole):
        encoder.zero_grad()
        out = model(x)
        out.square().sum().backward()
        if model is encoder:
            expected = [out.detach(), *(p.grad.clone() for p in encoder.parameters())]
    for a, b in zip([out.detach(), *(p.grad for p in encoder.parameters())], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_heads_are_watched_while_a_model_runs() -> None:
    layer = ts.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True, alpha=2.0)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x, padding = 3 * torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    before = encoder.eval()(x, later, padding)
    with ts.nn.watch_heads(encoder, offsets=(-1, 1)) as statistics:
        assert torch.equal(encoder(x, later, padding), before)
        encoder(x[:1], later)
    encoder(x)
    assert list(statistics) == ["layers.0.self_attn", "layers.1.self_attn"]
    weights = encoder.layers[0].self_attn(x, x, x, padding, attn_mask=later, average_attn_weights=False)[1]
    again = encoder.layers[0].self_attn(x[:1], x[:1], x[:1], attn_mask=later, average_attn_weights=False)[1]
    expected = ts.attention.HeadStatistics((-1, 1))
    expected.update(weights, ~later & ~padding[:, None, None] & ~padding[:, None, :, None])
    expected.update(again, ~later)
    got, wanted = statistics["layers.0.self_attn"].report(), expected.report()
    assert got.queries == wanted.queries == 18
    torch.testing.assert_close(got.density, wanted.density)
    torch.testing.assert_close(got.positional[-1], wanted.positional[-1])
    assert got.positional[1].isnan().all()
    with pytest.raises(ParameterError, match="MultiheadAttention"), ts.nn.watch_heads(nn.Linear(2, 2)):
        pass


_DISTRIBUTED = """
import sys, torch, torch.distributed as dist, tsallis as ts
rank, address = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
torch.manual_seed(0)
layer = ts.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, alpha="learn")
x = torch.randn(4, 6, 8)
whole = torch.autograd.grad(layer(x).square().mean(), list(layer.parameters()))
model = torch.nn.parallel.DistributedDataParallel(layer)
model(x[2 * rank : 2 * rank + 2]).square().mean().backward()
for p, g in zip(layer.parameters(), whole):
    assert torch.allclose(p.grad, g, atol=1e-6), (p.grad - g).abs().max()
assert layer.self_attn.alpha.theta.grad.any()
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_share_a_batch(tmp_path: Path) -> None:
    run_two(_DISTRIBUTED, tmp_path)
