"""What to measure of sequence models whose distributions have zeros, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.errors import ParameterError, ShapeError
from ..core.inputs import widened
from .beam import Decoded
from .certificates import Status
from .steps import State, Step, advance, check_search, check_start


def surprise(p: Float[Tensor, ...], vocabulary: int, epsilon: float) -> Float[Tensor, ...]:
    r"""$-\log \frac{p + \epsilon}{1 + \epsilon V}$, finite also where the model rules the gold token out.

    The exponential of its mean over all tokens is the epsilon-perplexity; with epsilon 0, perplexity.

    Args:
        p: probabilities of gold tokens.
        vocabulary: V, the number of tokens.
        epsilon: added to each probability before they are normalised again; 0 or more; inf makes them uniform.

    Returns:
        Nats, in the shape of p, in float32 at least.

    Raises:
        ParameterError: epsilon is negative or NaN.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.decoding.metrics.surprise(torch.tensor([0.5, 0.0]), 10, 0.01).mean().exp()
        tensor(15.4031)

    References:
        martins2020sparse
    """
    p = widened(p)
    if epsilon == math.inf:
        return torch.full_like(p, math.log(vocabulary))
    if not epsilon >= 0:
        raise ParameterError(f"epsilon = {epsilon}", "0 or more", "Pass a small number, 1e-6 for example")
    return -((p + epsilon) / (1 + epsilon * vocabulary)).log()


def best_epsilon(p: Float[Tensor, ...], vocabulary: int) -> float:
    r"""The epsilon with the smallest epsilon-perplexity.

    Solves $\max_{0 \le \lambda < 1} \sum \log((1 - \lambda) p + \lambda / V)$, which is concave, for
    $\lambda = \epsilon V / (1 + \epsilon V)$ by bisection of the derivative. To be found on validation data.

    Args:
        p: probabilities of gold tokens.
        vocabulary: V, the number of tokens.

    Returns:
        Epsilon; 0 where smoothing does not help, inf where the uniform distribution is best, NaN where p has NaN.

    Example:
        >>> import torch, tsallis as ts
        >>> round(ts.decoding.metrics.best_epsilon(torch.tensor([0.5, 0.5, 0.5, 0.0]), 10), 4)
        0.0455

    References:
        martins2020sparse
    """
    p = p.detach().double().flatten()
    uniform = 1 / vocabulary
    if bool(p.isnan().any()):
        return math.nan

    def rises(weight: float) -> bool:
        mixed = (1 - weight) * p + weight * uniform
        return bool(((uniform - p) / mixed).sum() > 0)

    # A gold token of probability zero makes the derivative at zero infinite.
    if not p.numel() or not (bool((p == 0).any()) or rises(0.0)):
        return 0.0
    low, high = 0.0, 1.0
    if rises(high):
        return math.inf
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rises(middle) else (low, middle)
    return low / (vocabulary * (1 - low))


def sparsemax_score(p: Float[Tensor, "... V"], target: Int[Tensor, ...]) -> Float[Tensor, ...]:
    r"""$p_x + \frac12 (1 - \lVert p \rVert^2)$ in $[0, 1]$: 1 for certainty of the gold token x, about half if uniform.

    Args:
        p: distributions.
        target: gold tokens.

    Returns:
        Scores in the shape of target, in float32 at least.

    References:
        martins2020sparse
    """
    p = widened(p)
    return p.gather(-1, target.unsqueeze(-1)).squeeze(-1) + (1 - p.square().sum(-1)) / 2


def jensen_shannon(p: Float[Tensor, ...]) -> Float[Tensor, ...]:
    r"""Jensen-Shannon divergence, in nats, of a distribution from certainty of the gold token.

    It depends on the probability a of that token only:
    $\frac12 [a \log \frac{2a}{1+a} + (1-a) \log 2 + \log \frac{2}{1+a}]$, from 0 to log 2.

    Args:
        p: probabilities of gold tokens.

    Returns:
        Divergences in the shape of p, in float32 at least.

    Example:
        >>> import torch, tsallis as ts
        >>> ts.decoding.metrics.jensen_shannon(torch.tensor([0.0, 1.0]))
        tensor([0.6931, 0.0000])

    References:
        martins2020sparse
    """
    p = widened(p)
    # The same sum with its logarithms gathered: no log 0 at a = 0, and at a = 1 rounding must not make it negative.
    return ((torch.xlogy(p, p) - (1 + p) * torch.log1p(p)) / 2 + math.log(2)).clamp_min(0)


def repeats(drawn: Int[Tensor, "B T"], gold: Int[Tensor, "B T"], window: int) -> tuple[Tensor, Tensor]:
    """Which drawn tokens occur among the gold tokens before them, and which of them are not the gold token either.

    Args:
        drawn: (B, T) tokens drawn after each gold prefix.
        gold: (B, T).
        window: how many tokens back.

    Returns:
        Two boolean tensors (B, T), whose means are rep and wrep.

    Raises:
        ParameterError: window is not positive.

    Complexity:
        O(B T window) at most, and O(B T) memory.

    References:
        martins2020sparse
    """
    if window < 1:
        raise ParameterError(f"window = {window}", "1 or more", "Pass the number of tokens to look back")
    found = torch.zeros_like(gold, dtype=torch.bool)
    for back in range(1, min(window, gold.shape[1] - 1) + 1):
        found[:, back:] |= drawn[:, back:] == gold[:, :-back]
    return found, found & (drawn != gold)


def calibration_error(confidence: Float[Tensor, ...], right: Bool[Tensor, ...], bins: int = 10) -> float:
    r"""Expected calibration error, $\sum_b \frac{n_b}{n} \lvert \text{accuracy}_b - \text{confidence}_b \rvert$, over
    bins of equal width.

    Args:
        confidence: probabilities of the predicted tokens.
        right: whether they were the gold ones.
        bins: of the interval from 0 to 1.

    Returns:
        The error, NaN of no token.

    Raises:
        ParameterError: bins is not positive.
        ShapeError: not one answer for each confidence.

    References:
        peters2021smoothing
    """
    if confidence.shape != right.shape:
        raise ShapeError(
            f"confidence {tuple(confidence.shape)} and right {tuple(right.shape)}", "one shape", "Pass one of each"
        )
    if bins < 1:
        raise ParameterError(f"bins = {bins}", "1 or more", "Pass the number of bins")
    confidence, hit = confidence.double().flatten(), right.double().flatten()
    place = (confidence * bins).long().clamp(0, bins - 1)
    difference = torch.zeros(bins, dtype=torch.float64, device=hit.device).index_add_(0, place, hit - confidence)
    return difference.abs().sum().item() / hit.numel() if hit.numel() else math.nan


def support_rates(
    p: Float[Tensor, "... V"], target: Int[Tensor, ...], mask: Bool[Tensor, ...] | None = None
) -> dict[str, float]:
    """How many tokens have probability at each place, and how often the gold token is among them.

    For what each place attends to see `tsallis.attention.HeadStatistics`.

    Args:
        p: distributions.
        target: gold tokens.
        mask: True where there is a gold token; others are not read. None for everywhere.

    Returns:
        "support", the mean number of tokens of non-zero probability; "gold", the share of gold tokens with some; and
        "tokens", of how many gold tokens. NaN of no token, or where a distribution has a NaN.

    Raises:
        ShapeError: the shapes do not belong together.

    Complexity:
        O(V) for each token.

    Example:
        >>> import torch, tsallis as ts
        >>> p = ts.sparsemax(torch.tensor([[2.0, 1.5, 0.0], [3.0, 0.0, 0.0]]))
        >>> ts.decoding.metrics.support_rates(p, torch.tensor([1, 2]))
        {'support': 1.5, 'gold': 0.5, 'tokens': 2}
    """
    if p.dim() == 0 or p.shape[:-1] != target.shape or (mask is not None and mask.shape != target.shape):
        given = "" if mask is None else f" and a mask {tuple(mask.shape)}"
        raise ShapeError(
            f"distributions {tuple(p.shape)} for targets {tuple(target.shape)}{given}",
            "distributions (..., V), targets and mask (...)",
            "Pass one target for each distribution",
        )
    if mask is not None:
        p, target = p[mask], target[mask]
    tokens = target.numel()
    if not tokens or bool(p.isnan().any()):
        return {"support": math.nan, "gold": math.nan, "tokens": tokens}
    gold = p.gather(-1, target.unsqueeze(-1)) > 0
    return {"support": int((p > 0).sum()) / tokens, "gold": int(gold.sum()) / tokens, "tokens": tokens}


def _share(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def search_rates(decoded: Decoded) -> dict[str, float]:
    """What part of the examples of a search is what.

    Args:
        decoded: the result of a search.

    Returns:
        Shares of all examples: "enumerated", "exact" (at least ARGMAX_EXACT), "single" (one sequence has all
        probability), "empty" (the best is the empty sequence), "unfinished" (none that ends in time was found); and
        "mass", the mean probability of the sequences found. NaN of no example.
    """
    return {
        "enumerated": _share([c.status is Status.ENUMERATED for c in decoded.certificates]),
        "exact": _share([c.exact for c in decoded.certificates]),
        "single": _share([c.status is Status.ENUMERATED and c.found == 1 for c in decoded.certificates]),
        "empty": _share([best is not None and len(best.tokens) == 1 for best in decoded.best]),
        "unfinished": _share([best is None for best in decoded.best]),
        "mass": _share([c.mass for c in decoded.certificates]),
    }


@torch.no_grad()
def empty_rates(
    step: Step, start: Tensor, state: State = None, *, eos: int, found: Decoded | None = None
) -> dict[str, float]:
    """How probable the empty sequence is, which dense models often prefer to all others.

    Args:
        step, start, state, eos: as in `beam_search`.
        found: the result of a search for the same examples.

    Returns:
        "empty_possible", the share of examples whose empty sequence has any probability; "empty_prob", its mean; and,
        with found, "empty_better", the share where it is more probable than the best found. NaN of no example.

    Raises:
        ParameterError: found is of other examples, or an argument is out of its range.
        ShapeError: start or what step returns has another shape.
        NumericalError: step returns NaN or no log-probabilities.

    Example:
        >>> import torch, tsallis as ts
        >>> step = lambda tokens, state: (ts.sparsemax(torch.tensor([[0.0, 0.2], [0.0, 3.0]])[tokens]).log(), state)
        >>> rates = ts.decoding.metrics.empty_rates(step, torch.tensor([0, 1]), eos=0)
        >>> rates["empty_possible"], round(rates["empty_prob"], 4)
        (0.5, 0.2)

    References:
        stahlberg2019nmt
    """
    eos = check_search(eos, 1)
    check_start(start, state)
    examples = start.shape[0]
    if found is not None and len(found.hypotheses) != examples:
        raise ParameterError(f"found for {len(found.hypotheses)} examples", f"{examples}", "Search the same examples")
    log_probs = advance(step, start, state, eos)[0][:, eos].double().tolist() if examples else []
    rates = {
        "empty_possible": _share([log_prob > -math.inf for log_prob in log_probs]),
        "empty_prob": _share([math.exp(log_prob) for log_prob in log_probs]),
    }
    if found is not None:
        best = [-math.inf if one is None else one.log_prob for one in found.best]
        rates["empty_better"] = _share([empty > other for empty, other in zip(log_probs, best, strict=True)])
    return rates


def length_ratio(decoded: Decoded, lengths: Sequence[int]) -> float:
    """Tokens of the best sequences found, divided by those of the references; below 1 where predictions are too short.

    Args:
        decoded: the result of a search; where nothing was found there are no tokens.
        lengths: of the references; the end of sequence counts neither here nor there.

    Returns:
        The quotient of sums, NaN where the references have no token.

    Raises:
        ParameterError: there are more or fewer references than examples, or a length is negative.
    """
    if len(lengths) != len(decoded.hypotheses) or any(length < 0 for length in lengths):
        raise ParameterError(
            f"{len(lengths)} lengths for {len(decoded.hypotheses)} examples",
            "the number of tokens of each reference",
            "Pass one for each example, 0 or more",
        )
    found = sum(len(best.tokens) - 1 for best in decoded.best if best is not None)
    return found / sum(lengths) if sum(lengths) else math.nan
