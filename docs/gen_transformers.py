"""The page of transformers' models, from the list that the probes made."""

from __future__ import annotations

import json
from pathlib import Path

from gen_mappings import table

LIST = Path(__file__).parents[1] / "src/tsallis/integrations/transformers/supported.json"
INTRODUCTION = """# Hugging Face transformers

Attention with `entmax` in the models of transformers, one learned alpha per head or numbers that you choose:

```python
from transformers import AutoModelForSequenceClassification
from tsallis.integrations.transformers import alpha_parameters, alphas, sparsify

model = sparsify(AutoModelForSequenceClassification.from_pretrained("bert-base-uncased"))
```

Install it with `pip install 'tsallis[transformers]'`.

::: tsallis.integrations.transformers.model.sparsify

::: tsallis.integrations.transformers.attention.register

::: tsallis.integrations.transformers.model.alphas

::: tsallis.integrations.transformers.model.alpha_parameters

## Training

The output layer can be sparse too: train it with the loss that belongs to entmax, and generate from entmax.

```python
from transformers import AutoModelForCausalLM, Trainer
from tsallis.integrations.transformers import certified_search, check_trainer, generation_options, trainer_loss

model = AutoModelForCausalLM.from_pretrained("openai-community/gpt2")
model.loss_type = "ForCausalLM"
trainer = check_trainer(Trainer(model, arguments, train_dataset=texts, compute_loss_func=trainer_loss(1.5)))
trainer.train()
```

::: tsallis.integrations.transformers.training.trainer_loss

::: tsallis.integrations.transformers.training.check_trainer

## Generation

```python
model.eval()
drawn = model.generate(**inputs, max_new_tokens=40, **generation_options(1.5, do_sample=True))
found = model.generate(
    **inputs, max_new_tokens=40, custom_generate=certified_search, alpha=1.5, num_beams=8, return_dict_in_generate=True
)
found.sequences, found.probabilities, [str(c) for c in found.certificates]
```

| In transformers | What happens | Here |
|--|--|--|
| do_sample=True | top_k = 50 cuts larger supports, behind all processors | `generation_options` sets 0 |
| a model's generation configuration | its beams, temperature, penalties hold | `generation_options` resets them |
| num_beams | ranks by log-probability divided by length | `generation_options` sets length_penalty = 0 |
| max_new_tokens | mass is left open | certificates count it |
| use_cache=False, as Trainer leaves it | the whole prefix is run again at each step | `certified_search` caches |
| model.train(), as Trainer leaves it | dropout | `certified_search` refuses |
| logits processors | another distribution | certificates are UNKNOWN with a warning, or speak of that one |

::: tsallis.integrations.transformers.search.certified_search

::: tsallis.integrations.transformers.search.CertifiedOutput

::: tsallis.integrations.transformers.generation.EntmaxLogitsProcessor

::: tsallis.integrations.transformers.generation.generation_options
"""

LISTS = """## Models

This list was made by probing every model type of transformers {version} at tiny size, with weights that make attention
peaked. A supported type passed all probes that make sense for it:

- *same*: at alpha = 1 its outputs are those of its own eager attention, within 1e-4, with padding at either end;
- *padding*, *decoder padding*: at alpha = 1.5 other content of padded places changes no output at other places;
- *future*: later tokens change no earlier output of a causal model;
- *sparse*: alpha = 2 changes the output;
- *learned*: alphas have gradients;
- *saved*: the output is the same after saving and loading.

Changes have to be exactly zero, but where remarks say otherwise. To probe your own model, call
`tsallis.integrations.transformers.probes.probe`; to make the list for the version of transformers that is installed,
run `python -m tsallis.integrations.transformers.support --to list.json`.
"""

REFUSED = """### Refused

Each of these types failed a probe: `sparsify` refuses them, and models that have them as parts, unless it gets
`unchecked=True`.
"""

UNDECIDED = """### Undecided

No tiny model, or no inputs for it, could be made without knowing the type. `sparsify` takes them; probe yours.
"""

ELSEWHERE = """### Not through the interface

`sparsify` finds no attention that it could replace in these types, or not all of it.
"""


def supported_row(model_type: str, entry: dict[str, object]) -> list[str]:
    """Type, class, probes that it passed besides those that all pass, remarks."""
    everywhere = ("same", "sparse", "learned", "saved")
    passed, notes = entry["passed"], entry.get("notes", [])
    assert isinstance(passed, list)
    assert isinstance(notes, list)
    return [
        f"`{model_type}`",
        f"`{entry['class']}`",
        ", ".join(p for p in passed if p not in everywhere),
        "; ".join(notes),
    ]


def page() -> str:
    """The whole page."""
    listed = json.loads(LIST.read_text(encoding="utf-8"))
    supported = [supported_row(*item) for item in sorted(listed["supported"].items())]
    parts = [
        INTRODUCTION,
        LISTS.format(version=listed["transformers"]),
        f"### Supported\n\n{len(supported)} types.",
        table(["type", "class probed", "probes of places", "remarks"], supported),
    ]
    for text, section in ((REFUSED, "refused"), (UNDECIDED, "undecided")):
        rows = [[f"`{name}`", plain(reason)] for name, reason in sorted(listed[section].items())]
        parts += [text, table(["type", "reason"], rows)]
    parts += [ELSEWHERE, ", ".join(f"`{name}`" for name in sorted(listed["elsewhere"])) + "."]
    return "\n\n".join(parts) + "\n"


def plain(reason: str) -> str:
    """A reason as Markdown: what models say may hold anything."""
    kind, _, said = reason.partition(": ")
    return f"{kind}: `{said.replace('`', '')}`" if said else kind
