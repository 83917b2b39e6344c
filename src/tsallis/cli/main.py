"""Entry point of ``tsallis``."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from ..core.errors import TsallisError

# One module per subcommand, imported only when it is the one asked for: each has `describe(parser)` and `run(arguments)
# -> exit status`; one in OPEN parses the words that `describe` does not know itself, `run(arguments, rest)`.
COMMANDS = {
    "list": "show the recipes and their presets",
    "run": "train a recipe and print its table",
    "report": "show finished runs: their table, and a page with figures",
    "predict": "predict from lines with a finished run, and say what is proved",
    "check": "test every mapping on this machine",
    "doctor": "show what is installed and which backend serves which call, with reasons",
    "bench": "time mappings and losses beside what they replace, after a correctness gate",
}

OPEN = {"run"}


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tsallis", description="Sparse communication in neural networks.")
    parser.add_argument("--version", action="version", version=f"tsallis {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == chosen:
            import_module(f".{name}", __package__).describe(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status is 0 for success, 1 for a negative result, 2 for unusable input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "±" is no reason to lose a table
    words = sys.argv[1:] if argv is None else list(argv)
    chosen = next((word for word in words if word in COMMANDS), None)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    # `run RECIPE --help` belongs to the recipe, whose options `run` knows.
    later = [w for w in words if w in ("-h", "--help")] if chosen in OPEN and len(words) > 2 else []
    parser = _parser(chosen)
    arguments, rest = parser.parse_known_args([w for w in words if w not in later])
    if rest and chosen not in OPEN:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    command = import_module(f".{arguments.command}", __package__)
    try:
        return int(command.run(arguments, [*rest, *later]) if chosen in OPEN else command.run(arguments))
    except TsallisError as error:
        if debug:
            raise
        print(f"tsallis {arguments.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`| head`) went away: that is its right. Nothing more can be written, also not at interpreter exit.
        sys.stderr.close()
        return 141
    except OSError as error:
        if debug:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        expected = "files that can be read and written, and room on the disk"
        print(f"tsallis {arguments.command}: {what}. Expected {expected}. Choose another place.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"tsallis {arguments.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
