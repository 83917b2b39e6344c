"""The contract of transformers' hooks as `tsallis.integrations.transformers` uses them. A version of transformers that
changes one of them fails here."""

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from transformers import AttentionInterface, AttentionMaskInterface

from tsallis.core.errors import ParameterError, RegistryError
from tsallis.integrations.transformers import alpha_parameters, alphas, register, sparsify
from tsallis.integrations.transformers.alphas import ALPHA, NAME, attention_modules
from tsallis.integrations.transformers.attention import attend, mask

from .transformers_models import PADDED, SMALL, TOKENS, bert, hidden, llama, other_at, pair, t5

pytestmark = pytest.mark.usefixtures("quiet_transformers")


# --- attention and its masks


class Spy:
    """`attend`, and what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        register()
        monkeypatch.setitem(AttentionInterface._global_mapping, NAME, self)

    def __call__(self, module, query, key, value, attention_mask, **others):
        self.calls.append({"module": module, "mask": attention_mask, "shapes": (query.shape, key.shape), **others})
        return attend(module, query, key, value, attention_mask, **others)


def test_masks_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = sparsify(bert(), 1.5), sparsify(llama(), 1.5)
    spy = Spy(monkeypatch)
    hidden(encoder)
    hidden(decoder)
    assert len(spy.calls) == 4
    for call in spy.calls:
        assert call["mask"].dtype == torch.bool
        assert call["mask"].shape == (2, 1, 9, 9)
    assert torch.equal(spy.calls[0]["mask"][:, 0], PADDED.bool()[:, None].expand(2, 9, 9))
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    assert torch.equal(spy.calls[2]["mask"][:, 0], PADDED.bool()[:, None] & causal)


def test_a_mask_arrives_without_padding_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sparsify(llama(), 1.5)
    spy = Spy(monkeypatch)
    hidden(model, attention_mask=None)
    for call in spy.calls:
        assert torch.equal(call["mask"][0, 0], torch.ones(9, 9, dtype=torch.bool).tril())
    later = other_at(torch.arange(9) >= 5)
    first = hidden(model, attention_mask=None)[:, :5]
    assert torch.equal(first, hidden(model, later, attention_mask=None)[:, :5])


@pytest.mark.parametrize("claim", [True, False])
def test_masks_say_what_is_causal_and_modules_do_not(claim: bool) -> None:
    # Some models make masks other than `is_causal` of their modules says.
    for make in (bert, llama):
        model, other = sparsify(make(), 1.5), sparsify(make(), 1.5)
        for module in attention_modules(other).values():
            module.is_causal = claim
        for given in (None, PADDED):
            assert torch.equal(hidden(other, attention_mask=given), hidden(model, attention_mask=given))


def test_a_causal_mask_is_known_without_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import tsallis.integrations.transformers.attention as home

    model = sparsify(llama(), 1.5)
    seen = []
    real = home.entmax_attention
    monkeypatch.setattr(home, "entmax_attention", lambda *a, **k: (seen.append(a[3:6]), real(*a, **k))[1])
    fast = hidden(model, attention_mask=None)
    assert [(given is None, causal) for given, _, causal in seen] == [(True, True)] * 2
    whole = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    assert torch.allclose(fast, hidden(model, attention_mask=whole), atol=1e-5)
    assert [(given is None, causal) for given, _, causal in seen[2:]] == [(False, False)] * 2


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, "learn"])
@pytest.mark.parametrize("make", [bert, llama])
def test_padding_does_not_leak(make: Any, alpha: Any) -> None:
    model = sparsify(make(), alpha)
    changed = other_at(PADDED == 0)
    assert not torch.equal(changed, TOKENS)
    real = PADDED.bool()
    assert torch.equal(hidden(model)[real], hidden(model, changed)[real])


def test_one_hook_without_the_other_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sparsify(bert(), 1.5)
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, NAME)
    with pytest.raises(RegistryError, match="without its masks"):
        hidden(model)


def scores(given: torch.Tensor | None, **options: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    module = torch.nn.Module()
    setattr(module, ALPHA, 1.5)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 5, 8, generator=generator) for _ in range(3))
    register()
    return attend(module, q, k, v, given, output_attentions=True, **options)


def test_the_lowest_number_masks_and_fully_masked_rows_are_zero() -> None:
    lowest = torch.zeros(2, 1, 5, 5)
    lowest[0, :, :, 3:] = torch.finfo(torch.float32).min
    lowest[1] = torch.finfo(torch.float32).min
    out, weights = scores(lowest)
    assert weights is not None
    assert (weights[0, :, :, 3:] == 0).all()
    assert torch.allclose(weights[0].sum(-1), torch.ones(4, 5))
    assert (weights[1] == 0).all()
    assert (out[1] == 0).all()
    same, _ = scores(lowest == 0)
    assert torch.equal(out, same)
    # What models add to scores may already have met a bias below the lowest number.
    biased, _ = scores(lowest, position_bias=torch.full((1, 4, 5, 5), -3.0))
    assert torch.equal(biased[1], torch.zeros_like(biased[1]))
    assert torch.allclose(biased, out, atol=1e-6)


def test_a_bias_and_a_mask() -> None:
    bias, causal = torch.randn(1, 4, 5, 5), torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    out, weights = scores(causal, position_bias=bias)
    assert weights is not None
    assert (weights.triu(1) == 0).all()
    expected, _ = scores(torch.where(causal, bias, -torch.inf))
    assert torch.equal(out, expected)
    alone, _ = scores(None, position_bias=bias)
    assert torch.equal(alone, scores(bias)[0])


@pytest.mark.parametrize("name", ["softcap", "s_aux", "sinks", "cache", "indices", "block_indices"])
def test_what_is_not_computed_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match=name):
        scores(None, **{name: torch.ones(4)})


def test_heads_of_keys_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = llama()
    eager.set_attn_implementation("eager")
    model = sparsify(copy.deepcopy(eager), 1.0)
    spy = Spy(monkeypatch)
    real = PADDED.bool()
    assert torch.allclose(hidden(model)[real], hidden(eager)[real], atol=1e-4)
    assert spy.calls[0]["shapes"] == ((2, 4, 9, 8), (2, 2, 9, 8))


@pytest.mark.parametrize("make", [bert, llama])
def test_attentions(make: Any) -> None:
    model = sparsify(make(), 2.0)
    with torch.no_grad():
        out = model(input_ids=TOKENS, attention_mask=PADDED, output_attentions=True)
    assert len(out.attentions) == 2
    for weights in out.attentions:
        assert weights.shape == (2, 4, 9, 9)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 9), atol=1e-6)
        assert (weights[1, :, :, 6:] == 0).all()
        real = weights[0] if make is bert else weights[0][:, 5:, :5]
        assert (real == 0).float().mean() > 0.2
    assert torch.allclose(out[0], hidden(model), atol=1e-5)


def test_attentions_of_all_three_kinds() -> None:
    model = sparsify(pair(), 1.5)
    with torch.no_grad():
        out = model(input_ids=TOKENS, attention_mask=PADDED, decoder_input_ids=TOKENS[:, :4], output_attentions=True)
    assert out.encoder_attentions[0].shape == (2, 4, 9, 9)
    assert (out.decoder_attentions[0].triu(1) == 0).all()
    assert out.cross_attentions[0].shape == (2, 4, 4, 9)
    assert (out.cross_attentions[0][1, :, :, 6:] == 0).all()


def test_attentions_asked_for_in_a_configuration_are_refused() -> None:
    model = sparsify(bert(), 1.5)
    with pytest.raises(ValueError, match="output_attentions"):
        model.config.output_attentions = True


# --- alphas


def test_alphas_by_layer() -> None:
    model = sparsify(llama(), {0: "learn", "*layers.1.*": 1.25})
    found = alphas(model)
    assert list(found) == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    first, second = found.values()
    assert torch.allclose(first, torch.full((4,), 1.5))
    assert second == 1.25
    assert len(alpha_parameters(model)) == 1
    kept = sparsify(llama(), {1: 2.0})
    assert [float(a) for a in alphas(kept).values()] == [1.0, 2.0]


def test_alphas_by_pattern_of_an_encoder_and_a_decoder() -> None:
    model = sparsify(pair(), {"encoder.*": 1.25, "*crossattention*": 2.0, "decoder.*": "learn"})
    for name, alpha in alphas(model).items():
        if name.startswith("encoder"):
            assert alpha == 1.25
        else:
            assert alpha.shape == (() if "crossattention" in name else (4,))
    assert len(alpha_parameters(model)) == 2


@pytest.mark.parametrize("keys", [{7: 1.5}, {"*nothing*": 1.5}])
def test_keys_that_name_nothing(keys: Any) -> None:
    with pytest.raises(ParameterError, match=r"alpha for .*Expected layers of the model"):
        sparsify(bert(), keys)


@pytest.mark.parametrize("alpha", ["learned", -1, float("inf"), float("nan"), None, True])
def test_alphas_that_cannot_be(alpha: Any) -> None:
    with pytest.raises(ParameterError, match="alpha="):
        sparsify(bert(), alpha)


def test_models_without_the_interface() -> None:
    from transformers import DebertaConfig, DebertaModel

    model = DebertaModel(DebertaConfig(**SMALL))
    with pytest.raises(ParameterError, match="attention interface"):
        sparsify(model)
    with pytest.raises(ParameterError, match="without alphas"):
        alphas(model)


def test_parts_with_a_configuration_of_their_own() -> None:
    # As in X-CLIP: the model does not reach them.
    model = bert()
    part = model.encoder.layer[1].attention.self
    part.config = copy.deepcopy(part.config)
    sparsify(model)
    assert torch.equal(hidden(model), hidden(sparsify(bert())))
    model(input_ids=TOKENS).last_hidden_state.square().mean().backward()
    assert all(p.grad is not None for p in alpha_parameters(model))


def test_a_module_that_lost_its_alpha_says_so() -> None:
    model = sparsify(bert(), 1.5)
    delattr(model.encoder.layer[0].attention.self, ALPHA)
    with pytest.raises(ParameterError, match="without an alpha"):
        hidden(model)


@pytest.mark.parametrize("make", [bert, llama, t5, pair])
def test_learned_alphas_move(make: Any) -> None:
    model = sparsify(make())
    before = alphas(model)
    parameters = alpha_parameters(model)
    assert len(parameters) == len(before)
    optimiser = torch.optim.SGD(parameters, lr=1.0)
    extra = {"decoder_input_ids": TOKENS[:, :5]} if make in (t5, pair) else {}
    model(input_ids=TOKENS, attention_mask=PADDED, **extra)[0].square().mean().backward()
    for parameter in parameters:
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()
    optimiser.step()
    for old, new in zip(before.values(), alphas(model).values(), strict=True):
        assert (old != new).all()
        assert ((new > 1) & (new < 2)).all()


def test_sparsified_again() -> None:
    model = sparsify(sparsify(bert()), 2.0)
    assert alpha_parameters(model) == []
    assert not any("alpha" in name for name in model.state_dict())
    assert torch.equal(hidden(model), hidden(sparsify(bert(), 2.0)))


def test_the_mask_function_is_the_one_that_transformers_calls() -> None:
    register()
    assert AttentionMaskInterface._global_mapping[NAME] is mask
    assert set(attention_modules(bert())) == {f"encoder.layer.{n}.attention.self" for n in range(2)}
