"""What a run's heads are found to do, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ...nn.alpha import START
from .._shared.files import read_table
from .._shared.runs import Run
from .._shared.tables import Row
from .heads import HEADS, NAMES

# From where on an alpha has moved, and which share of heads the experiment asks for.
MOVED, ASKED = 0.05, 0.25
# Weight from which a head is positional or merging, and difference of weights from which it looks at questions.
POSITIONAL, MERGING, INTERROGATION = 0.8, 0.5, 0.1
Heads = Sequence[dict[str, float]]


def moved(heads: Heads) -> list[bool]:
    """Of each head with a learned alpha, whether that has moved."""
    return [abs(head["alpha"] - START) > MOVED for head in heads if "alpha" in head]


def measures(heads: Heads, learned: bool) -> dict[str, float]:
    """Means over heads, alphas, and the best of each kind of head."""
    found = {
        f"density {name}": 100 * _mean([h["density"] for h in heads if h["type"] == i and "density" in h])
        for i, name in enumerate(NAMES)
    }
    found["disagreement"] = _mean([h["disagreement"] for h in heads if "disagreement" in h])
    alphas = [h["alpha"] for h in heads if "alpha" in h]
    found |= {"alpha, least": min(alphas), "alpha, mean": _mean(alphas), "alpha, most": max(alphas)}
    if learned:
        found["moved"] = 100 * _mean([float(m) for m in moved(heads)])
    for name in ("positional", "merging", "interrogation"):
        # Left out where there was nothing to look at: no word of several pieces, no question, no head that learned.
        if best := _best(candidates(heads, name), name):
            found[name] = 100 * best[name]
    return found


def candidates(heads: Heads, name: str) -> Heads:
    """Heads among which one kind may be found: those for which its weight was measured and that were free to learn it.

    Fixed patterns, which have no alpha, did not learn what they do. Positional heads are none of those that merge: one
    on the token before keeps to words half the time without knowing of them.
    """
    free = [head for head in heads if name in head and "alpha" in head]
    return free if name != "merging" else [head for head in free if head.get("positional", 0.0) < POSITIONAL]


def findings(run: Run) -> list[Row]:
    """Each question of the experiment, and the answer of a run."""
    return answers(read_table(run.folder / HEADS), run.config["attention"] == "learn")


def answers(heads: Heads, learned: bool) -> list[Row]:
    """The same, of a table of heads."""
    rows: list[Row] = []
    if learned:
        far = moved(heads)
        enough = "at least" if sum(far) >= ASKED * len(far) else "less than"
        answer = f"{sum(far)} of {len(far)} heads: {enough} a quarter"
        rows.append({"question": f"Alphas further than {MOVED} from {START}", "answer": answer})
    for i, kind in enumerate(NAMES[:2]):
        rows.append(_of_kind([h for h in heads if h["type"] == i], "positional", POSITIONAL, f"Positional, {kind}"))
    rows.append(_of_kind(heads, "merging", MERGING, "Merging pieces of a word, not positional"))
    rows.append(_of_kind(heads, "interrogation", INTERROGATION, "Looking at the mark of questions"))
    return rows


def _of_kind(heads: Heads, name: str, least: float, question: str) -> Row:
    able = candidates(heads, name)
    best = _best(able, name)
    if best is None:
        measured = any(name in head for head in heads)
        return {"question": question, "answer": "no head that could" if measured else "nothing to look at in the test"}
    count = sum(head[name] >= least for head in able)
    where = f"{NAMES[int(best['type'])]} layer {best['layer']:.0f} head {best['head']:.0f}"
    offset = f" at {best['offset']:+.0f}" if name == "positional" else ""
    verdict = f"{count} of {len(able)} heads from {least:.0%} on" if count else f"absent: none has {least:.0%}"
    return {
        "question": question,
        "answer": f"{verdict}; the best has {best[name]:.1%}{offset}: {where}, alpha {best['alpha']:.2f}",
    }


def _best(heads: Heads, name: str) -> dict[str, float] | None:
    return max(heads, key=lambda head: head[name], default=None)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
