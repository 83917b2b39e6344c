"""``tsallis predict``: lines in, predictions out, with what is proved of them."""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import recipes
from ..core.errors import TsallisError
from .run import too_large

if TYPE_CHECKING:
    from ..recipes._shared.lines import Lines
    from ..recipes._shared.predictions import Prediction
    from ..recipes._shared.runs import Run

COLUMNS = ("line", "prediction", "probability", "certificate", "alternatives", "reason")

EPILOG = (
    "TSV has a header and the columns " + ", ".join(COLUMNS) + r". Tabs, line ends, backslashes and other control "
    r"characters are written \t, \n, \\, \x1b; alternatives are a JSON list of pairs, text and probability. JSON is "
    "one object a line, with null for numbers that are not finite. A line without a prediction has a reason instead. "
    "The exit status is 0 if every line got a prediction, 1 if some did not, 2 if the command cannot go on."
)


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder that tsallis run wrote, or one training in it")
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="lines in UTF-8; - for standard input")
    parser.add_argument("--format", choices=("tsv", "json"), default="tsv", help="of the output (default: tsv)")
    parser.add_argument(
        "--explain", type=Path, metavar="DIR", help="write a page there that draws alignments and trees"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write there, when all is done, not to standard output"
    )
    parser.epilog = EPILOG.replace("%", "%%")


def run(arguments: argparse.Namespace) -> int:
    """Answer every line as it comes; 1 if some have no prediction."""
    recipes.require_extra()
    chosen = _choose(arguments.run)
    name = chosen.result["recipe"]
    recipe = recipes.load(name)
    if not hasattr(recipe, "predict"):
        raise TsallisError(
            f"{chosen.folder} is a run of {name}, which predicts nothing from lines",
            "a run of a recipe that does, of texts for example",
            "Choose another run",
        )
    from ..recipes._shared.explanations import explanations
    from ..recipes._shared.files import replacing
    from ..recipes._shared.lines import Lines

    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    with ExitStack() as stack:
        lines = Lines(_input(arguments.file, stack))
        out = stack.enter_context(replacing(arguments.out)) if arguments.out else None
        title = f"{chosen.result['title']}: {chosen.row}, seed {chosen.result['seed']}"
        page = stack.enter_context(explanations(arguments.explain, title)) if arguments.explain else None
        write = _json if arguments.format == "json" else _tsv
        if arguments.format == "tsv":
            _put("\t".join(COLUMNS), out)
        number, refused, first = 0, 0, ""
        for number, (line, prediction) in enumerate(_answers(recipe, chosen, lines, page is not None), 1):
            _put(write(number, prediction), out)
            if page is not None:
                page.add(number, line, prediction)
            if prediction.reason is not None:
                refused += 1
                first = first or f"line {number}: {prediction.reason}"
    if refused:
        print(f"{refused} of {number} lines without a prediction, the first is {first}", file=sys.stderr)
    if page is not None:
        print(arguments.explain / "index.html", file=sys.stderr)
    return 1 if refused else 0


def _choose(folder: Path) -> Run:
    """The run in a folder, the first where there are several."""
    from ..recipes._shared.runs import members

    done, missing = members(folder)
    if not done:
        raise TsallisError(f"{folder}: no finished run", "one at least", "Go on with: tsallis run RECIPE --resume RUN")
    if len(done) + len(missing) > 1:
        others = ", ".join(run.folder.name for run in done[1:]) or "none"
        print(f"{done[0].folder}: the first of {len(done)} finished runs; others to name: {others}", file=sys.stderr)
    return done[0]


def _input(name: str, stack: ExitStack) -> Any:
    if name != "-":
        return stack.enter_context(open(name, "rb"))
    if sys.stdin is None:
        raise TsallisError("No standard input", "lines", "Name a file")
    return sys.stdin.buffer


def _answers(recipe: Any, chosen: Run, lines: Lines, explain: bool) -> Iterator[tuple[str, Prediction]]:
    """Every line with its prediction; what a recipe stumbles over in the files of a run, as one sentence."""
    name = chosen.result["recipe"]
    try:
        for prediction in recipe.predict(chosen, lines, explain=explain):
            if not lines.unanswered:
                raise RuntimeError("more predictions than lines")
            yield lines.unanswered.popleft(), prediction
        if lines.unanswered or next(lines, None) is not None:
            raise RuntimeError("fewer predictions than lines")
    except TsallisError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError, MemoryError) as error:
        if too_large(error):
            raise TsallisError(str(error) or "Out of memory", "lines that fit into memory", "Leave some out") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TsallisError(
            f"{chosen.folder}: {name} cannot predict with it ({reason})",
            "files as tsallis run wrote them",
            "Run again, or see the cause with --debug",
        ) from error


def _put(line: str, out: BinaryIO | None) -> None:
    """Write a line; on standard output it can be read at once."""
    if out is None:
        print(line, flush=True)
    else:
        out.write(f"{line}\n".encode("utf-8", "replace"))


def _tsv(number: int, prediction: Prediction) -> str:
    alternatives = [[text, float(f"{p:.6g}")] for text, p in prediction.alternatives]
    cells = (
        str(number),
        prediction.text or "",
        "" if prediction.text is None else _power(prediction.log_prob),
        "" if prediction.certificate is None else str(prediction.certificate),
        json.dumps(alternatives, ensure_ascii=False) if alternatives else "",
        prediction.reason or "",
    )
    return "\t".join(map(_escaped, cells))


_NAMED = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}


def _escaped(text: str) -> str:
    """Without characters that end a line or a cell, or that a terminal obeys."""
    return "".join(
        _NAMED.get(c) or (_code(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c) for c in text
    )


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def _power(log_prob: float) -> str:
    """The probability with six digits, also where it is too small for a float."""
    if math.isnan(log_prob):
        return ""
    return f"{math.exp(log_prob) if log_prob > -700 else Decimal(log_prob).exp():.6g}"


def _json(number: int, prediction: Prediction) -> str:
    proof = prediction.certificate
    certificate = None
    if proof is not None:
        numbers = {key: _finite(getattr(proof, key)) for key in ("gap", "mass", "unseen")}
        certificate = {"status": proof.status.name, **numbers, "proven": proof.proven}
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
