"""An encoder-decoder of LSTMs with sparse attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..core.errors import ParameterError
from ..mappings import entmax
from .alpha import AlphaLike, alpha_module
from .mapping import ParameterHolder
from .seq2seq import Seq2Seq, embedded
from .seq2seq_grid import Grid


@dataclass(frozen=True)
class State:
    """What a decoder knows of R prefixes, in groups of one source each.

    Attributes:
        memory: (G, S, width) states of the encoder.
        keep: (G, S) False where sources are padding.
        grid: the groups of prefixes.
        h, c: (R, layers, width) of the decoder.
        feed: (R, width) what the last token was predicted from.
    """

    memory: Tensor
    keep: Tensor
    grid: Grid
    h: Tensor
    c: Tensor
    feed: Tensor

    def select(self, rows: Tensor) -> State:
        """The state of the given rows, which may repeat. Groups without any are left out once they are half of all."""
        grid, (h, c, feed) = self.grid.select(rows), (x.index_select(0, rows) for x in (self.h, self.c, self.feed))
        chosen = replace(self, grid=grid, h=h, c=c, feed=feed)
        if not grid.half_empty:
            return chosen
        present, group = grid.group.unique(return_inverse=True)
        memory, keep = (x.index_select(0, present) for x in (self.memory, self.keep))
        return replace(chosen, memory=memory, keep=keep, grid=Grid(group, len(present)))

    def join(self, others: Sequence[State]) -> State:
        """This state's rows followed by those of the others."""
        every = (self, *others)
        length = max(x.keep.shape[1] for x in every)
        memory = torch.cat([functional.pad(x.memory, (0, 0, 0, length - x.memory.shape[1])) for x in every])
        keep = torch.cat([functional.pad(x.keep, (0, length - x.keep.shape[1])) for x in every])
        h, c, feed = (torch.cat(part) for part in zip(*((x.h, x.c, x.feed) for x in every), strict=True))
        return State(memory, keep, Grid.joined([x.grid for x in every]), h, c, feed)


class LSTMSeq2Seq(Seq2Seq, ParameterHolder):
    r"""A bidirectional LSTM encoder, and an LSTM decoder with attention and input feeding.

    With $h_t$ the decoder's state and $m_s$ those of the encoder, attention is
    $p_t = \operatorname{entmax}_\alpha(h_t^\top A\, m_s)$, what is predicted from
    $\tilde h_t = \tanh(B [h_t; \sum_s p_{ts} m_s])$, and the next step reads $\tilde h_t$ beside the token.

    Args:
        source_vocabulary, target_vocabulary, width, dropout, output_alpha, label_smoothing, eos: as in `Seq2Seq`; the
            width is even.
        layers: of the encoder and of the decoder.
        attention_alpha: of attention: a number, a tensor, a module such as `ts.nn.Alpha`, or "learn" for one of these
            in (1, 2), from 1.5.

    Raises:
        ParameterError: an odd width, no layer, eos outside a vocabulary, an alpha or label_smoothing outside its range,
            an output_alpha that is learned.

    Example:
        >>> import torch, tsallis as ts
        >>> model = ts.nn.LSTMSeq2Seq(9, 7, width=8, layers=1).eval()
        >>> source = torch.tensor([[3, 4, 0], [5, 0, -1]])
        >>> found = ts.decoding.beam_search(model.step, *model.start(source), eos=model.eos, beam=2, max_length=5)
        >>> len(found.hypotheses)
        2

    References:
        luong2015effective
        peters2019sparse
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int | None = None,
        *,
        width: int = 128,
        layers: int = 2,
        dropout: float = 0.3,
        attention_alpha: AlphaLike = 1.5,
        output_alpha: float = 1.5,
        label_smoothing: float = 0.0,
        eos: int = 0,
    ) -> None:
        super().__init__(source_vocabulary, target_vocabulary, width, dropout, output_alpha, label_smoothing, eos)
        if width % 2 or layers < 1:
            raise ParameterError(
                f"width = {width}, layers = {layers}", "an even width and at least one layer", "Change them"
            )
        self.hold({"attention_alpha": alpha_module(attention_alpha, ())})
        between = dropout if layers > 1 else 0.0
        self.encoder = nn.LSTM(width, width // 2, layers, batch_first=True, dropout=between, bidirectional=True)
        self.cells = nn.ModuleList(nn.LSTMCell(2 * width if i == 0 else width, width) for i in range(layers))
        self.query, self.combine = nn.Linear(width, width, bias=False), nn.Linear(2 * width, width)

    def hidden(self, source: Tensor, prefix: Tensor) -> Tensor:
        return self._teach(source, prefix)[0]

    def _aligned(self, source: Tensor, prefix: Tensor) -> Tensor:
        return self._teach(source, prefix)[1]

    def _start(self, source: Tensor) -> State:
        return self._encoded(source)

    def _kept(self, beam: int, max_length: int, source_length: int) -> int:
        return self.width * (source_length + beam * (2 * len(self.cells) + 1))

    def _step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return self._next(embedded(self.target, tokens), state)[:2]

    def _encoded(self, source: Tensor) -> State:
        keep = source >= 0
        # A source of padding alone has nothing to read: its one row of memory is never attended to.
        lengths = keep.sum(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(
            self.dropout(embedded(self.source, source)), lengths, batch_first=True, enforce_sorted=False
        )
        states, (h, c) = self.encoder(packed)
        memory, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        # (layers * 2, B, width / 2) to one row an example: (B, layers, width).
        h, c = (x.unflatten(0, (-1, 2)).permute(2, 0, 1, 3).flatten(2) for x in (h, c))
        return State(memory, keep, Grid.apart(len(source), source.device), h, c, torch.zeros_like(h[:, 0]))

    def _teach(self, source: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T, width) and attention (B, T, S) along given prefixes."""
        state = self._encoded(source)
        inputs = self.dropout(embedded(self.target, prefix))
        states, weights = [], []
        for token in inputs.unbind(1):
            out, state, p = self._next(token, state)
            states.append(out)
            weights.append(p)
        return torch.stack(states, 1), torch.stack(weights, 1)

    def _next(self, token: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        """The state after embedded tokens (R, width), what is predicted from, and attention (R, S)."""
        memory, grid, x = state.memory, state.grid, torch.cat([token, state.feed], 1)
        h, c = [], []
        for i, cell in enumerate(self.cells):
            x, cells = cell(x if i == 0 else self.dropout(x), (state.h[:, i], state.c[:, i]))
            h.append(x)
            c.append(cells)
        # Of each group what its source was read as, and its queries: (G, W, S).
        scores = (memory @ grid.put(self.query(x)).transpose(1, 2)).transpose(1, 2)
        weights = entmax(scores, self.held()["attention_alpha"], mask=state.keep[:, None])
        context, weights = grid.take(weights @ memory), grid.take(weights)
        out = self.dropout(torch.tanh(self.combine(torch.cat([x, context], 1))))
        return out, replace(state, h=torch.stack(h, 1), c=torch.stack(c, 1), feed=out), weights
