"""Answers of ``tsallis predict`` as lines of TSV and JSON."""

from __future__ import annotations

import json
import math
import re
import unicodedata

from ..recipes._shared.predictions import Prediction, probability

COLUMNS = ("line", "prediction", "probability", "certificate", "alternatives", "reason")


def tsv(number: int, prediction: Prediction) -> str:
    """A row of `COLUMNS`."""
    alternatives = [[text, float(f"{p:.6g}")] for text, p in prediction.alternatives]
    cells = (
        str(number),
        prediction.text or "",
        "" if prediction.text is None else probability(prediction.log_prob),
        "" if prediction.certificate is None else str(prediction.certificate),
        json.dumps(alternatives, ensure_ascii=False) if alternatives else "",
        prediction.reason or "",
    )
    return "\t".join(map(escaped, cells))


_NAMED = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}


def escaped(text: str) -> str:
    """Without characters that end a line or a cell, or that a terminal obeys."""
    return "".join(
        _NAMED.get(c) or (_code(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c) for c in text
    )


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def json_object(number: int, prediction: Prediction) -> str:
    """An object on one line."""
    proof = prediction.certificate
    certificate = None
    if proof is not None:
        numbers = {key: _finite(getattr(proof, key)) for key in ("gap", "mass", "unseen")}
        certificate = {"status": proof.status.name, **numbers, "found": proof.found, "proven": proof.proven}
    known = prediction.text is not None
    value = {
        "line": number,
        "prediction": prediction.text,
        "probability": _finite(prediction.probability) if known else None,
        "log_prob": _finite(prediction.log_prob) if known else None,
        "certificate": certificate,
        "alternatives": [{"text": text, "probability": _finite(p)} for text, p in prediction.alternatives],
        "reason": prediction.reason,
    }
    # Some readers take these for ends of lines, and lone surrogates are not UTF-8.
    odd = r"[\x85\u2028\u2029\ud800-\udfff]"
    return re.sub(odd, lambda m: f"\\u{ord(m[0]):04x}", json.dumps(value, ensure_ascii=False, allow_nan=False))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


FORMATS = {"tsv": tsv, "json": json_object}
