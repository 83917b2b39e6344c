"""Sparse models of transformers, saved and loaded, and in the programs that models are used in."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from transformers import BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel

from tsallis.core.errors import ParameterError, TsallisError
from tsallis.integrations.transformers import alpha_parameters, alphas, sparsify
from tsallis.integrations.transformers.alphas import NAME
from tsallis.integrations.transformers.tiny import peaked

from .transformers_models import PADDED, TOKENS, bert, hidden, llama, other_at, pair, t5

pytestmark = pytest.mark.usefixtures("quiet_transformers")


# --- saving


def moved(model: Any) -> Any:
    """The model with alphas that are not those of a new one."""
    with torch.no_grad():
        for number, parameter in enumerate(alpha_parameters(model)):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return model


@torch.no_grad()
def answers(model: Any) -> torch.Tensor:
    extra = {"decoder_input_ids": TOKENS[:, :5]} if model.config.is_encoder_decoder else {}
    return model(input_ids=TOKENS, attention_mask=PADDED, **extra)[0]


@pytest.mark.parametrize("alpha", ["learn", 1.25, {0: 2.0, 1: "learn"}], ids=["learn", "number", "layers"])
@pytest.mark.parametrize("make", [bert, llama, t5, pair])
def test_saved_and_loaded(make: Any, alpha: Any, tmp_path: Path) -> None:
    model = moved(sparsify(make(), alpha))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.config._attn_implementation == NAME
    assert {k: v.tolist() for k, v in alphas(loaded).items()} == {k: v.tolist() for k, v in alphas(model).items()}
    assert torch.equal(answers(loaded), answers(model))
    # And once more, from what was loaded.
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(answers(type(model).from_pretrained(tmp_path / "again").eval()), answers(model))


def test_saved_with_a_head_and_loaded_without(tmp_path: Path) -> None:
    model = moved(sparsify(bert(BertForMaskedLM)))
    model.save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    assert list(alphas(loaded)) == [name.removeprefix("bert.") for name in alphas(model)]
    assert torch.equal(hidden(loaded), hidden(model.bert))


def test_saved_without_a_head_and_loaded_with_one(tmp_path: Path) -> None:
    model = moved(sparsify(bert()))
    model.save_pretrained(tmp_path)
    loaded = BertForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(hidden(loaded.bert), hidden(model))
    # A second saving names alphas as this model does.
    loaded.save_pretrained(tmp_path / "head")
    assert torch.equal(hidden(BertForMaskedLM.from_pretrained(tmp_path / "head").eval()), hidden(loaded))


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_a_fresh_process_loads_only_after_register(tmp_path: Path) -> None:
    model = moved(sparsify(bert()))
    model.save_pretrained(tmp_path / "model")
    torch.save({"tokens": TOKENS, "mask": PADDED, "out": hidden(model)}, tmp_path / "expected.pt")
    program = """
import sys, torch
if sys.argv[2] == "register":
    from tsallis.integrations.transformers import register
    register()
from transformers import BertModel
model = BertModel.from_pretrained(sys.argv[1] + "/model").eval()
given = torch.load(sys.argv[1] + "/expected.pt")
with torch.no_grad():
    out = model(input_ids=given["tokens"], attention_mask=given["mask"]).last_hidden_state
print("same" if torch.equal(out, given["out"]) else (out - given["out"]).abs().max())
"""
    refused = run(program, tmp_path, "nothing")
    assert refused.returncode != 0
    assert 'attn_implementation="tsallis"` is not supported' in refused.stderr
    assert "same" in run(program, tmp_path, "register").stdout


def test_deepcopy_and_pickle() -> None:
    model = moved(sparsify(bert()))
    before = hidden(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(hidden(other), before)
        with torch.no_grad():
            alpha_parameters(other)[0].add_(1.0)
        assert not torch.equal(hidden(other), before)
        assert torch.equal(hidden(model), before)


def test_tsallis_alone_does_not_import_transformers() -> None:
    done = run("import sys, tsallis; print('transformers' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_without_transformers() -> None:
    program = "import sys; sys.modules['transformers'] = None\nimport tsallis.integrations.transformers"
    done = run(program)
    assert done.returncode != 0
    assert "TsallisError: No package transformers" in done.stderr.strip().split("\n")[-1]
    assert "pip install 'tsallis[transformers]'" in done.stderr
    assert issubclass(ParameterError, TsallisError)


# --- programs around


@pytest.mark.parametrize(
    "how", [{}, {"do_sample": True, "top_k": 0}, {"num_beams": 3}], ids=["greedy", "sampling", "beams"]
)
@pytest.mark.parametrize("make", [llama, t5, pair])
def test_generation_with_and_without_a_cache(make: Any, how: dict[str, Any]) -> None:
    model = sparsify(make(), 1.5)
    found = []
    for cached in (True, False):
        torch.manual_seed(1)
        mask_ = PADDED if make is not llama else PADDED.flip(1)
        out = model.generate(
            input_ids=TOKENS, attention_mask=mask_, max_new_tokens=6, min_new_tokens=6, use_cache=cached, **how
        )  # fmt: skip
        found.append(out)
    assert torch.equal(*found)


def test_generation_from_a_prompt_with_padding_on_the_left() -> None:
    model = sparsify(peaked(GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4))), 1.5)
    prompt = TOKENS[:1, 4:]
    alone = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, min_new_tokens=5, pad_token_id=0
    )
    batch = torch.cat([TOKENS[1:], torch.cat([torch.full((1, 4), 9), prompt], 1)])
    given = torch.ones_like(batch)
    given[1, :4] = 0
    together = model.generate(
        input_ids=batch, attention_mask=given, max_new_tokens=5, min_new_tokens=5, pad_token_id=0
    )  # fmt: skip
    assert torch.equal(together[1, 9:], alone[0, 5:])


@pytest.mark.filterwarnings("ignore")
def test_compiled() -> None:
    model = sparsify(bert(), 1.5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(hidden(compiled), hidden(model), atol=1e-5)


def test_half_precision() -> None:
    model = sparsify(bert(), 1.5)
    half = copy.deepcopy(model).to(torch.bfloat16)
    out = hidden(half)
    assert out.dtype == torch.bfloat16
    assert (out - hidden(model)).abs().max() < 0.5
    assert torch.equal(out[PADDED.bool()], hidden(half, other_at(PADDED == 0))[PADDED.bool()])
    learned = sparsify(half)
    learned(input_ids=TOKENS, attention_mask=PADDED).last_hidden_state.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in alpha_parameters(learned))
