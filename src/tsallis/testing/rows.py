"""Laws of rows: dimensions, layouts, sizes, masks, infinities, NaN, dtypes."""

from __future__ import annotations

import torch

from ..core.errors import ShapeError
from ..core.status import Outcome
from .harness import Setting, law, require, require_close, require_raises
from .inputs import draw

ROWS, N = 5, 6


@law()
def every_dim(setting: Setting) -> None:
    """Any `dim`, negative or not, works as moving it last and back; others raise."""
    z = draw("normal", 24, 6).reshape(6, 4, 6)
    z = z.reshape(2, 3, 4, 6).movedim(-1, 1).contiguous()
    expected = setting(z.movedim(1, -1).contiguous())
    for dim in (1, -3):
        require_close(setting(z, dim).movedim(1, -1), expected, 1e-14, f"dim={dim}")
    for dim in (4, -5):
        require_raises(lambda dim=dim: setting(z, dim), ShapeError, f"dim={dim}")


@law(every_setting=False)
def layouts(setting: Setting) -> None:
    """Transposed, strided and expanded inputs give what their contiguous copies give, and are left unchanged."""
    z = draw("normal", N, 2 * N)
    for name, view in {
        "transposed": z.T[:N],
        "strided": z[:, ::2],
        "expanded": z[:1, :N].expand(ROWS, N),
        "1-d": z[0, :N],
    }.items():
        before = view.clone()
        require_close(setting(view), setting(view.clone(memory_format=torch.contiguous_format)), 1e-14, name)
        require_close(view, before, 0.0, f"{name}: input after the call")


@law(every_setting=False)
def sizes(setting: Setting) -> None:
    """No row, rows without entries, and one entry per row work; no dimension raises."""
    values = {name: min(value, 1.0) if name == "k" else value for name, value in setting.values.items()}
    small = Setting(setting.mapping, values)
    for shape in ((0, 5), (5, 0), (0, 0)):
        z = torch.zeros(shape, requires_grad=True)
        p = small(z)
        require(p.shape == shape, f"{shape} gave {tuple(p.shape)}")
        (grad,) = torch.autograd.grad(p.sum(), z)
        require(grad.shape == shape, f"gradient of {shape} has shape {tuple(grad.shape)}")
    one = draw("normal", ROWS, 1).requires_grad_()
    p = small(one)
    require(p.isfinite(), "n = 1 is not finite")
    if setting.mapping.domain.fixed_sum:
        (grad,) = torch.autograd.grad(p.sum(), one)
        require(grad == 0, "a single entry with a fixed value must have gradient 0")
    require_raises(lambda: small(torch.tensor(1.0)), ShapeError, "0-d scores")


@law()
def masks(setting: Setting) -> None:
    """Masked entries are exact zeros with zero gradient, what lies under them is never read, and the rest is as if
    they were not there.
    """
    z = draw("normal", ROWS, N + 2)
    keep = torch.ones(N + 2, dtype=torch.bool)
    keep[[1, 4]] = False
    weights = torch.arange(1.0, N + 3, dtype=z.dtype).square()
    alone = z[:, keep].clone().requires_grad_()
    expected = setting(alone)
    (expected_grad,) = torch.autograd.grad((expected * weights[keep]).sum(), alone)
    require(expected_grad.abs().max() > 0, "gradient is zero: the check would be vacuous")
    for name, junk in {"finite": 99.0, "nan": float("nan"), "+inf": float("inf"), "-inf": float("-inf")}.items():
        dirty = z.clone()
        dirty[:, ~keep] = junk
        dirty.requires_grad_()
        for mask in (keep, keep.expand(ROWS, N + 2)):
            p = setting(dirty, mask=mask)
            (grad,) = torch.autograd.grad((p * weights).sum(), dirty)
            require(p[:, ~keep] == 0, f"{name} under the mask: value not zero")
            require(grad[:, ~keep] == 0, f"{name} under the mask: gradient not zero")
            require_close(p[:, keep], expected, 1e-12, f"{name} under the mask: kept entries")
            require_close(grad[:, keep], expected_grad, 1e-9, f"{name} under the mask: gradient of kept entries")
    p = setting(z.masked_fill(~keep, float("-inf")))
    require_close(p[:, keep], expected, 1e-9, "scores at -inf instead of a mask")
    require(p[:, ~keep] == 0, "scores at -inf are not zero")
    require_raises(lambda: setting(z, mask=keep.float()), ShapeError, "a mask that is not boolean")
    require_raises(lambda: setting(z, mask=keep[:-1]), ShapeError, "a mask that does not broadcast")


@law()
def low_scores(setting: Setting) -> None:
    """Where the domain fixes the sum, scores of -1e9 and of the lowest number of the dtype are as good as masks."""
    if not setting.mapping.domain.fixed_sum:
        return
    z = draw("normal", ROWS, N + 2)
    keep = torch.ones(N + 2, dtype=torch.bool)
    keep[[1, 4]] = False
    expected = setting(z[:, keep])
    for name, low in {"finfo.min": torch.finfo(z.dtype).min, "-1e9": -1e9}.items():
        p = setting(z.masked_fill(~keep, low))
        require_close(p[:, keep], expected, 1e-9, f"scores at {name} instead of a mask")
        require(p[:, ~keep] <= 1e-9, f"scores at {name} are not zero")


@law()
def fully_masked_rows(setting: Setting) -> None:
    """A row without a kept entry is zero with zero gradient, and says so; other rows are untouched."""
    z = draw("normal", ROWS, N)
    mask = torch.ones(ROWS, N, dtype=torch.bool)
    mask[1] = False
    weights = torch.arange(1.0, N + 1, dtype=z.dtype).square()
    clean = z.clone().requires_grad_()
    untouched = setting(clean)
    (expected,) = torch.autograd.grad((untouched * weights).sum(), clean)
    rest = torch.tensor([0, 2, 3, 4])
    for name, (scores, keyword) in {
        "mask": (z, {"mask": mask}),
        "-inf": (z.masked_fill(~mask, float("-inf")), {}),
        "NaN under the mask": (z.masked_fill(~mask, float("nan")), {"mask": mask}),
    }.items():
        leaf = scores.clone().requires_grad_()
        p = setting(leaf, **keyword)
        (grad,) = torch.autograd.grad((p * weights).sum(), leaf)
        require(p[1] == 0, f"{name}: row not zero")
        require(grad[1] == 0, f"{name}: gradient not zero")
        require_close(p[rest], untouched[rest], 1e-12, f"{name}: other rows")
        require_close(grad[rest], expected[rest], 1e-9, f"{name}: gradient of other rows")
    codes = setting.mapping.solution(z, mask=mask, **setting.values).result.codes
    require(codes[1] == Outcome.FULLY_MASKED, "the outcome does not name the masked row")


@law()
def bad_rows(setting: Setting) -> None:
    """A row with NaN or +inf becomes NaN alone, in value and gradient, without an exception; the outcome names it."""
    z = draw("normal", ROWS, N)
    expected = setting(z)
    rest = torch.tensor([0, 1, 2, 4])
    for junk, outcome in {float("nan"): Outcome.NAN_SCORE, float("inf"): Outcome.INFINITE_SCORE}.items():
        dirty = z.clone()
        dirty[3, 2] = junk
        dirty.requires_grad_()
        p = setting(dirty)
        (grad,) = torch.autograd.grad(p.square().sum(), dirty)
        require(p[3].isnan(), f"{junk}: the row is not NaN")
        require_close(p[rest], expected[rest], 1e-12, f"{junk}: other rows")
        require(grad[rest].isfinite(), f"{junk}: gradient of other rows")
        require(grad[3].isnan(), f"{junk}: gradient of the row hides the NaN")
        codes = setting.mapping.solution(dirty.detach(), **setting.values).result.codes
        require(codes[3] == outcome, f"{junk}: outcome {Outcome(int(codes[3]))!r}")


@law()
def half_precision(setting: Setting) -> None:
    """bf16 and fp16 keep their dtype and are off by one rounding at most, also when shifted far and under autocast."""
    for dtype in (torch.bfloat16, torch.float16):
        for n in (16, 32768):
            z = draw("normal", ROWS, n).to(dtype)
            p = setting(z)
            exact = setting(z.double())
            rounding = (
                torch.finfo(dtype).eps * exact.abs() / 2 * 1.01
                + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
            )
            require(p.dtype == dtype, f"{dtype} became {p.dtype}")
            require((p.double() - exact).abs() <= rounding, f"{dtype}, n={n}: more than one rounding")
        leaf = draw("normal", ROWS, N).to(dtype).requires_grad_()
        (grad,) = torch.autograd.grad((setting(leaf) * torch.arange(N)).sum(), leaf)
        require(grad.dtype == dtype and bool(grad.isfinite().all()), f"{dtype}: gradient {grad.dtype} or not finite")
    if setting.mapping.domain.fixed_sum:
        z = (draw("normal", ROWS, 16).bfloat16() * 4).round()
        require_close(setting(z - 1000), setting((z.double() - 1000).bfloat16()), 0.0, "bf16 shifted by -1000")
        require(setting(z - 1000).isfinite(), "bf16 shifted by -1000 is not finite")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = draw("normal", ROWS, N).float()
        require_close(setting(z), setting(z.double()).float(), 1e-6, "float32 scores under autocast")


@law(every_setting=False)
def other_dtypes(setting: Setting) -> None:
    """Integers and booleans are promoted to the default dtype, not truncated; complex scores raise."""
    z = torch.tensor([[1, 2, 3], [0, 0, 5]])
    p = setting(z)
    require(p.dtype == torch.get_default_dtype(), f"integer scores gave {p.dtype}")
    require_close(p, setting(z.to(torch.get_default_dtype())), 0.0, "integer scores")
    require_close(setting(z > 1), setting((z > 1).to(torch.get_default_dtype())), 0.0, "boolean scores")
    require_raises(lambda: setting(torch.zeros(3, dtype=torch.complex64)), ShapeError, "complex scores")
