"""The list of model types that `support` writes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("supported.json")
# All probes passed; a probe failed; no model or inputs to probe; attention does not go through the interface.
SECTIONS = ("supported", "refused", "undecided", "elsewhere")


@cache
def listed() -> dict[str, Any]:
    """The list: the version of transformers, and by section what is known of each type."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def refusal(model_type: str) -> str | None:
    """Which probe a type failed, None where it failed none."""
    return listed()["refused"].get(model_type)
