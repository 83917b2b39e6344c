"""Draws from the untruncated distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .steps import Hypothesis, State, Step, advance, check_search, check_start, select


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
        The draws of each example. One that reached max_length ends without eos, one that the model lets not go on ends
        there.

    Raises:
        ParameterError: an argument is out of its range, or the state cannot be indexed.
        ShapeError: start or what step returns has another shape.
        NumericalError: step returns NaN or no log-probabilities.

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
    check_search(eos, max_length, samples=samples)
    check_start(start)
    rows = torch.arange(start.shape[0], device=start.device).repeat_interleave(samples)
    tokens, state = start[rows], select(state, rows)
    live = torch.arange(rows.shape[0], device=start.device)
    drawn: list[list[int]] = [[] for _ in range(rows.shape[0])]
    log_probs = torch.zeros(rows.shape[0], dtype=torch.float64, device=start.device)
    for _ in range(max_length):
        if not live.shape[0]:
            break
        scores, state = advance(step, tokens, state, eos)
        scores = scores.double()
        # The first of exponential waiting times with rates p: an event of rate zero never comes.
        waiting = torch.empty_like(scores).exponential_(generator=generator).clamp_min(1e-300)
        tokens = (scores - waiting.log()).argmax(1)
        alive = scores.amax(1) > -math.inf
        log_probs[live] += scores.gather(1, tokens[:, None])[:, 0].where(alive, 0.0)
        for place, token, possible in zip(live.tolist(), tokens.tolist(), alive.tolist(), strict=True):
            if possible:
                drawn[place].append(token)
        going = (alive & (tokens != eos)).nonzero().squeeze(1)
        tokens, live, state = tokens[going], live[going], select(state, going)
    scored = zip(drawn, log_probs.tolist(), strict=True)
    hypotheses = [Hypothesis(tuple(tokens), log_prob, log_prob) for tokens, log_prob in scored]
    return [hypotheses[at : at + samples] for at in range(0, len(hypotheses), samples)]
