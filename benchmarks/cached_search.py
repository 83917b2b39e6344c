"""Beam search of an encoder-decoder Transformer with and without a cache: tokens a second, and memory.

    python benchmarks/cached_search.py --output 1 --output 1.5

Weights are random, and no sequence ends before the greatest length. Without a cache the sources are encoded once, too,
but each step runs the decoder on whole prefixes. Both searches in one process, in turn; medians. Memory is that of the
cache at its largest, and what the process grows by. Where others use the machine, times of processors say more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tsallis.cli.timing import memory_of
from tsallis.decoding import Decoded, beam_search
from tsallis.nn import TransformerSeq2Seq
from tsallis.nn.seq2seq import PADDING

VOCABULARY = 1000


def built(arguments: argparse.Namespace, output: float) -> tuple[TransformerSeq2Seq, Tensor]:
    """A model that is in no hurry to end, and sources of about 30 tokens."""
    torch.manual_seed(0)
    model = TransformerSeq2Seq(
        VOCABULARY, width=256, layers=4, heads=4, feedforward=1024, attention_alpha=arguments.attention,
        output_alpha=output,
    ).eval()  # fmt: skip
    with torch.no_grad():
        assert model.output.bias is not None
        model.output.bias[model.eos] = -100.0
    lengths = torch.randint(25, 36, (arguments.batch, 1))
    source = torch.randint(1, VOCABULARY, (arguments.batch, 35))
    return model, source.masked_fill(torch.arange(35) >= lengths, PADDING)


class Search:
    """A search, and what its steps took."""

    def __init__(self, model: TransformerSeq2Seq, source: Tensor, cached: bool, arguments: argparse.Namespace) -> None:
        self.model, self.source, self.arguments = model, source, arguments
        self.step = self.kept if cached else self.again
        self.cached, self.inside, self.largest = cached, 0.0, 0

    @torch.no_grad()
    def run(self, max_rows: int | None = None) -> Decoded:
        begin = time.perf_counter()
        start, state = self.model.start(self.source)
        self.inside += time.perf_counter() - begin
        if not self.cached:
            ignored = self.source < 0
            state = {"memory": self.model.encoded(self.source), "ignored": ignored, "prefix": start[:, None][:, :0]}
        return beam_search(
            self.step, start, state, eos=self.model.eos, beam=self.arguments.beam,
            max_length=self.arguments.tokens, max_rows=max_rows,
        )  # fmt: skip

    def kept(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        begin = time.perf_counter()
        found = self.model.step(tokens, state)
        self.inside += time.perf_counter() - begin
        self.largest = max(self.largest, found[1].bytes)
        return found

    def again(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        begin = time.perf_counter()
        prefix = torch.cat([state["prefix"], tokens[:, None]], 1)
        hidden = self.model.decoded(state["memory"], state["ignored"], prefix)[:, -1]
        scores = self.model.log_probs(self.model.output.scores(hidden))
        self.inside += time.perf_counter() - begin
        return scores, {**state, "prefix": prefix}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", action="append", type=float, help="alpha of the output")
    parser.add_argument("--attention", default=1.5, type=lambda x: x if x == "learn" else float(x))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    made = arguments.batch * arguments.tokens
    for output in arguments.output or (1.0, 1.5):
        model, source = built(arguments, output)
        searches = {cached: Search(model, source, cached, arguments) for cached in (True, False)}
        times: dict[bool, list[float]] = {True: [], False: []}
        processor: dict[bool, list[float]] = {True: [], False: []}
        found: dict[bool, Decoded] = {}
        for search in searches.values():
            # Kernels are loaded.
            Search(model, source[:2], search.cached, argparse.Namespace(beam=2, tokens=3)).run()
        for _ in range(arguments.rounds):
            for cached, search in searches.items():
                begin, before = time.perf_counter(), time.process_time()
                found[cached] = search.run()
                times[cached].append(time.perf_counter() - begin)
                processor[cached].append(time.process_time() - before)
        rows = arguments.batch * (1 + arguments.beam * (arguments.tokens - 1))
        print(f"output alpha {output:g}, attention {arguments.attention}; all rows in use:"
              f" {found[True].rows == found[False].rows == rows}")  # fmt: skip
        for cached, seconds in times.items():
            median, of = statistics.median(seconds), statistics.median(processor[cached])
            outside = 1 - searches[cached].inside / sum(seconds)
            print(
                f"  {'cached' if cached else 'uncached':10}{made / median:10.1f} tokens/s{median:9.2f} s,"
                f"{of:9.2f} s of processors; {100 * outside:.1f} % outside the model", flush=True,
            )  # fmt: skip
        ratio, of_processors = (statistics.median(x[False]) / statistics.median(x[True]) for x in (times, processor))
        print(f"  ratio {ratio:.2f}, of processors {of_processors:.2f}", flush=True)
        search, limits = searches[True], [None, 8 * arguments.beam, arguments.beam]
        for max_rows in limits:
            search.largest = 0
            grown = memory_of(partial(search.run, max_rows), torch.device("cpu")) or 0
            print(
                f"  max_rows {max_rows}: cache {search.largest / 2**20:.1f} MB, process {grown / 2**20:.0f} MB more",
                flush=True,
            )


if __name__ == "__main__":
    main()
