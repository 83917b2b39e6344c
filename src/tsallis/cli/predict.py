"""``tsallis predict``: lines in, predictions out, with what is proved of them."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import recipes
from ..core.errors import TsallisError
from .answers import COLUMNS, FORMATS, escaped
from .run import too_large

if TYPE_CHECKING:
    from ..recipes._shared.lines import Lines
    from ..recipes._shared.predictions import Prediction
    from ..recipes._shared.runs import Run

# Largest beam, and number of sequences: more take too much memory, whatever the model.
LARGEST = 10_000

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
    parser.add_argument("--format", choices=tuple(FORMATS), default="tsv", help="of the output (default: tsv)")
    parser.add_argument(
        "--beam", type=_count, metavar="N", help="prefixes that the search keeps (default: as the run's own searches)"
    )
    parser.add_argument(
        "--n-best", type=_count, metavar="N",
        help="sequences to search for: the prediction and N - 1 alternatives (default: all found, 9 of them shown)",
    )  # fmt: skip
    parser.add_argument(
        "--explain", type=Path, metavar="DIR", help="write a page there that draws alignments and trees"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write there, when all is done, not to standard output"
    )
    parser.epilog = EPILOG.replace("%", "%%")


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST)) and 1 <= int(text) <= LARGEST:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}. Expected a number from 1 to {LARGEST}. Choose another.")


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
        note = getattr(recipe, "PROOFS", "")
        page = stack.enter_context(explanations(arguments.explain, title, note)) if arguments.explain else None
        write = FORMATS[arguments.format]
        if arguments.format == "tsv":
            _put("\t".join(COLUMNS), out)
        number, refused, first = 0, 0, ""
        asked = {"beam": arguments.beam, "n_best": arguments.n_best, "explain": page is not None}
        for number, (line, prediction) in enumerate(_answers(recipe, chosen, lines, asked), 1):
            _put(write(number, prediction), out)
            if page is not None:
                page.add(number, line, prediction)
            if prediction.reason is not None:
                refused += 1
                first = first or f"line {number}: {escaped(prediction.reason)}"
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
        said = [f"the first of {len(done)} finished runs" if len(done) > 1 else "the only finished run"]
        said += [f"others to name: {', '.join(run.folder.name for run in done[1:])}"] if done[1:] else []
        said += [f"unfinished: {', '.join(missing)}"] if missing else []
        print(f"{done[0].folder}: {'; '.join(said)}", file=sys.stderr)
    return done[0]


def _input(name: str, stack: ExitStack) -> Any:
    if name != "-":
        return stack.enter_context(open(name, "rb"))
    if sys.stdin is None:
        raise TsallisError("No standard input", "lines", "Name a file")
    return sys.stdin.buffer


def _answers(recipe: Any, chosen: Run, lines: Lines, asked: dict[str, Any]) -> Iterator[tuple[str, Prediction]]:
    """Every line with its prediction; what a recipe stumbles over in the files of a run, as one sentence."""
    name = chosen.result["recipe"]
    try:
        for prediction in recipe.predict(chosen, lines, **asked):
            if not lines.unanswered:
                raise RuntimeError("more predictions than lines")
            yield lines.unanswered.popleft(), prediction
        if lines.unanswered or next(lines, None) is not None:
            raise RuntimeError("fewer predictions than lines")
    except TsallisError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError, MemoryError) as error:
        if too_large(error):
            raise TsallisError(
                str(error) or "Out of memory",
                "lines and a beam that fit into memory",
                "Leave lines out, or lower --beam",
            ) from error
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
