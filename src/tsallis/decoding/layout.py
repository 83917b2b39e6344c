"""Where the branches of a tree are drawn, and what is written at them."""

from __future__ import annotations

import heapq
import textwrap
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from .trees import Tree

# Lines that the label of a branch is wrapped into at most.
_LINES = 12


@dataclass(eq=False)
class Branch:
    """Tokens until the next branching, and where they are drawn.

    Attributes:
        label: lines of text.
        probability: of all sequences that begin so.
        parent: what it follows.
        children: what follows.
        x: where it begins, in characters.
        y: where its line is, in lines of text, downwards.
        height: of the strip of the branch and all that follows.
    """

    label: list[str]
    probability: float
    parent: Branch | None
    children: list[Branch] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0
    height: float = 0.0

    @property
    def number(self) -> str:
        """The probability as text."""
        return f"{self.probability:.4f}"

    @property
    def length(self) -> int:
        """In characters."""
        return max(map(_columns, [*self.label, self.number]))


def branches_of(tree: Tree, name: Callable[[int], str], leaves: int, width: int) -> tuple[list[Branch], list[Tree]]:
    """Branches that lead to the most probable leaves, parents before children, and the other leaves."""
    # A stack, for sequences may be longer than Python's limit on recursion.
    parents: dict[int, Tree | None] = {id(tree): None}
    ends: list[Tree] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if not node.children:
            ends.append(node)
        for child in node.children.values():
            parents[id(child)] = node
            stack.append(child)
    best = heapq.nlargest(leaves, ends, key=lambda leaf: leaf.probability)
    kept: set[int] = set()
    for leaf in best:
        node: Tree | None = leaf
        while node is not None and id(node) not in kept:
            kept.add(id(node))
            node = parents[id(node)]
    shown = {id(leaf) for leaf in best}
    branches: list[Branch] = []
    todo: list[tuple[Tree, list[str], Branch | None]] = [(tree, [], None)]
    while todo:
        node, names, parent = todo.pop()
        while len(node.children) == 1:
            ((token, node),) = node.children.items()
            names.append(name(token))
        branch = Branch(_wrapped("".join(names), width), node.probability, parent)
        branches.append(branch)
        if parent is not None:
            parent.children.append(branch)
        following = [(child, [name(token)], branch) for token, child in node.children.items() if id(child) in kept]
        todo.extend(reversed(following))
    return branches, [leaf for leaf in ends if id(leaf) not in shown]


def place(branches: list[Branch]) -> None:
    """Give each branch a strip that its own text and those of its children fit into."""
    for branch in branches:
        branch.x = 0.0 if branch.parent is None else branch.parent.x + branch.parent.length + 3
    for branch in reversed(branches):
        # Its lines, its number, and room between it and the next.
        branch.height = max(len(branch.label) + 1.9, sum(child.height for child in branch.children))
    tops = {id(branches[0]): 0.0}
    for branch in branches:
        top = tops[id(branch)]
        branch.y = top + (branch.height + len(branch.label) - 0.9) / 2
        at = top + (branch.height - sum(child.height for child in branch.children)) / 2
        for child in branch.children:
            tops[id(child)] = at
            at += child.height


def _wrapped(label: str, width: int) -> list[str]:
    label = _printable(label)
    if not label.strip():
        return [label.replace(" ", "␣")] if label else []
    return textwrap.wrap(label.lstrip(), width, max_lines=_LINES, placeholder=" …"[-width:])


def shown_as(token: str, length: int) -> str:
    """A token as a label: spaces are visible, and a long one is cut."""
    token = _printable(token).replace(" ", "␣")
    return token if len(token) <= length else token[: length - 1] + "…"


def _printable(text: str) -> str:
    """The text without characters that have no picture, such as an image in XML may not hold."""
    odd = ("Cc", "Cs", "Zl", "Zp", "Cn", "Co")
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in odd else c for c in text)


def _columns(text: str) -> int:
    """Characters as wide as the text: letters of the Far East are twice as wide, combining ones have no width."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
