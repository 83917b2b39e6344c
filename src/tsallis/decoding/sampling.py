"""Draws from the untruncated distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .steps import Hypothesis, State, Step, advance, check_search, check_start, select

# Where supports are so much smaller than the vocabulary, draws are made among those alone.
FEW = 4


@torch.no_grad()
def sample(
    step: Step,
    start: Tensor,
    state: State = None,
    *,
    eos: int,
    max_length: int,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Draw sequences from the model, with no temperature, top-k or nucleus: a sparse mapping has no tail to cut.

    Args:
        step, start, state, eos, max_length: as in `beam_search`.
        samples: draws of each example.
        generator: of the random numbers, on the device of start.

    Returns:
        The draws of each example. One that reached max_length, or that the model does not let go on, is not finished.

    Raises:
        ParameterError: an argument is out of its range, or the state cannot be indexed.
        ShapeError: start or what step returns has another shape.
        NumericalError: step returns NaN, or probabilities that add up to more than 1.

    Differentiability:
        None: runs without gradients.

    Complexity:
        At most max_length calls of step on at most samples * B rows, O(V) each.

    Example:
        >>> import torch, tsallis as ts
        >>> step = lambda tokens, state: (ts.sparsemax(torch.tensor([[0.0, 3.0], [9.0, 0.0]])[tokens]).log(), state)
        >>> ts.decoding.sample(step, torch.tensor([0]), eos=0, max_length=9)[0][0].tokens
        (1, 0)
    """
    eos = check_search(eos, max_length, samples=samples)
    check_start(start, state)
    rows = torch.arange(start.shape[0], device=start.device).repeat_interleave(samples)
    tokens = start
    live = torch.arange(rows.shape[0], device=start.device)
    drawn: list[list[int]] = [[] for _ in range(rows.shape[0])]
    log_probs = torch.zeros(rows.shape[0], dtype=torch.float64, device=start.device)
    for length in range(max_length):
        if not live.shape[0]:
            break
        scores, state, _ = advance(step, tokens, state, eos)
        if length == 0:
            # All draws of an example begin with one row.
            scores, state = scores[rows], select(state, rows)
        tokens, added = _draw(scores, generator)
        alive = added > -math.inf
        log_probs[live] += added.where(alive, 0.0)
        for place, token, possible in zip(live.tolist(), tokens.tolist(), alive.tolist(), strict=True):
            if possible:
                drawn[place].append(token)
        going = (alive & (tokens != eos)).nonzero().squeeze(1)
        tokens, live, state = tokens[going], live[going], select(state, going)
    hypotheses = [
        Hypothesis(tuple(tokens), log_prob, log_prob, finished=tokens[-1:] == [eos])
        for tokens, log_prob in zip(drawn, log_probs.tolist(), strict=True)
    ]
    return [hypotheses[at : at + samples] for at in range(0, len(hypotheses), samples)]


def _draw(scores: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A token (R) of each row of log-probabilities (R, V), and its own, in float64; -inf where all are."""
    support = int((scores > -math.inf).sum(1).amax())
    tokens = None
    if FEW * support <= scores.shape[1]:
        # Random numbers for the whole vocabulary would take most of the time.
        scores, tokens = scores.topk(max(support, 1))
    scores = scores.double()
    # The first of exponential waiting times with rates p: an event of rate zero never comes.
    waiting = torch.empty_like(scores).exponential_(generator=generator).clamp_min(1e-300)
    place = (scores - waiting.log()).argmax(1, keepdim=True)
    chosen = place if tokens is None else tokens.gather(1, place)
    return chosen[:, 0], scores.gather(1, place)[:, 0]
