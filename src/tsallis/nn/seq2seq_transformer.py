"""An encoder-decoder Transformer whose heads choose their own sparsity."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..core.errors import ParameterError
from .alpha import AlphaLike
from .attention import MultiheadAttention, TransformerEncoderLayer
from .dropout import Dropout
from .seq2seq import Seq2Seq, embedded
from .seq2seq_cache import Cache, Memory, room


class TransformerSeq2Seq(Seq2Seq):
    """A Transformer with normalisation before each block and sinusoidal positions.

    A search (`ts.decoding`) runs it on one token of each prefix: keys and values of the others are kept, each once for
    all prefixes that have the token in common, those of the source once for a sentence. Steps have no gradient.

    Args:
        source_vocabulary, target_vocabulary, width, dropout, output_alpha, label_smoothing, eos: as in `Seq2Seq`.
        layers: of the encoder and of the decoder.
        heads: of each attention; they divide the width.
        feedforward: width inside the layers.
        attention_alpha: of all attention, as in `MultiheadAttention`: "learn" for one of each head.

    Raises:
        ParameterError: no layer, a width that is odd or no multiple of the heads, eos outside a vocabulary, an alpha
            or label_smoothing outside its range, an output_alpha that is learned.

    Example:
        >>> import torch, tsallis as ts
        >>> model = ts.nn.TransformerSeq2Seq(9, width=8, layers=1, heads=2, feedforward=16, attention_alpha="learn")
        >>> source, target = torch.tensor([[3, 4, 0], [5, 0, -1]]), torch.tensor([[6, 0], [7, 0]])
        >>> model(source, target).shape
        torch.Size([2, 2, 9])

    References:
        correia2019adaptively
        vaswani2017attention
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int | None = None,
        *,
        width: int = 256,
        layers: int = 3,
        heads: int = 4,
        feedforward: int = 1024,
        dropout: float = 0.1,
        attention_alpha: AlphaLike = 1.5,
        output_alpha: float = 1.0,
        label_smoothing: float = 0.0,
        eos: int = 0,
    ) -> None:
        super().__init__(source_vocabulary, target_vocabulary, width, dropout, output_alpha, label_smoothing, eos)
        if width % 2 or layers < 1 or heads < 1 or width % heads:
            raise ParameterError(
                f"width = {width}, heads = {heads}, layers = {layers}",
                "an even width that is a multiple of the heads, and at least one layer", "Change them",
            )  # fmt: skip
        self.encoder = nn.ModuleList(
            TransformerEncoderLayer(
                width, heads, feedforward, dropout, batch_first=True, norm_first=True, alpha=attention_alpha
            )
            for _ in range(layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(width, heads, feedforward, dropout, attention_alpha) for _ in range(layers)
        )
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def hidden(self, source: Tensor, prefix: Tensor) -> Tensor:
        return self.decoded(self.encoded(source), source < 0, prefix)

    def decoded(self, memory: Tensor, ignored: Tensor, prefix: Tensor) -> Tensor:
        """`hidden`, given states (B, S, width) of the encoder, and where those are padding (B, S)."""
        return self.decoder_norm(self._attended(memory, ignored, prefix)[0])

    def _aligned(self, source: Tensor, prefix: Tensor) -> Tensor:
        _, weights = self._attended(self.encoded(source), source < 0, prefix, need_weights=True)
        return torch.stack(weights).mean(0)

    def _attended(
        self, memory: Tensor, ignored: Tensor, prefix: Tensor, *, need_weights: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """States after the last layer, and weights (B, T, S) of the memory in each."""
        x, weights = self._placed(embedded(self.target, prefix), 0), []
        for layer in self._layers():
            x, seen = layer(x, memory, ignored, need_weights)
            weights.append(seen)
        return x, weights

    def _start(self, source: Tensor) -> Cache:
        memory = self.encoded(source)
        keys = [layer.cross_attention.projected_memory(memory) for layer in self._layers()]
        return Cache.before_all(Memory(keys, source >= 0))

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        return super().step(tokens, state)

    def _step(self, tokens: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        x, state = self._placed(embedded(self.target, tokens)[:, None], state.length).squeeze(1), state.longer()
        for i, layer in enumerate(self._layers()):
            x = layer.step(x, state, i)
        return self.decoder_norm(x), state

    def _kept(self, beam: int, max_length: int, source_length: int) -> int:
        return 2 * len(self.decoder) * self.width * (source_length + room(beam * max_length, beam))

    def _layers(self) -> list[DecoderLayer]:
        return list(self.decoder)  # pyright: ignore[reportReturnType]

    def encoded(self, source: Tensor) -> Tensor:
        """States (B, S, width) of the encoder."""
        x, ignored = self._placed(embedded(self.source, source), 0), source < 0
        for layer in self.encoder:
            x = layer(x, src_key_padding_mask=ignored)
        return self.encoder_norm(x)

    def _placed(self, x: Tensor, first: int) -> Tensor:
        """Embeddings (B, N, width) of one length with what their positions, from the first on, add."""
        return self.dropout(x * math.sqrt(self.width) + positions(first, x.shape[1], self.width).to(x))


class DecoderLayer(nn.Module):
    """Attention to the prefix, attention to the memory, and a feed-forward block; each is added to what came in."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, alpha: AlphaLike) -> None:
        super().__init__()
        self.self_attention, self.cross_attention = (
            MultiheadAttention(width, heads, dropout, batch_first=True, alpha=alpha) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(), Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Tensor, ignored: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """States (B, T, width) of prefixes to those of the next layer; ignored (B, S) is where memory is padding. With
        need_weights, those of the memory (B, T, S) too, mean over heads.
        """
        y = self.norms[0](x)
        seen, _ = self.self_attention(y, y, y, need_weights=False, is_causal=True)
        x = x + self.dropout(seen)
        seen, weights = self.cross_attention(self.norms[1](x), memory, memory, ignored, need_weights)
        return self._finished(x + self.dropout(seen)), weights

    def step(self, x: Tensor, state: Cache, layer: int) -> Tensor:
        """The same for the last tokens (R, width) of prefixes; their keys and values are written into the state."""
        query, key, value = self.self_attention.projected(self.norms[0](x)[:, None])
        keys, values = state.written(layer, key, value)
        x = x + self._attended(self.self_attention, state, query, keys, values, state.ancestors)
        query = self.cross_attention.projected_query(self.norms[1](x)[:, None])
        memory = state.memory
        x = x + self._attended(self.cross_attention, state, query, *memory.keys[layer], memory.keep[:, None, None])
        return self._finished(x)

    def _attended(
        self, attention: MultiheadAttention, state: Cache, query: Tensor, keys: Tensor, values: Tensor, keep: Tensor
    ) -> Tensor:
        """Output (R, width) of queries (R, H, 1, d) that attend to keys of their groups."""
        return attention.out_proj(state.grid.take(attention.averages(state.heads(query), keys, values, keep)))

    def _finished(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.feedforward(self.norms[2](x)))


def positions(first: int, count: int, width: int) -> Tensor:
    """Sines and cosines (count, width) of places from the first on (Vaswani et al., 2017)."""
    places = torch.arange(first, first + count, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.cat([(places * rates).sin(), (places * rates).cos()], 1)
