"""Which model types of the installed transformers hold what `probe` asks: writes `supported.json`.

    python -m tsallis.integrations.transformers.support [--fresh] [type ...]

Each type is built at tiny size and probed in a process of its own, within limits of time and memory.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import multiprocessing
import re
import sys
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from .alphas import attention_modules
from .inputs import inputs_of
from .listed import PATH, SECTIONS
from .probes import NO_EFFECT, probe, short
from .tiny import Variant, has_sections, peaked, source, tiny_config

SECONDS, BYTES = 60, 6 << 30
_MAPPINGS = ("MODEL_MAPPING_NAMES", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES")


def classes_of(model_type: str) -> Iterator[type[PreTrainedModel]]:
    """Classes of models with that configuration, the plainest first."""
    kind = CONFIG_MAPPING[model_type]
    try:
        module = importlib.import_module(kind.__module__.replace(".configuration_", ".modeling_"))
    except ModuleNotFoundError:
        # Its models are those of another type.
        module = transformers
    named: list[str] = []
    others = [n for n in dir(modeling_auto) if n.endswith("MAPPING_NAMES") and n not in _MAPPINGS]
    for mapping in (*_MAPPINGS, *others):
        names = getattr(modeling_auto, mapping).get(model_type, ())
        named += [names] if isinstance(names, str) else names
    if module is not transformers:
        named += [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, PreTrainedModel)]
    for name in dict.fromkeys(named):
        found = getattr(module, name, None) or getattr(transformers, name, None)
        if not (inspect.isclass(found) and issubclass(found, PreTrainedModel)):
            continue
        # Bases that only hold what models have in common cannot be called.
        callable_ = found.forward is not nn.Module.forward
        if callable_ and (found.config_class is kind or module is transformers):
            yield found


def examine(model_type: str) -> tuple[str, Any]:
    """The section of the list that a type belongs to, and what is written there."""
    problems: list[str] = []
    kind = CONFIG_MAPPING[model_type]
    classes = list(classes_of(model_type))
    if not classes:
        return "elsewhere", "a part of other models"
    for model_class in classes:
        for variant in _variants(kind):
            try:
                torch.manual_seed(0)
                model = peaked(model_class._from_config(tiny_config(kind, *variant)).float())
            except (Exception, SystemExit) as error:  # noqa: BLE001 - models' own code
                problems.append(f"no tiny model: {short(error)}")
                continue
            if not attention_modules(model):
                if "ALL_ATTENTION_FUNCTIONS" in source(kind):
                    problems.append("no tiny model: none with attention")
                    continue
                return "elsewhere", "does not call the attention interface"
            if not model._can_set_attn_implementation():
                return "elsewhere", "part of its attention does not go through the interface"
            model.set_attn_implementation("eager")
            for inputs in inputs_of(model):
                try:
                    with torch.no_grad():
                        torch.manual_seed(0)
                        model(**inputs)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - models' own code
                    problems.append(f"no tiny inputs: {short(error)}")
                    continue
                return _decided(model, inputs)
            problems.append(f"no tiny inputs: {', '.join(inspect.signature(model.forward).parameters)}"[:160])
    return "undecided", problems[0]


def _variants(kind: type[PreTrainedConfig]) -> list[Variant]:
    """Tiny models to try: some models need other sizes than most."""
    plain: list[Variant] = [(1, None, False), (1, None, True), (2, None, False)]
    if not has_sections(kind):
        return plain
    sections = [(2, 1, 1), (4, 2, 2), (1, 1)]
    return [(1, s, filled) for filled in (False, True) for s in sections] + [(2, (8, 4, 4), False), *plain]


def _decided(model: PreTrainedModel, inputs: dict[str, Any]) -> tuple[str, Any]:
    try:
        found = probe(model, inputs)
    except Exception as error:  # noqa: BLE001 - any failure of a probed model is its result
        if (passed := re.search(r"^\w+ with (\w+)\. Expected scores", str(error))) is not None:
            return "refused", f"passes {passed[1]}"
        return ("undecided" if "allocate memory" in str(error) else "refused"), short(error)
    asked = found.failed.get("learned", NO_EFFECT) == NO_EFFECT
    if "sparse" in found.failed and found.failed.keys() <= {"sparse", "learned"} and asked:
        # Such as pictures of which so few places are left that there is one key only.
        return "undecided", "alpha has no effect with the inputs tried"
    if found.failed:
        return "refused", "; ".join(found.failed.values())
    entry: dict[str, Any] = {"class": type(model).__name__, "passed": found.passed}
    if found.notes:
        entry["notes"] = found.notes
    return "supported", entry


def _work(model_type: str, results: Connection) -> None:
    import resource  # not everywhere

    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        results.send(examine(model_type))
    except MemoryError:
        results.send(("undecided", "needs too much memory"))
    except BaseException as error:  # noqa: BLE001 - whatever happened is the result
        results.send(("undecided", short(error)))


def in_process(model_type: str) -> tuple[str, Any]:
    """`examine` in a process of its own: a crash or a hang is a result, too."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(model_type, there), daemon=True)
    worker.start()
    there.close()
    try:
        if here.poll(SECONDS):
            return here.recv()
        return "undecided", f"took more than {SECONDS} s"
    except EOFError:
        worker.join()
        return "undecided", f"the process ended with {worker.exitcode}"
    finally:
        worker.kill()
        worker.join()


def _write(listed: dict[str, Any], path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(path)


def main(arguments: list[str] | None = None) -> None:
    """Probe all types that the list lacks, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="model types to probe again; all that are missing if none is named")
    parser.add_argument("--fresh", action="store_true", help="forget the list there is")
    parser.add_argument("--again", action="append", choices=SECTIONS, default=[], help="probe this section again")
    parser.add_argument("--to", type=Path, default=PATH, help="where the list is")
    options = parser.parse_args(arguments)
    listed: dict[str, Any] = {}
    if options.to.exists() and not options.fresh:
        listed = json.loads(options.to.read_text(encoding="utf-8"))
    if listed.get("transformers") != transformers.__version__:
        listed = {}
    listed = {"transformers": transformers.__version__, **{s: listed.get(s, {}) for s in SECTIONS}}
    done = {t for s in SECTIONS if s not in options.again for t in listed[s]}
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Kernels are compiled, or loaded, once: processes that are forked have them.
    examine("bert")
    for model_type in options.types or sorted(set(CONFIG_MAPPING.keys()) - done):
        section, entry = in_process(model_type)
        for other in SECTIONS:
            listed[other].pop(model_type, None)
        listed[section][model_type] = entry
        _write(listed, options.to)
        sys.stdout.write(f"{model_type}: {section} {entry}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
