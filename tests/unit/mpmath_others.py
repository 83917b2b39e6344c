"""Budget and normmax in 50 digits, with derivatives by hand; nothing here is shared with the library.

A threshold is accepted only if the constraint holds to 40 digits, which proves it.
"""

from dataclasses import dataclass

import mpmath as mp

DIGITS = mp.mpf(10) ** -40


@dataclass
class Exact:
    p: list
    threshold: mp.mpf
    dalpha: list
    vjp: list
    dk: list


def _dot(x: list, y: list) -> mp.mpf:
    return mp.fsum(a * b for a, b in zip(x, y, strict=True))


def normmax(scores: list[float], alpha: float, g: list[float]) -> Exact:
    """y = [z - tau]^(1/a), sum y^alpha = 1, p = y / sum y, all differentiated by hand."""
    with mp.workdps(60):
        z, alpha, g = [mp.mpf(x) for x in scores], mp.mpf(alpha), [mp.mpf(x) for x in g]
        a, top = alpha - 1, max(z)
        q, tau = alpha / a, top - 1
        for _ in range(300):
            u = [x - tau for x in z if x > tau]
            total = mp.fsum(x**q for x in u)
            if abs(total - 1) < DIGITS:
                break
            tau += total * (1 - total ** (-1 / q)) / mp.fsum(x ** (q - 1) for x in u)
        else:
            raise AssertionError("the oracle did not converge")
        u = [max(x - tau, mp.mpf(0)) for x in z]
        y = [x ** (1 / a) if x else mp.mpf(0) for x in u]
        size = mp.fsum(y)
        p = [x / size for x in y]
        slope = [x ** (1 / a - 1) / a if x else mp.mpf(0) for x in u]  # dy/du
        dtau = -mp.fsum(x**q * mp.log(x) for x in u if x) / (a * alpha * size)
        logs = [mp.log(x) if x else mp.mpf(0) for x in u]
        dy = [-b * ell / a**2 - s * dtau for b, ell, s in zip(y, logs, slope, strict=True)]
        total = mp.fsum(dy)
        dalpha = [(d - x * total) / size for d, x in zip(dy, p, strict=True)]
        # <g, dp> for a push of z_j: p_j-weighted shift of tau, then dy, then the normalisation.
        centred = [x - _dot(p, g) for x in g]
        pull = [c * s / size for c, s in zip(centred, slope, strict=True)]
        vjp = [x - b * mp.fsum(pull) for x, b in zip(pull, p, strict=True)]
        return Exact(p, tau, dalpha, vjp, [])


def budget(scores: list[float], k: float, alpha: float, g: list[float]) -> Exact:
    """p_i = min(1, [1 + a (z_i - lam)]^(1/a)), by bisection of lam in 60 digits."""
    with mp.workdps(90):
        z, k, alpha, g = [mp.mpf(x) for x in scores], mp.mpf(k), mp.mpf(alpha), [mp.mpf(x) for x in g]
        a = alpha - 1

        def entry(x: mp.mpf) -> mp.mpf:
            if x >= 0:
                return mp.mpf(1)
            u = 1 + a * x
            return mp.exp(x) if a == 0 else u ** (1 / a) if u > 0 else mp.mpf(0)

        def at(lam: mp.mpf) -> list:
            return [entry(x - lam) for x in z]

        low, high = min(z) - 1, max(z) + 1
        while mp.fsum(at(high)) > k:
            high += high - low
        for _ in range(300):
            middle = (low + high) / 2
            low, high = (middle, high) if mp.fsum(at(middle)) > k else (low, middle)
        # Bisection ends beside a kink, not on it.
        p = [mp.mpf(round(x)) if min(x, 1 - x) < DIGITS else x for x in at(high)]
        assert abs(mp.fsum(p) - k) < DIGITS
        free = [0 < x < 1 for x in p]
        w = [x ** (2 - alpha) if f else mp.mpf(0) for x, f in zip(p, free, strict=True)]
        total = mp.fsum(w)
        if total == 0:
            zeros = [mp.mpf(0)] * len(z)
            return Exact(p, high, zeros, zeros, zeros)

        def J(v: list) -> list:
            mean = _dot(w, v) / total
            return [x * (y - mean) for x, y in zip(w, v, strict=True)]

        D = [_slope(x, a) if f else mp.mpf(0) for x, f in zip(p, free, strict=True)]
        return Exact(p, high, [-x for x in J(D)], J(g), [x / total for x in w])


def _slope(p: mp.mpf, a: mp.mpf) -> mp.mpf:
    """d/da of (p^a - 1)/a."""
    ell = mp.log(p)
    y = p**a
    return ell**2 / 2 if a == 0 else (a * ell * y - y + 1) / a**2
