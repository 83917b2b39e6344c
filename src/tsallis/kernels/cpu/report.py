"""What `tsallis doctor` says about these kernels."""

from __future__ import annotations

import numba

from .compiler import PACKS, compiled
from .threads import reason_against, team


def _probe() -> None:
    """Something to compile, so that numba looks for a place to keep it."""


def report() -> list[str]:
    """One line each on the compiler, its cache, threads and vectors."""
    place = getattr(compiled(_probe)._cache, "cache_path", None)
    shared = team()
    return [
        f"CPU kernels: numba {numba.__version__}",
        f"  machine code: kept in {place}"
        if place
        else "  machine code: not kept, as no folder for it can be written; compiled anew in every process",
        f"  threads: shared with torch ({shared.library})"
        if shared
        else f"  threads: one thread serves, since {reason_against()}",
        f"  entries of the support are moved together {'by vectors' if PACKS else 'one by one, without AVX-512'}",
    ]
