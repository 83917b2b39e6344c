"""The `entmax` package behind the same registry: rejected by the laws it is known to break, accepted by the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import entmax
import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import Unsupported

from tsallis.core import registry
from tsallis.core.mapping import Mapping
from tsallis.mappings.budget import Budget
from tsallis.mappings.entmax import Entmax
from tsallis.mappings.entmax15 import Entmax15
from tsallis.mappings.normmax import Normmax
from tsallis.mappings.sparsemax import Sparsemax
from tsallis.testing import LAWS
from tsallis.testing.harness import CheckFailed, settings

# Laws that look only at the callable, not at what is derived from our protocol.
CALLABLE = (
    *("beats_random_points", "permutation", "monotone", "ties", "large_scores", "half_precision", "other_dtypes"),
    *("every_dim", "layouts", "masks", "fully_masked_rows", "bad_rows", "vmap", "compiles", "exports"),
    *("first_derivatives", "second_derivatives", "second_derivatives_at_zeros", "jacobian"),
)


def foreign(base: type[Mapping], name: str, function: Callable[..., Tensor]) -> Mapping:
    """One of our declarations (what is being computed) with someone else's computation."""

    def call(
        self, z: Tensor, dim: int = -1, *, mask: Tensor | None = None, backend: str | None = None, **params: object
    ) -> Tensor:
        return function(z if mask is None else z.masked_fill(~mask, float("-inf")), dim, **params)

    return type(name, (base,), {"name": name, "__call__": call, "exempt": {}})()


BISECT = foreign(Entmax, "their_bisect", lambda z, dim, alpha: entmax.entmax_bisect(z, alpha, dim))
ENTMAX15 = foreign(Entmax15, "their_entmax15", lambda z, dim: entmax.entmax15(z, dim))
SPARSEMAX = foreign(Sparsemax, "their_sparsemax", lambda z, dim: entmax.sparsemax(z, dim))
NORMMAX = foreign(Normmax, "their_normmax", lambda z, dim, alpha: entmax.normmax_bisect(z, alpha, dim))
BUDGET = foreign(Budget, "their_budget", lambda z, dim, k, alpha: entmax.budget_bisect(z, k, dim))

Reason = tuple[type[Exception], str]


def wrong(message: str) -> Reason:
    """The law itself finds the fault, and says this."""
    return CheckFailed, message


# What the reference notes predict, and in which way each law is to find it. Everywhere: masked rows, function
# transforms, compilation.
CRASH = (RuntimeError, "index -1 is out of bounds")
UNROLLED = (RuntimeError, "The differentiated Tensor at index 1 appears to not have been used")
NO_CLASSMETHODS = (Unsupported, "failed to bind arguments")
EVERYWHERE = dict.fromkeys(("vmap", "jacobian"), (RuntimeError, "autograd.Function with functorch transforms"))
IMPRECISE = {"half_precision": wrong("more than one rounding")}
INFINITE = {"large_scores": wrong("not finite")}
NO_MASKS = {"fully_masked_rows": wrong("row not zero")}
NO_GRAPH = {"second_derivatives_at_zeros": wrong("has no graph")}
NAN_SECOND = {"second_derivatives_at_zeros": wrong("second derivative is not finite")}
EXACT = EVERYWHERE | {"fully_masked_rows": CRASH, "bad_rows": CRASH, "compiles": NO_CLASSMETHODS}
PREDICTED: dict[Mapping, dict[str, Reason]] = {
    BISECT: EVERYWHERE | IMPRECISE | INFINITE | NO_MASKS | NAN_SECOND
    | {"compiles": NO_CLASSMETHODS, "other_dtypes": wrong("integer scores: differs by 0.667")},
    ENTMAX15: EXACT | IMPRECISE | NAN_SECOND,
    SPARSEMAX: EXACT | NO_GRAPH | {"other_dtypes": (RuntimeError, "can't be cast to the desired output type Long")},
    NORMMAX: EVERYWHERE | IMPRECISE | INFINITE | NO_MASKS | {"compiles": UNROLLED},
    BUDGET: EVERYWHERE | IMPRECISE | NO_MASKS | NO_GRAPH
    | {
        "compiles": UNROLLED, "large_scores": wrong("constraint violated"), "masks": wrong("value not zero"),
        "bad_rows": wrong("hides the NaN"), "monotone": wrong("scaling the scores up"),
    },
}  # fmt: skip
SOUND = {"beats_random_points", "permutation", "ties", "monotone", "layouts"}


def check(mapping: Mapping, law: str) -> None:
    with registry.registered(mapping), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LAWS[law].check(next(settings(mapping)))


@pytest.mark.parametrize("mapping", PREDICTED, ids=lambda m: m.name)
@pytest.mark.parametrize("law", CALLABLE)
def test_the_suite_separates_right_from_wrong(mapping: Mapping, law: str) -> None:
    if law in PREDICTED[mapping]:
        error, message = PREDICTED[mapping][law]
        with pytest.raises(error, match=message):
            check(mapping, law)
    elif law in SOUND:
        check(mapping, law)


@pytest.mark.parametrize("alpha", [1.0, 1 + 1e-5])
def test_alpha_near_one_separates(alpha: float) -> None:
    """The alpha-derivative of the package near 1 is wrong by orders of magnitude; ours is not
    (tests/unit/test_accuracy.py).
    """
    z = torch.tensor([-1.0, 0.0, 0.5, 1.2])
    leaf = torch.tensor(alpha, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.autograd.grad(entmax.entmax_bisect(z, leaf)[0], leaf)[0]
    ours = torch.autograd.grad(registry.get("entmax")(z, alpha=leaf)[0], leaf)[0]
    assert abs(float(ours) + 0.1859) < 1e-3
    assert not abs(float(theirs) + 0.1859) < 0.1


def test_parity_where_both_are_right() -> None:
    torch.manual_seed(3)
    z = torch.randn(16, 40, dtype=torch.float64)
    ours = registry.get
    for alpha in (1.2, 1.5, 1.8, 2.0):
        assert torch.allclose(ours("entmax")(z, alpha=alpha), entmax.entmax_bisect(z, alpha), atol=1e-12)
        assert torch.allclose(ours("normmax")(z, alpha=alpha), entmax.normmax_bisect(z, alpha), atol=1e-10)
    assert torch.allclose(ours("sparsemax")(z), entmax.sparsemax(z), atol=1e-14)
    assert torch.allclose(ours("entmax15")(z), entmax.entmax15(z), atol=1e-12)
    assert torch.allclose(ours("budget")(z, k=3.0), entmax.budget_bisect(z, 3), atol=1e-10)
