"""What has to hold of a model after `sparsify`: each probe would fail if attention lost a mask or a keyword."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...core.errors import ParameterError
from ...nn import Alpha
from .alphas import ALPHA, attention_modules
from .attention import register
from .model import sparsify

# Relative to the largest output: two programs for the same numbers; and one program whose shapes differ.
SAME, ROUNDING = 1e-4, 1e-6
NO_EFFECT = "no alpha has a gradient or an effect"
# Outputs that are not functions of single places, or repeat others.
_SKIPPED = ("loss", "past_key_values", "attentions", "router_logits", "cache", "logits_per_text", "logits_per_image")
_MASKS = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}
Inputs = Mapping[str, Any]


@dataclass
class ProbeResult:
    """What was found of a model.

    Attributes:
        numbers: what each probe measured; see `probe`.
        failed: probes that failed, with a sentence each.
        notes: what could not be decided by zeros alone.
        found, reached: how many attention modules the model has, and how many of them the inputs reach.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    found: int = 0
    reached: int = 0

    @property
    def passed(self) -> list[str]:
        """Names of probes that did not fail."""
        return [name for name in self.numbers if name not in self.failed]


def probe(model: PreTrainedModel, inputs: Inputs) -> ProbeResult:
    """Compare a model with its sparse copy, and the copy with itself on changed inputs.

    Probes: "same" (at alpha = 1, relative to the model's own eager attention), "padding", "decoder padding" and
    "future" (how much places that are masked change others, at alpha = 1.5; an encoder's padding its decoder, too),
    "sparse" (how much alpha = 2 differs from alpha = 1), "learned" (share of modules whose alpha has a gradient or an
    effect), and "saved" (after saving and loading).

    Args:
        model: in evaluation mode, with peaked attention: near-uniform weights hide what these probes look for.
        inputs: keywords of its forward. Where there is `attention_mask`, some texts should be padded.

    Returns:
        numbers, and sentences for what failed.

    Raises:
        ParameterError: a model without attention modules, or whose attention is not computed here.
    """
    found = ProbeResult()
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    sparse = sparsify(copy.deepcopy(model), 1.0, unchecked=True)
    modules = attention_modules(sparse)
    found.found = len(modules)
    expected = _run(eager, inputs)
    if any(not x.isfinite().any() for x in expected.values()):
        found.notes.append("eager attention gives NaN: compared with sdpa")
        eager.set_attn_implementation("sdpa")
        expected = _run(eager, inputs)
    _same(found, expected, _run(sparse, inputs), inputs)
    _set(modules, 2.0)
    found.numbers["sparse"] = change = _gap(_run(sparse, inputs), expected)
    if not change > SAME:
        found.failed["sparse"] = "alpha has no effect"
    _leaks(found, eager, sparse, modules, inputs)
    _learned(found, sparse, modules, inputs)
    _saved(found, model, inputs)
    return found


def _run(model: PreTrainedModel, inputs: Inputs) -> dict[str, Tensor]:
    """Its outputs that are one floating tensor each."""
    with torch.no_grad():
        return _outputs(model, inputs)


def _outputs(model: PreTrainedModel, inputs: Inputs) -> dict[str, Tensor]:
    # Some models draw numbers in evaluation, too.
    torch.manual_seed(0)
    out = model(**inputs)
    named: dict[Any, Any] = (
        dict(out) if isinstance(out, Mapping) else dict(enumerate(out if isinstance(out, tuple) else [out]))
    )
    # Backbones give nothing but maps of features.
    named |= {f"map {number}": x for number, x in enumerate(named.get("feature_maps") or ())}
    return {
        str(name): value.float() for name, value in named.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not str(name).endswith(_SKIPPED)
    }  # fmt: skip


def _gap(a: dict[str, Tensor], b: dict[str, Tensor], where: Callable[[str, Tensor], Tensor] | None = None) -> float:
    """The largest difference at chosen places of each output, relative to the output's largest value there."""
    worst = 0.0
    for name in a.keys() & b.keys():
        x, y = a[name], b[name]
        if x.shape != y.shape:
            return float("inf")
        if where is not None:
            chosen = where(name, x)
            x, y = x[chosen], y[chosen]
        finite = x.isfinite() | y.isfinite()
        x, y = x[finite], y[finite]
        if x.numel():
            gap = ((x - y).abs().max() / y.abs().max().clamp_min(1e-9)).item()
            worst = max(worst, float("inf") if gap != gap else gap)
    return worst


def _places(
    inputs: Inputs, keep: Callable[[str, Tensor], Tensor], pooled: bool = True
) -> Callable[[str, Tensor], Tensor]:
    """Which places of an output count: those of its sequence that `keep` chooses of (sequence's name, mask); of outputs
    that are not one per place all, or none if not `pooled`.
    """

    def where(name: str, x: Tensor) -> Tensor:
        text = sequence_of(name, inputs)
        given = mask_of(inputs, text) if text else None
        if given is not None and x.shape[:2] == given.shape:
            return keep(text or "", given)
        whole = torch.full(x.shape[:1], pooled, dtype=torch.bool)
        if given is not None and x.shape[:1] == given.shape[:1]:
            # Which place a text's one output is read from is the model's affair, and may be a padded one.
            return whole & given.all(1)
        return whole

    return where


def sequence_of(output: str, inputs: Inputs) -> str | None:
    """The name of the input whose places an output has."""
    if "decoder_input_ids" in inputs and not output.startswith("encoder"):
        return "decoder_input_ids"
    return "input_ids" if "input_ids" in inputs else None


def mask_of(inputs: Inputs, text: str | None) -> Tensor | None:
    """(B, N) True at tokens that are not padding."""
    if text is None or text not in inputs:
        return None
    given = inputs.get(_MASKS[text])
    return torch.ones_like(inputs[text], dtype=torch.bool) if given is None else given.bool()


def _same(found: ProbeResult, expected: dict[str, Tensor], got: dict[str, Tensor], inputs: Inputs) -> None:
    found.numbers["same"] = gap = _gap(got, expected, _places(inputs, lambda _, real: real))
    if not expected:
        found.failed["same"] = "no output to compare"
    elif not gap <= SAME:
        found.failed["same"] = f"differs from eager attention by {gap:.1g} at alpha = 1"


def _changed(inputs: Inputs, text: str, where: Tensor) -> dict[str, Any]:
    """Inputs with other tokens at some places, none of them special."""
    tokens = inputs[text]
    low, high = int(tokens[where].min()), int(tokens[where].max())
    return {**inputs, text: torch.where(where, low + high - tokens + (low + high == 2 * tokens).long(), tokens)}


def _leaks(found: ProbeResult, eager: PreTrainedModel, sparse: PreTrainedModel, modules: Any, inputs: Inputs) -> None:
    expected = _run(eager, inputs)

    def measure(text: str, where: Tensor, count: Callable[[str, Tensor], Tensor], name: str) -> None:
        # One output of a whole text may come from a place that is changed.
        other, places = _changed(inputs, text, where), _places(inputs, count, pooled=False)
        if not any(places(of, x).any() for of, x in expected.items()):
            return

        def leak(model: PreTrainedModel) -> float:
            return _gap(_run(model, other), _run(model, inputs), places)

        own = _gap(_run(eager, other), expected, places)
        if name == "future" and own > ROUNDING:
            return  # not a causal model
        _set(modules, 1.5)
        found.numbers[name] = ours = leak(sparse)
        if ours == 0:
            return
        _set(modules, 1.0)
        soft = leak(sparse)
        if ours <= ROUNDING:
            # How many tokens an expert gets decides in which order sums are made.
            found.notes.append(f"{name} leaks {ours:.1g}, which is rounding")
        elif own > 0 and soft <= own * (1 + 1e-2) + ROUNDING:
            found.notes.append(f"{name} leaks {own:.1g} with eager attention, {soft:.1g} here at alpha = 1")
        else:
            found.failed[name] = f"{name} leaks {ours:.1g} ({own:.1g} with eager attention)"

    for text, name in (("input_ids", "padding"), ("decoder_input_ids", "decoder padding")):
        real = mask_of(inputs, text)
        if real is not None and not real.all():
            measure(text, ~real, lambda of, mask: mask, name)
    if (real := mask_of(inputs, last := "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids")) is None:
        return
    length = real.shape[1]
    # Pictures come before their texts.
    half = length - min(length // 2, 6)
    later = real & (torch.arange(length) >= half)

    def earlier(of: str, mask: Tensor) -> Tensor:
        # Other sequences are whole before this one begins.
        return mask if of != last else mask & (torch.arange(mask.shape[1]) < half)

    measure(last, later, earlier, "future")


def _set(modules: Mapping[str, nn.Module], alpha: float) -> None:
    for module in modules.values():
        if hasattr(module, ALPHA):
            delattr(module, ALPHA)
        setattr(module, ALPHA, alpha)


def _learned(found: ProbeResult, sparse: PreTrainedModel, modules: Mapping[str, nn.Module], inputs: Inputs) -> None:
    """Whether each module's alpha has a gradient; where it has none, whether it changes an output."""
    try:
        sparsify(sparse, "learn", unchecked=True)
        _run(sparse, inputs)
    except (ParameterError, ValueError) as error:
        found.notes.append(f"learned alphas are not possible: {short(error)}")
        for module in modules.values():
            if hasattr(module, ALPHA):
                delattr(module, ALPHA)
            setattr(module, ALPHA, Alpha(1.5, ()))
    called: set[nn.Module] = set()
    held = {name: getattr(module, ALPHA) for name, module in modules.items()}
    hooks = [m.register_forward_pre_hook(lambda m, _: called.add(m)) for m in (*modules.values(), *held.values())]
    outputs = _outputs(sparse, inputs)
    for hook in hooks:
        hook.remove()
    total = sum((torch.where(x.isfinite(), x, 0.0) * torch.randn_like(x)).sum() for x in outputs.values())
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()
    base = None
    for name, module in modules.items():
        reached = any(p.grad is not None and bool((p.grad != 0).any()) for p in held[name].parameters())
        if not reached:
            base = base or _run(sparse, inputs)
            delattr(module, ALPHA)
            setattr(module, ALPHA, 2.0)
            reached = _gap(_run(sparse, inputs), base) > 0
            delattr(module, ALPHA)
            setattr(module, ALPHA, held[name])
        found.reached += reached
        if module in called and held[name] not in called:
            found.failed["learned"] = f"{name} is called, and does not ask for its alpha"
    sparse.zero_grad(set_to_none=True)
    found.numbers["learned"] = found.reached / max(1, found.found)
    if not found.reached:
        found.failed.setdefault("learned", NO_EFFECT)
    elif found.reached < found.found:
        found.notes.append(f"the inputs reach {found.reached} of {found.found} attention modules")


def _saved(found: ProbeResult, model: PreTrainedModel, inputs: Inputs) -> None:
    register()
    sparse = sparsify(copy.deepcopy(model), 1.5, unchecked=True)
    try:
        sparsify(sparse, "learn", init=1.3, unchecked=True)
        before = _run(sparse, inputs)
    except (ParameterError, ValueError):
        sparsify(sparse, 1.3, unchecked=True)
        before = _run(sparse, inputs)

    def loaded(saved: PreTrainedModel) -> PreTrainedModel:
        with tempfile.TemporaryDirectory() as folder:
            saved.save_pretrained(folder)
            return type(saved).from_pretrained(folder).eval()

    try:
        after = _run(loaded(sparse), inputs)
    except Exception as error:  # noqa: BLE001 - models' own code
        after, problem = None, short(error)
    else:
        problem = ""
    found.numbers["saved"] = gap = float("inf") if after is None else _gap(after, before)
    if gap <= ROUNDING:
        return
    try:
        plain = copy.deepcopy(model)
        plain.set_attn_implementation("eager")
        own = _gap(_run(loaded(plain), inputs), _run(plain, inputs))
    except Exception:  # noqa: BLE001 - models' own code; where it raises nothing is the same either
        own = float("inf")
    if own > ROUNDING:
        found.notes.append("is not the same after saving and loading with eager attention either")
    else:
        found.failed["saved"] = f"another output after saving and loading ({problem or f'{gap:.1g}'})"


def short(error: BaseException) -> str:
    """One line of an error."""
    text = " ".join(str(error).split()).replace("\x1b", "")
    return f"{type(error).__name__}: {text[:140]}"
