"""Frozen values, from 50-digit arithmetic or in closed form: alpha-entmax, normmax, budget and fusedmax on a few rows,
with thresholds, losses and derivatives.

Each holds to ten digits unless the row says fewer. Gradients that are zero by convention (at kinks) are here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import registry
from ..core.fenchel_young import fenchel_young
from .harness import Setting, require_close

Z = (-1.0, 0.0, 0.5, 1.2)
G = (1.0, -2.0, 0.5, 3.0)
SOFT = (0.1, 0.2, 0.3, 0.4)
NONE = (0.0,) * 4
INF = float("inf")
MASKED = (1.0, 0.5, -INF, -INF, 0.2)
FIRST = (1.0, 0.0, 0.0, 0.0, 0.0)
STEPS = (1.2, 1.0, 0.1, -0.3, 0.9, 0.85, -0.5)


@dataclass(frozen=True)
class Row:
    """One frozen row: what is None was not computed."""

    mapping: str
    z: tuple[float, ...]
    values: dict[str, Any]
    p: tuple[float, ...]
    threshold: float | None = None
    entropy: float | None = None
    loss_last: float | None = None
    dp: tuple[str, tuple[float, ...]] | None = None
    vjp: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    vjp_digits: int = 10
    dloss_dalpha: float | None = None
    loss_soft: float | None = None


def _entmax(alpha: float, p: tuple[float, ...], **known: Any) -> Row:
    return Row("entmax", Z, {"alpha": alpha}, p, **known)


def _budget(k: float, alpha: float, p: tuple[float, ...], **known: Any) -> Row:
    return Row("budget", Z, {"k": k, "alpha": alpha}, p, **known)


def _normmax(alpha: float, p2: float, p3: float, tau: float, slope: float, loss: float | None = None) -> Row:
    dp = ("alpha", (0.0, 0.0, -slope, slope))
    return Row("normmax", Z, {"alpha": alpha}, (0.0, 0.0, p2, p3), threshold=tau, dp=dp, loss_last=loss)


ROWS: tuple[Row, ...] = (
    _entmax(0.0, (0.1877329089, 0.2311221407, 0.2613206327, 0.3198243178)),
    _entmax(0.5, (0.1374266917, 0.2070784308, 0.2636554509, 0.3918394266)),
    _entmax(
        1.0,
        (0.05805520498, 0.1578104087, 0.2601853776, 0.5239490086),
        threshold=1.84636091114,
        entropy=1.14558461692,
        loss_last=0.646360911136,
        dp=("alpha", (-0.185860999, -0.1349424016, -0.01480752466, 0.3356109253)),
        vjp=(G, (-0.02579822959, -0.5435580849, -0.2457123324, 0.815068647)),
        dloss_dalpha=-1.99501702784,
        loss_soft=0.0365066853026,
    ),
    _entmax(
        1.1,
        (0.03928292801, 0.1433760371, 0.2585108398, 0.5588301951),
        threshold=1.76530236407,
        entropy=0.913394216458,
        loss_last=0.473962942422,
        dp=("alpha", (-0.187973342, -0.1543026267, -0.01891116268, 0.3611871314)),
    ),
    _entmax(
        1.25,
        (0.01267416855, 0.1175420325, 0.2548747826, 0.6149090163),
        threshold=1.65788459626,
        entropy=0.644184443136,
        loss_last=0.296838485472,
        dp=("alpha", (-0.1553323437, -0.1928000002, -0.03216659264, 0.3802989366)),
        vjp=(G, (-0.01775770984, -0.6966070232, -0.3479886621, 1.062353395)),
        dloss_dalpha=-0.921620072,
    ),
    _entmax(
        1.5,
        (0.0, 0.05709614059, 0.2390701342, 0.7038337252),
        threshold=1.5221040256,
        entropy=0.371978992157,
        loss_last=0.136114529522,
        dp=("alpha", (0.0, -0.284291284, -0.07755685355, 0.3618481376)),
        vjp=(G, (0.0, -0.8261240683, -0.4680887177, 1.294212786)),
        dloss_dalpha=-0.4403200213,
        loss_soft=0.190600497211,
    ),
    _entmax(
        1.75,
        (0.0, 0.0, 0.2114390636, 0.7885609364),
        threshold=1.41758773799,
        entropy=0.208911475735,
        loss_last=0.0609041311899,
        dp=("alpha", (0.0, 0.0, -0.2178255555, 0.2178255555)),
    ),
    _entmax(
        2.0,
        (0.0, 0.0, 0.15, 0.85),
        threshold=1.35,
        entropy=0.1275,
        loss_last=0.0225,
        dp=("alpha", (0.0, 0.0, -0.2767865462, 0.2767865462)),
        vjp=(G, (0.0, 0.0, -1.25, 1.25)),
        dloss_dalpha=-0.1111974369,
        loss_soft=0.3425,
    ),
    _entmax(
        2.5, (0.0, 0.0, 0.0, 1.0), threshold=1.2, entropy=0.0, loss_last=0.0, dloss_dalpha=0.0,
        dp=("alpha", NONE), vjp=(G, NONE),
    ),
    *(
        Row("entmax", (0.7,) * 4, {"alpha": alpha}, (0.25,) * 4, dp=("alpha", NONE))
        for alpha in (0.0, 0.5, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 10.0, 100.0)
    ),
    Row("entmax", (1.0, 2.0, 3.0), {"alpha": 1.0}, (0.09003057317, 0.2447284711, 0.6652409558)),
    Row("entmax", (1.0, 2.0, 3.0), {"alpha": 1.5}, (0.0, 0.1692810861, 0.8307189139)),
    Row("entmax", (1.0, 2.0, 3.0), {"alpha": 2.0}, (0.0, 0.0, 1.0)),
    Row("entmax", (-2.0, 0.0, 0.5), {"alpha": 1.5}, (0.0, 0.3260073637, 0.6739926363)),
    Row("entmax", (-2.0, 0.0, 0.5), {"alpha": 2.0}, (0.0, 0.25, 0.75)),
    Row("normmax", (-2.0, 0.0, 0.5), {"alpha": 2.0}, (0.0, 0.3110177635, 0.6889822365)),
    Row("normmax", (-2.0, 0.0, 0.5), {"alpha": 1000.0}, (0.0, 0.4997252596, 0.5002747404)),
    Row("budget", (-2.0, 0.0, 0.5), {"k": 2.0, "alpha": 2.0}, (0.0, 1.0, 1.0)),
    Row("entmax", (1.0, 1.0, 0.0), {"alpha": 1.5}, (0.4812376478, 0.4812376478, 0.03752470443)),
    Row("entmax", (1.0, 1.0, 0.0), {"alpha": 2.0}, (0.5, 0.5, 0.0)),
    Row(
        "entmax",
        (-1.0, 0.0, 0.5),
        {"alpha": 1.33},
        (0.04598203045, 0.3276322536, 0.6263857159),
        dp=("alpha", (-0.2561677221, -0.01140231061, 0.2675700327)),
    ),
    Row(
        "entmax",
        (1.0, 2.0, 3.5),
        {"alpha": 1.33},
        (0.002558058194, 0.1011553777, 0.8962865641),
        dp=("alpha", (-0.09150228373, -0.2636289782, 0.3551312619)),
    ),
    # Gradients of the first entry, with the digits known of each.
    Row("sparsemax", MASKED, {}, (0.75, 0.25, 0.0, 0.0, 0.0), vjp=(FIRST, (0.5, -0.5, 0.0, 0.0, 0.0))),
    Row(
        "entmax15", MASKED, {}, (0.5928072275, 0.2703373496, 0.0, 0.0, 0.1368554229),
        vjp=(FIRST, (0.41279, -0.24118, 0.0, 0.0, -0.1716)), vjp_digits=4,
    ),
    Row(
        "normmax", MASKED, {"alpha": 2.0}, (0.6382256027, 0.2864268304, 0.0, 0.0, 0.07534756693),
        vjp=(FIRST, (0.66528, -0.26472, 0.0, 0.0, -0.40056)), vjp_digits=5,
    ),
    Row(
        "budget", MASKED, {"k": 2.0, "alpha": 2.0}, (1.0, 0.65, 0.0, 0.0, 0.35),
        vjp=((0.0, 1.0, 0.0, 0.0, 0.0), (0.0, 0.5, 0.0, 0.0, -0.5)),
    ),
    _normmax(1.1, 5.904842944e-6, 0.9999940952, 0.200000161042, -7.109201827e-4),
    _normmax(1.5, 0.07961565714, 0.9203843429, 0.208339471715, -0.3415566906, 0.008339471715),
    _normmax(2.0, 0.2151740394, 0.7848259606, 0.235589713628, -0.1946254482, 0.03558971363),
    _normmax(5.0, 0.4058843189, 0.5941156811, 0.305049676676, -0.02069086913, 0.1050496767),
    _normmax(50.0, 0.4912681901, 0.5087318099, 0.345742382743, -1.758404757e-4),
    _budget(2.0, 1.0, (0.1219516523, 0.3314989604, 0.5465493873, 1.0), threshold=1.10413060534),
    _budget(2.0, 1.5, (0.004795007302, 0.3240409985, 0.6711639942, 1.0), threshold=0.861508017526),
    _budget(2.0, 2.0, (0.0, 0.25, 0.75, 1.0), threshold=0.75, dp=("k", (0.0, 0.5, 0.5, 0.0))),
    _budget(
        2.5, 1.0, (0.1829274785, 0.4972484406, 0.8198240809, 1.0),
        dp=("k", (0.1219516523, 0.3314989604, 0.5465493873, 0.0)),
    ),
    _budget(
        2.5, 1.5, (0.04751575654, 0.5154968487, 0.9369873948, 1.0),
        dp=("k", (0.1144892786, 0.3771021443, 0.5084085771, 0.0)),
    ),
    _budget(2.5, 2.0, (0.0, 0.5, 1.0, 1.0)),
    _budget(0.5, 1.5, (0.0, 0.001798919524, 0.08550575524, 0.4126953252)),
    _budget(0.5, 2.0, (0.0, 0.0, 0.0, 0.5)),
    _budget(3.0, 1.5, (0.1692810861, 0.8307189139, 1.0, 1.0)),
    _budget(3.0, 2.0, (0.0, 1.0, 1.0, 1.0), dp=("k", NONE), vjp=(G, NONE)),
    Row(
        "fusedmax", STEPS, {"lam": 0.25}, (0.425, 0.425, 0.0, 0.0, 0.075, 0.075, 0.0), threshold=1.55,
        dp=("lam", (0.25, 0.25, 0.0, 0.0, -0.25, -0.25, 0.0)),
        vjp=((1.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0), (0.25, 0.25, 0.0, 0.0, -0.25, -0.25, 0.0)),
    ),
    Row("fusedmax", STEPS, {"lam": 0.1}, (0.4375, 0.3375, 0.0, 0.0, 0.1125, 0.1125, 0.0)),
    Row("fusedmax", STEPS, {"lam": 9.0}, (1 / 7,) * 7, dp=("lam", (0.0,) * 7)),
)  # fmt: skip


def check_row(row: Row) -> None:
    """Compare one frozen row with the library, in float64, to the digits it was frozen with."""
    mapping = registry.get(row.mapping)
    z = torch.tensor(row.z, dtype=torch.float64)
    setting = Setting(mapping, row.values)
    solution = mapping.solution(z, **row.values)
    _same(solution.p, row.p, "p")
    if row.threshold is not None and solution.threshold is not None:
        _same(solution.threshold, row.threshold, "threshold")
    if row.entropy is not None:
        _same(-mapping.omega(solution.p, **setting.tensors(z)), row.entropy, "entropy")
    if row.dp is not None:
        name, expected = row.dp
        leaf = torch.tensor(row.values[name], dtype=z.dtype)
        _same(torch.func.jacfwd(lambda t: setting(z, **{name: t}))(leaf), expected, f"dp/d{name}")
    if row.vjp is not None:
        g, expected = row.vjp
        _same(torch.func.vjp(setting, z)[1](torch.tensor(g, dtype=z.dtype))[0], expected, "vjp", row.vjp_digits)
    if row.loss_soft is not None:
        soft = fenchel_young(mapping, z, torch.tensor(SOFT, dtype=z.dtype), tuple(setting.tensors(z).values()))
        _same(soft, row.loss_soft, "loss of a soft target")
    if row.loss_last is not None or row.dloss_dalpha is not None:
        _check_loss(row, setting, z)


def _check_loss(row: Row, setting: Setting, z: Tensor) -> None:
    target = torch.zeros_like(z)
    target[-1] = 1

    def loss(alpha: Tensor) -> Tensor:
        return fenchel_young(setting.mapping, z, target, (alpha,))

    alpha = torch.tensor(row.values["alpha"], dtype=z.dtype)
    if row.loss_last is not None:
        _same(loss(alpha), row.loss_last, "loss")
    if row.dloss_dalpha is not None:
        _same(torch.func.grad(loss)(alpha), row.dloss_dalpha, "dloss/dalpha")


def _same(actual: Tensor, expected: float | tuple[float, ...], what: str, digits: int = 10) -> None:
    wanted = torch.tensor(expected, dtype=actual.dtype)
    require_close(actual, wanted, 2 * 10.0**-digits * max(1.0, float(wanted.abs().max())), what)
