"""The tree of the sequences that a search found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .steps import Hypothesis


@dataclass
class Tree:
    """A prefix of found sequences and what follows it.

    Attributes:
        probability: of all found sequences that begin with the prefix, together.
        children: what follows, by token, the most probable first.
    """

    probability: float = 0.0
    children: dict[int, Tree] = field(default_factory=dict)

    def text(self, name: Callable[[int], str] = str, *, width: int = 100) -> str:
        """Draw the tree, one line for each branch: probability and the tokens until the next branching.

        Args:
            name: of a token.
            width: characters of a line at most; longer ones end with an ellipsis.

        Returns:
            The lines, joined.
        """
        lines: list[str] = []
        # A stack, for sequences may be longer than Python's limit on recursion.
        stack: list[tuple[Tree, str, str, str]] = [(self, "", "", "")]
        while stack:
            tree, label, first, rest = stack.pop()
            while len(tree.children) == 1:
                ((token, tree),) = tree.children.items()
                label += name(token)
            line = f"{first}{tree.probability:.4f} {label}".rstrip()
            lines.append(line if len(line) <= width else line[: width - 1] + "…")
            for place, (token, child) in reversed(list(enumerate(tree.children.items()))):
                last = place == len(tree.children) - 1
                stack.append((child, name(token), rest + ("└ " if last else "├ "), rest + ("  " if last else "│ ")))
        return "\n".join(lines)


def tree(hypotheses: Iterable[Hypothesis]) -> Tree:
    """The tree of sequences: those of an ENUMERATED result are all there are, and its probability is 1 unless the model
    has prefixes that nothing follows.

    Args:
        hypotheses: of one example, as a search or `sample` returns them; each sequence counts once, and draws that are
            not finished do not.

    Returns:
        The empty prefix, with the total probability.

    Example:
        >>> import torch, tsallis as ts
        >>> scores = torch.tensor([[-9.0, 1.0, 0.8], [9.0, 0.0, 0.0], [1.0, 0.6, -9.0]])
        >>> step = lambda tokens, state: (ts.sparsemax(scores[tokens]).log(), state)
        >>> found = ts.decoding.beam_search(step, torch.tensor([0]), eos=0, beam=2, max_length=3)
        >>> print(ts.decoding.tree(found.hypotheses[0]).text("$ab".__getitem__))
        1.0000
        ├ 0.6000 a$
        └ 0.4000 b
          ├ 0.2800 $
          └ 0.1200 a$
    """
    root = Tree()
    known = {hypothesis.tokens: hypothesis.log_prob for hypothesis in hypotheses if hypothesis.finished}
    for tokens, log_prob in sorted(known.items(), key=lambda item: -item[1]):
        probability = math.exp(log_prob)
        node = root
        node.probability += probability
        for token in tokens:
            node = node.children.setdefault(token, Tree())
            node.probability += probability
    stack = [root]
    while stack:
        node = stack.pop()
        node.children = dict(sorted(node.children.items(), key=lambda item: -item[1].probability))
        stack.extend(node.children.values())
    return root
