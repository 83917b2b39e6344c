"""alpha-entmax in 50 digits. A threshold is accepted only if its probabilities sum to one to 40 digits, which proves
it.
"""

from dataclasses import dataclass

import mpmath as mp
import numpy as np
from scipy.optimize import brentq

mp.mp.dps = 50


@dataclass
class Exact:
    p: list
    threshold: mp.mpf
    dalpha: list


def _p(z: list, lam: mp.mpf, alpha: mp.mpf) -> list:
    a = alpha - 1
    if a == 0:
        return [mp.exp(x - lam) for x in z]
    return [u ** (1 / a) if (u := 1 + a * (x - lam)) > 0 else mp.mpf(0) for x in z]


def _start(z: np.ndarray, a: float) -> float:
    d = z - z.max()

    def excess(lam: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.where(1 + a * (d - lam) > 0, (1 + a * (d - lam)) ** (1 / a), 0).sum() - 1)

    if abs(a) < 1e-6:
        return float(z.max() + np.log(np.exp(d).sum()))
    high = (1 - len(z) ** -a) / a
    if len(z) == 1 or excess(0) <= 0:  # the largest score takes all, as far as floating point can tell
        return float(z.max())
    if excess(high) >= 0:  # equal scores, likewise
        return float(z.max()) + high
    return float(z.max()) + brentq(excess, 0, high, xtol=1e-16, rtol=1e-15)


def entmax(scores: np.ndarray, alpha: float) -> Exact:
    z = [mp.mpf(float(x)) for x in scores]
    exact_alpha = mp.mpf(float(alpha))
    a = exact_alpha - 1
    lam = mp.mpf(_start(np.asarray(scores, dtype=np.float64), float(alpha) - 1))
    top = max(z)
    low, high = top - 1, top + 1 + mp.log(len(z)) + (len(z) if a < 0 else 0)
    for _ in range(400):
        p = _p(z, lam, exact_alpha)
        total = mp.fsum(p)
        if abs(total - 1) < mp.mpf(10) ** -40:
            break
        low, high = (lam, high) if total > 1 else (low, lam)
        slope = mp.fsum(x ** (1 - a) for x in p if x > 0)
        step = (total - 1) / slope if slope else mp.mpf(0)
        lam = lam + step if low < lam + step < high and step else (low + high) / 2
    else:
        raise AssertionError("the oracle did not converge")
    return Exact(p, lam, _dalpha(p, exact_alpha))


def _dalpha(p: list, alpha: mp.mpf) -> list:
    a = alpha - 1
    w = [x ** (2 - alpha) if x > 0 else mp.mpf(0) for x in p]
    logs = [mp.log(x) if x > 0 else mp.mpf(0) for x in p]
    if a == 0:
        slopes = [ell**2 / 2 for ell in logs]
    else:
        mp.mp.dps = 80  # (y log y - y + 1)/a^2 cancels near alpha = 1
        slopes = [((y := mp.exp(a * ell)) * a * ell - y + 1) / a**2 for ell in logs]
        mp.mp.dps = 50
    total = mp.fsum(w)
    mean = mp.fsum(x * s for x, s in zip(w, slopes, strict=True)) / total
    return [-x * (s - mean) for x, s in zip(w, slopes, strict=True)]
