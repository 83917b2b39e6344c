"""Probes of transformers' model types, faults that they have to find, and the list that they make."""

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from transformers import AutoModel, Gemma2Config, Gemma2Model, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tsallis.core.errors import ParameterError
from tsallis.integrations.transformers import attention, sparsify, support
from tsallis.integrations.transformers.inputs import inputs_of, padded
from tsallis.integrations.transformers.listed import PATH, SECTIONS, listed, refusal
from tsallis.integrations.transformers.probes import ProbeResult, probe
from tsallis.integrations.transformers.support import classes_of, examine, in_process
from tsallis.integrations.transformers.tiny import peaked, tiny_config

TEXT = {"same", "sparse", "padding", "learned", "saved"}
CAUSAL = TEXT | {"future"}
PAIR = CAUSAL | {"decoder padding"}
KINDS = {
    "bert": TEXT, "distilbert": TEXT, "modernbert": TEXT, "gpt2": CAUSAL, "llama": CAUSAL, "gemma3_text": CAUSAL,
    "mixtral": CAUSAL, "t5": PAIR, "bart": PAIR, "whisper": PAIR - {"padding"}, "vit": TEXT - {"padding"},
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("quiet_transformers")


def tiny(model_type: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    model = peaked(next(iter(classes_of(model_type)))._from_config(tiny_config(CONFIG_MAPPING[model_type])))
    return model, next(inputs_of(model))


def probed(model_type: str) -> ProbeResult:
    return probe(*tiny(model_type))


@pytest.mark.parametrize("model_type", KINDS)
def test_types_of_all_kinds_pass(model_type: str) -> None:
    found = probed(model_type)
    assert not found.failed
    assert set(found.passed) == KINDS[model_type]
    for name in ("padding", "decoder padding", "future"):
        # Experts' sums are made in an order that depends on how many tokens they get.
        assert found.numbers.get(name, 0) <= (1e-6 if model_type == "mixtral" else 0)
    assert found.numbers["same"] <= 1e-4 < 1e-2 < found.numbers["sparse"]
    assert found.reached == found.found > 1


# --- faults that have to be found


def test_attention_without_masks_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # What happens where only the attention function is registered: no mask is made, and nothing says so.
    monkeypatch.setattr(attention, "mask", lambda *args, **kwargs: None)
    found = probed("bert").failed
    assert set(found) == {"same", "padding"}
    assert "0 with eager attention" in found["padding"]
    assert set(probed("llama").failed) == {"same", "padding", "future"}
    assert set(probed("t5").failed) == {"same", "padding", "decoder padding", "future"}


def test_a_mask_of_padding_only_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attention.mask

    def padding_only(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs)
        return None if made is None else made[:, :, -1:].expand_as(made)

    monkeypatch.setattr(attention, "mask", padding_only)
    assert "future" in probed("llama").failed
    assert not probed("bert").failed


def test_a_dropped_keyword_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FOREIGN", ())
    for model_type in ("gemma2", "gpt_oss"):
        assert "differs from eager attention" in probed(model_type).failed["same"]
    real = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *args, position_bias=None, **others: real(*args, **others))
    assert "same" in probed("t5").failed


def test_softmax_under_another_name_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "alpha_of", lambda module: 1.0)
    assert {"sparse", "learned"} <= set(probed("bert").failed)


def test_a_part_that_keeps_softmax_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny("bert")
    kind = type(model.encoder.layer[1].attention.self)
    real = kind.forward

    def softmax_in_one_layer(self: Any, *args: Any, **others: Any) -> Any:
        chosen = self.config._attn_implementation
        self.config._attn_implementation_internal = "sdpa" if self.layer_idx else chosen
        try:
            return real(self, *args, **others)
        finally:
            self.config._attn_implementation_internal = chosen

    monkeypatch.setattr(kind, "forward", softmax_in_one_layer)
    found = probe(model, inputs)
    assert found.failed == {"learned": "encoder.layer.1.attention.self is called, and does not ask for its alpha"}
    assert (found.reached, found.found) == (1, 2)


def test_alphas_that_are_not_restored_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    attention.register()
    monkeypatch.setattr(attention, "restore", lambda model: None)
    assert set(probed("bert").failed) == {"saved"}


# --- what is refused


def test_a_model_with_capped_scores_is_refused() -> None:
    assert examine("gemma2") == ("refused", "passes softcap")
    assert refusal("gemma2") == "passes softcap"
    model, inputs = tiny("gemma2")
    with pytest.raises(ParameterError, match="passes softcap"):
        sparsify(model)
    # Such a model that caps nothing.
    config = copy.deepcopy(model.config)
    config.attn_logit_softcapping = None
    assert isinstance(config, Gemma2Config)
    plain = sparsify(peaked(Gemma2Model(config)), 1.5, unchecked=True)
    assert plain(**inputs).last_hidden_state.isfinite().all()
    with pytest.raises(ParameterError, match="softcap"):
        sparsify(model, 1.5, unchecked=True)(**inputs)


def test_a_refused_part_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tiny("clip")
    monkeypatch.setitem(listed()["refused"], "clip_vision_model", "of a test")
    with pytest.raises(ParameterError, match="CLIPVisionModel, whose type failed when it was probed: of a test"):
        sparsify(model)


def test_types_without_the_interface() -> None:
    assert examine("deberta") == ("elsewhere", "does not call the attention interface")


# --- the list


def test_the_list_names_every_type_once() -> None:
    found = listed()
    assert set(found) == {"transformers", *SECTIONS}
    names = [name for section in SECTIONS for name in found[section]]
    assert len(names) == len(set(names))
    if transformers.__version__ == found["transformers"]:
        assert set(names) == set(CONFIG_MAPPING.keys())
    assert KINDS.keys() <= found["supported"].keys()
    assert {"gemma2", "gpt_oss"} <= found["refused"].keys()
    for entry in found["supported"].values():
        assert {"same", "sparse", "learned"} <= set(entry["passed"])
    text = PATH.read_text(encoding="utf-8")
    assert text == json.dumps(found, indent=1, sort_keys=True) + "\n"


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda _: time.sleep(60), "took more than 1 s"),
        (lambda _: os._exit(3), "the process ended with 3"),
        (lambda _: torch.ones(20 << 30), "allocate"),
        (lambda _: ("supported", {}), None),
    ],
    ids=["hang", "crash", "memory", "none"],
)
def test_one_type_cannot_spoil_others(fault: Any, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "SECONDS", 1 if said and "took" in said else 50)
    monkeypatch.setattr(support, "examine", fault)
    section, entry = in_process("bert")
    assert section == ("undecided" if said else "supported")
    assert said is None or said in entry


@pytest.mark.filterwarnings("ignore:.*fork")
def test_the_command_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(model_type: str) -> tuple[str, Any]:
        seen.append(model_type)
        return "supported", {"class": "X", "passed": []}

    monkeypatch.setattr(support, "examine", lambda model_type: None)
    monkeypatch.setattr(support, "in_process", counted)
    monkeypatch.setattr(support, "CONFIG_MAPPING", {"b": None, "a": None, "c": None})
    where = tmp_path / "list.json"
    support.main(["b", "--to", str(where)])
    assert seen == ["b"]
    support.main(["--to", str(where)])
    assert seen == ["b", "a", "c"]
    assert sorted(json.loads(where.read_text())["supported"]) == ["a", "b", "c"]
    support.main(["--to", str(where)])
    support.main(["--to", str(where), "--again", "supported"])
    assert seen == ["b", "a", "c", "a", "b", "c"]


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_the_list_is_what_a_fresh_run_gives(tmp_path: Path) -> None:
    if transformers.__version__ != listed()["transformers"]:
        pytest.skip(f"the list is of transformers {listed()['transformers']}")
    where = tmp_path / "list.json"
    command = [sys.executable, "-m", "tsallis.integrations.transformers.support", "--fresh", "--to", str(where)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    fresh = json.loads(where.read_text(encoding="utf-8"))
    for section in ("supported", "refused"):
        assert fresh[section].keys() == listed()[section].keys()
    for name, entry in fresh["supported"].items():
        assert entry["passed"] == listed()["supported"][name]["passed"], name


@pytest.mark.skipif("TSALLIS_BERT" not in os.environ, reason="TSALLIS_BERT names no folder with a trained BERT")
def test_a_trained_bert() -> None:
    model = AutoModel.from_pretrained(os.environ["TSALLIS_BERT"]).eval()
    tokens = torch.randint(1000, 29000, (3, 24), generator=torch.Generator().manual_seed(0))
    found = probe(model, {"input_ids": tokens, "attention_mask": padded(3, 24)})
    assert not found.failed
    assert set(found.passed) == TEXT
    assert found.numbers["padding"] == 0
    assert found.reached == found.found == model.config.num_hidden_layers
