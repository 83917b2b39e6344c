"""What encoder-decoders have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import is_integer
from ..decoding import log_entmax
from ..losses.targets import fixed_alpha, smoothing_amount
from .dropout import Dropout
from .losses import LinearEntmaxLoss

# Where sequences of a batch are over: no token has this number.
PADDING = -1


class Seq2Seq(nn.Module, ABC):
    """An encoder-decoder over tokens 0 to V - 1, one of which ends a sequence and begins a target.

    Behind their ends sources and targets are filled with `PADDING`, -1, which is no token: it is never attended to and
    never predicted. A target without its end is no target: sequences of both sides carry eos. On the CPU, numbers that
    are no tokens raise a ParameterError; on other devices they are not looked at.

    Args:
        source_vocabulary: tokens of the source.
        target_vocabulary: tokens of the target; None where both sides share tokens, embeddings and output layer.
        width: of embeddings and hidden states.
        dropout: share of inputs and states that training drops.
        output_alpha: of the output's entmax, a number above 0: 1 is softmax with cross-entropy, 2 sparsemax with its
            loss.
        label_smoothing: of the loss, as in `ts.entmax_loss`.
        eos: the token that ends a sequence.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int | None,
        width: int,
        dropout: float,
        output_alpha: float,
        label_smoothing: float,
        eos: int,
    ) -> None:
        super().__init__()
        words = source_vocabulary if target_vocabulary is None else target_vocabulary
        if not is_integer(eos) or not 0 <= eos < min(source_vocabulary, words):
            raise ParameterError(
                f"eos = {eos}",
                f"a token of both vocabularies, below {min(source_vocabulary, words)}",
                "Give the end of a sequence one number on both sides",
            )
        self.eos, self.width, self.output_alpha = int(eos), width, fixed_alpha(output_alpha)
        self.target = nn.Embedding(words, width)
        nn.init.normal_(self.target.weight, std=width**-0.5)
        shared = target_vocabulary is None
        self.source = self.target if shared else nn.Embedding(source_vocabulary, width)
        self.output = LinearEntmaxLoss(
            width, words, self.output_alpha, bias=True, ignore_index=PADDING,
            weight=cast(nn.Parameter, self.target.weight) if shared else None,
            label_smoothing=smoothing_amount(label_smoothing),
        )  # fmt: skip
        self.dropout = Dropout(dropout)

    @abstractmethod
    def hidden(self, source: Tensor, prefix: Tensor) -> Tensor:
        """(B, T, width) states from which the token after each of the prefix (B, T) is predicted."""

    @abstractmethod
    def _start(self, source: Tensor) -> Any:
        """The state before the first token of a target."""

    @abstractmethod
    def _step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(R, width) states from which the next token is predicted, and the state after the given ones."""

    @abstractmethod
    def _aligned(self, source: Tensor, prefix: Tensor) -> Tensor:
        """(B, T, S) weights of the source along a prefix, mean over heads."""

    @abstractmethod
    def _kept(self, beam: int, max_length: int, source_length: int) -> int:
        """How many numbers a state holds of a beam for one source, at most."""

    @torch.no_grad()
    def align(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, T, S) how much each token of the target attended to each of the source when it was predicted; zeros in
        padding. Several heads are averaged. Nothing is dropped, in training neither.
        """
        source, prefix = self._both(source, target)
        with evaluating(self):
            weights = self._aligned(source, prefix)
        return weights.masked_fill((target < 0)[:, :, None], 0.0)

    def prefix(self, target: Tensor) -> Tensor:
        """The tokens that those of a target follow: eos, and all but the last."""
        first = torch.full_like(target[:, :1], self.eos)
        return torch.cat([first, target[:, :-1]], 1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Scores (B, T, V) of each token of the target (B, T), given the source (B, S) and the tokens before it."""
        return self.output.scores(self.hidden(*self._both(source, target)))

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean over the tokens of the target of their `ts.entmax_loss`, a scalar."""
        return self.output(self.hidden(*self._both(source, target)), target)

    def log_probs(self, scores: Tensor) -> Tensor:
        """Natural logarithms of the output's probabilities, -inf for exact zeros only; half precision is widened."""
        return log_entmax(scores, self.output_alpha)

    @torch.no_grad()
    def start(self, source: Tensor) -> tuple[Tensor, Any]:
        """The token that targets begin after (B,), and the state before it: what searches and `step` start from.

        Raises:
            ParameterError: a model in training, whose dropout makes other scores each time; numbers that are no tokens.
            ShapeError: a source that is not (B, N).
        """
        if self.training:
            raise ParameterError(
                f"a {type(self).__name__} in training", "one in evaluation: dropout makes other scores each time",
                "Call model.eval() before",
            )  # fmt: skip
        return source.new_full((len(source),), self.eos), self._start(self._checked(source, "source"))

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step of a search (`ts.decoding`): log-probabilities (R, V) of what follows the tokens (R,), and the state
        after them.
        """
        hidden, state = self._step(tokens, state)
        return self.log_probs(self.output.scores(hidden)), state

    def max_rows(self, limit: int, *, beam: int, max_length: int, source_length: int) -> int:
        """How many prefixes a beam search may run at once so that what it keeps of them stays below a limit.

        Args:
            limit: bytes of states, of keys and values for example, while they are copied, too. Not counted is what
                `start` returned for all sources, nor what a step computes between.
            beam, max_length: of the search.
            source_length: tokens of a source at most.

        Returns:
            `max_rows` of `ts.decoding.beam_search`, a multiple of the beam. What is kept is mostly less: a source is
            kept once for all of its prefixes, and by a Transformer so are tokens that prefixes have in common.

        Raises:
            ParameterError: the limit is too low for one sequence.

        Example:
            >>> import tsallis as ts
            >>> model = ts.nn.TransformerSeq2Seq(9, width=8, layers=1, heads=2, feedforward=16)
            >>> model.max_rows(2**20, beam=5, max_length=60, source_length=30)
            85
        """
        each = 2 * self._kept(beam, max_length, source_length) * self.target.weight.element_size()
        if limit < each:
            raise ParameterError(f"limit = {limit}", f"the {each} bytes of one beam or more", "Raise it, or lower beam")
        return limit // each * beam

    def _both(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        self._checked(source, "source")
        self._checked(target, "target")
        if len(source) != len(target):
            raise ShapeError(f"{len(source)} sources, {len(target)} targets", "one target for each", "Pass pairs")
        return source, self.prefix(target)

    def _checked(self, tokens: Tensor, name: Literal["source", "target"]) -> Tensor:
        if tokens.dim() != 2 or tokens.dtype != torch.long or not tokens.numel():
            raise ShapeError(
                f"{name} of shape {tuple(tokens.shape)} and type {tokens.dtype}", "long tokens (B, N), not none",
                f"Pad with {PADDING} and stack",
            )  # fmt: skip
        if tokens.device.type != "cpu":
            # To read what is on another device is to wait for it.
            return tokens
        words, (low, high) = getattr(self, name).num_embeddings, tokens.aminmax()
        if low < PADDING or high >= words:
            raise ParameterError(
                f"{name} with numbers from {int(low)} to {int(high)}", f"tokens 0 to {words - 1}, and {PADDING} behind",
                "Encode it by the vocabulary that the model was made for",
            )  # fmt: skip
        if bool(((tokens[:, 1:] >= 0) & (tokens[:, :-1] < 0)).any()):
            raise ParameterError(f"{name} with tokens behind padding", f"{PADDING} at ends only", "Move it there")
        return tokens


def embedded(table: nn.Embedding, tokens: Tensor) -> Tensor:
    """Embeddings of tokens; those of padding are of some token, and nothing depends on them."""
    return table(tokens.clamp_min(0))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation, then each in its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
