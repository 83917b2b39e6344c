"""``tsallis list``: the recipes and their presets."""

from __future__ import annotations

import argparse
import textwrap

from .. import recipes


def describe(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(arguments: argparse.Namespace) -> int:
    """Print one paragraph a recipe."""
    for name in recipes.names():
        print(f"{name:<14}presets: {', '.join(recipes.presets(name))}")
        print(textwrap.indent(textwrap.fill(recipes.summary(name), 64), " " * 14))
    print("\nRun one: tsallis run RECIPE [--preset PRESET]; its options: tsallis run RECIPE --help")
    if absent := recipes.missing():
        print(f"Not installed: {', '.join(absent)}. First: pip install 'tsallis[recipes]'")
    return 0
