"""``tsallis bench``: suites of times beside what they replace, interleaved in one process, medians and quartiles."""

from __future__ import annotations

import argparse
from importlib import import_module

# Each is a module ``bench_<suite>`` with `describe(parser)` and `run(arguments) -> exit status`.
SUITES = {
    "mappings": "mappings beside torch.softmax and the entmax package",
    "attention": "entmax_attention beside scaled_dot_product_attention",
    "losses": "losses beside cross_entropy, and the sparse output layer beside a linear layer with it",
    "structured": "sparsemap over structures by kernels beside its reference, item by item",
}


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the suites and their options."""
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    for name, summary in SUITES.items():
        suite = suites.add_parser(name, help=summary, description=summary.capitalize() + ".")
        import_module(f".bench_{name}", __package__).describe(suite)


def run(arguments: argparse.Namespace) -> int:
    """Run one suite."""
    return import_module(f".bench_{arguments.suite}", __package__).run(arguments)
