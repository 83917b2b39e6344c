"""``tsallis check``: run the conformance laws on this machine, without a test runner."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from ..core import registry


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("mapping", nargs="*", help="names of mappings; all if none is given")
    parser.add_argument("--fast", action="store_true", help="leave out the laws that compile (about half the time)")


def run(arguments: argparse.Namespace) -> int:
    """Check the named mappings; 1 if any law is broken."""
    from .. import testing

    chosen = [registry.get(name) for name in arguments.mapping or registry.names()]
    broken = 0
    for mapping in chosen:
        start, count, failures = time.perf_counter(), 0, Counter[str]()
        details: list[str] = []
        for report in testing.check(mapping, slow=not arguments.fast):
            count += 1
            if sys.stderr.isatty():
                print(
                    f"\r{mapping.name}: {count} checks ({report.law})".ljust(78)[:78],
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
            if report.failure is not None:
                failures[report.law] += 1
                details.append(f"  {report.law} ({report.setting}): {report.failure}")
        if sys.stderr.isatty():
            print("\r" + " " * 78 + "\r", end="", file=sys.stderr)
        verdict = "ok" if not failures else f"{failures.total()} BROKEN"
        print(f"{mapping.name:<16} {count:>4} checks  {time.perf_counter() - start:>6.1f} s  {verdict}", flush=True)
        for law, reason in mapping.exempt.items():
            print(f"  exempt from {law}: {reason}")
        print(*details, sep="\n", end="\n" if details else "")
        broken += bool(failures)
    print(f"{len(chosen) - broken} of {len(chosen)} mappings obey every law")
    return 1 if broken else 0
