"""A cache in pages: what is read gives what all keys give, and what is not read had no probability."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tsallis as ts
from tsallis.attention import PagedCache, page_bounds, page_search
from tsallis.core.errors import TsallisError

from .paging import draw, full, summary_is_fresh


@pytest.fixture(params=["as it is", "small steps", "never all", "no cells"])
def cells(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Small caches go every way."""
    if request.param != "as it is":
        monkeypatch.setattr(page_search, "FEWEST", 1)
        monkeypatch.setattr(page_search, "LOOKED", 0.0)
        monkeypatch.setattr(page_search, "CACHED", 1000)
    if request.param == "never all":
        monkeypatch.setattr(page_search, "DENSE", 2.0)
    return request.param != "no cells"


def _support_was_read(q: Tensor, cache: PagedCache, alpha: Any, backend: str | None = None) -> None:
    """Ask the search itself which pages it read, when it may not read all in one pass."""
    pages, (n, d) = cache._filled().pages(None), q.shape[2:]
    rows = q.reshape(len(pages.keep), -1, d)
    last = torch.arange(len(cache) - n, len(cache)).repeat(rows.shape[1] // n)
    search = page_search.Search(pages, rows, last, alpha, d**-0.5, backend)
    search.run()
    z = page_search.scaled_products(rows, cache.keys.flatten(0, 1), d**-0.5)
    z = z.masked_fill(torch.arange(len(cache)) > last[:, None], -torch.inf)
    some = (ts.entmax(z, alpha) > 0).any(1)
    some = (
        torch.nn.functional.pad(some, (0, -len(cache) % cache.page_size)).unflatten(-1, (-1, cache.page_size)).any(-1)
    )
    assert bool((search.read | ~some).all())


@pytest.mark.parametrize("page_size", [1, 3, 8, 16, 64])
@pytest.mark.parametrize("alpha", [1.5, 1.2, 2.0, 3.0, 1.0, 0.7, "heads", "batch"])
def test_appending_pieces_equals_attention_to_all_keys(cells: bool, page_size: int, alpha: Any) -> None:
    heads = torch.tensor([1.2, 1.5, 2.0, 1.05], dtype=torch.float64)
    alpha = {"heads": heads, "batch": torch.stack([heads, heads.flip(0), heads - 0.5])}.get(alpha, alpha)
    k, v = draw(0, (3, 2), 150, 7, 4.0), draw(1, (3, 2), 150, 5)
    generator = torch.Generator().manual_seed(page_size)
    cache, at = PagedCache(page_size, cells=cells), 0
    for step in range(8):
        n = int(torch.randint(1, 41, (), generator=generator))
        n = min(n, 150 - at)
        cache.append(k[:, :, at : at + n], v[:, :, at : at + n])
        at += n
        few = 1 + step % 3
        if at < few:
            continue
        q = draw(2 + step, (3, 4), few, 7, 2.0)
        out, stats = cache.attend(q, alpha=alpha)
        torch.testing.assert_close(out, full(q, k[:, :, :at], v[:, :, :at], alpha), rtol=0, atol=1e-10)
        assert stats.exact
        assert float(stats.residual.max()) < 1e-12
        assert stats.pages == -(-at // page_size)
        assert bool((stats.values_read <= stats.keys_read).all() & (stats.keys_read <= stats.pages).all())
    assert len(cache) == at
    assert torch.equal(cache.keys, k[:, :, :at])
    assert torch.equal(cache.values, v[:, :, :at])
    summary_is_fresh(cache)


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2.0])
@pytest.mark.parametrize("factor", [2.0**-10, 0.25, 4.0, 2.0**10])
def test_float32_loses_no_key(cells: bool, alpha: float, factor: float) -> None:
    """Eighths times a power of two: scores are exact, many are equal, and many lie at the edge of the support."""
    k, q = (factor * (8 * draw(0, (2, 2), 400, 16)).round() / 8, (8 * draw(2, (2, 8), 2, 16)).round() / 8)
    v = draw(1, (2, 2), 400, 16)
    cache = PagedCache(8, cells=cells)
    cache.append(k.float(), v.float())
    out, _ = cache.attend(q.float(), alpha=alpha)
    torch.testing.assert_close(out.double(), full(q, k, v, alpha), rtol=0, atol=2e-6)
    torch.testing.assert_close(out, full(q.float(), k.float(), v.float(), alpha), rtol=0, atol=1e-6)


@pytest.mark.parametrize("told", ["append", "attend", "both"])
def test_padding_is_never_read(cells: bool, told: str) -> None:
    k, v, q = draw(0, (3, 2), 60, 8, 4.0), draw(1, (3, 2), 60, 8), draw(2, (3, 4), 2, 8, 2.0)
    keep = torch.ones(3, 60, dtype=torch.bool)
    keep[0, :20], keep[1, 30:37], keep[2, 58:] = False, False, False
    hidden = ~keep[:, None, :, None]
    expected = full(q, k, v, 1.5, keep)
    loud = k.masked_fill(hidden, 1e4)
    cache = PagedCache(8, cells=cells)
    if told != "attend":
        loud, v = loud.masked_fill(hidden, torch.nan), v.masked_fill(hidden, torch.nan)
    cache.append(loud[:, :, :5], v[:, :, :5], keep[:, :5] if told != "attend" else None)
    cache.append(loud[:, :, 5:], v[:, :, 5:], keep[:, 5:] if told != "attend" else None)
    out, _ = cache.attend(q, keep=None if told == "append" else keep)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    if told == "append":
        # The last entry's newest two tokens are padding: all that is before is seen.
        assert torch.equal(cache.keep, keep)
        nothing, _ = cache.attend(q, keep=torch.zeros(1, 60, dtype=torch.bool))
        assert not nothing.any()


def test_a_batch_entry_of_padding_only_gives_zeros(cells: bool) -> None:
    k, q = draw(0, (2, 1), 20, 4), draw(1, (2, 1), 1, 4)
    cache = PagedCache(4, cells=cells)
    cache.append(k, k, torch.tensor([[True], [False]]))
    out, stats = cache.attend(q)
    torch.testing.assert_close(out[:1], full(q, k, k, 1.5)[:1])
    assert not out[1].any()
    assert not stats.residual.any()
    assert int(stats.keys_read[1]) in (0, stats.pages)
    _, stats = cache.attend(q, keep=torch.zeros(2, 20, dtype=torch.bool))
    assert not stats.keys_read.any()
    assert not stats.residual.any()


_numbers = st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0, 5.0, 8.0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 5), st.integers(1, 9), st.sampled_from([1.01, 1.5, 2.0, 2.5, 6.0]),
    st.sampled_from([2.0**-30, 0.125, 1.0, 2.0**20]), st.booleans(), st.data(),
)  # fmt: skip
def test_no_key_with_probability_is_skipped(
    n: int, d: int, page_size: int, alpha: float, factor: float, cells: bool, data: Any
) -> None:
    """Small whole numbers times powers of two: no product rounds, and there are ties of keys, scores and bounds."""
    k = factor * torch.tensor(data.draw(st.lists(_numbers, min_size=n * d, max_size=n * d))).reshape(1, 1, n, d)
    q = torch.tensor(data.draw(st.lists(_numbers, min_size=2 * d, max_size=2 * d))).reshape(1, 2, 1, d)
    v = torch.arange(n, dtype=torch.float32).reshape(1, 1, n, 1).sin()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"FEWEST": 1, "LOOKED": 0.0, "DENSE": 2.0}.items():
            patch.setattr(page_search, name, value)
        cache = PagedCache(page_size, cells=cells)
        cache.append(k, v)
        out, _ = cache.attend(q, alpha=alpha, scale=0.5)
        torch.testing.assert_close(out, full(q, k, v, alpha, scale=0.5), rtol=0, atol=1e-6)
        _support_was_read(q, cache, alpha)


_floats = (
    st.floats(-(2.0**14), 2.0**14, width=32, allow_subnormal=False)
    | st.floats(-(2.0**-64), 2.0**-64, width=32, allow_subnormal=False)
    | st.sampled_from([1e18, -1e18, 1e-37])
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.data())
def test_bounds_hold_for_all_numbers(size: int, d: int, data: Any) -> None:
    def draw(*shape: int) -> Tensor:
        count = int(torch.tensor(shape).prod())
        return torch.tensor(data.draw(st.lists(_floats, min_size=count, max_size=count))).reshape(shape)

    keys, query = draw(1, 3, size, d), draw(1, 2, d)
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=3 * size, max_size=3 * size))).reshape(1, 3, size)
    pages = page_bounds.summarise(keys, keep, True)
    exact = (query.double() @ keys.flatten(1, 2).double().mT).unflatten(-1, (3, size))
    highest = exact.masked_fill(~keep[:, None], -torch.inf).amax(-1)
    assert bool((page_bounds.bounds(query, pages) >= highest).all())
    above, width = page_bounds.bounds_of_keys(query.expand(3, -1, -1), pages.changed(lambda x: x[0]))
    slack = page_bounds.slack(query, pages.size)[0, :, None].double()
    kept, exact = keep[0].unsqueeze(1), exact[0].transpose(0, 1)
    # NaN and infinities rule nothing out.
    assert bool((~kept | ~(above + slack < exact)).all())
    assert bool((~kept | ~(above.double() - width - slack > exact)).all())


def test_thresholds_are_never_too_high(cells: bool) -> None:
    """Lower than the exact one, and not by much; adding scores raises it."""
    generator = torch.Generator().manual_seed(0)
    for alpha in (1.001, 1.3, 1.5, 2.0, 3.0, 20.0):
        for factor in (1e-6, 1.0, 1e4):
            z = factor * torch.randn(20, 300, generator=generator)
            z[::3, :5] = z[::3, :1]
            floor = page_search.lowest_of_support(z, ts.entmax(z, alpha), alpha)
            exact = ts.solve("entmax", z.double(), alpha=alpha, backend="reference").threshold - 1 / (alpha - 1)
            error = exact - floor
            assert float(error.min()) >= -1e-9 * max(1.0, factor)
            assert float(error.max()) <= 2e-5 * max(1.0, factor, 1 / (alpha - 1))
            more = torch.cat([z, z.amax(-1, keepdim=True) + 0.1], -1)
            assert bool((page_search.lowest_of_support(more, ts.entmax(more, alpha), alpha) >= floor - 1e-5).all())


def test_a_bound_that_is_too_low_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparisons of this file fail where a page with probability is ruled out."""
    k, v, q = draw(0, (1, 1), 200, 8, 4.0), draw(1, (1, 1), 200, 8), draw(2, (1, 2), 1, 8, 2.0)
    expected = full(q, k, v, 1.5)
    best = (q @ k.mT)[0, 0, 0].argmax() // 16
    bounds = page_bounds.bounds

    def wrong(query: Tensor, pages: page_bounds.Summary) -> Tensor:
        found = bounds(query, pages)
        found[..., best] -= 1e3
        return found

    monkeypatch.setattr(page_search, "DENSE", 2.0)
    for cells in (True, False):
        cache = PagedCache(cells=cells)
        cache.append(k, v)
        torch.testing.assert_close(cache.attend(q)[0], expected)
        with monkeypatch.context() as patch:
            patch.setattr(page_search, "bounds", wrong)
            out, _ = cache.attend(q)
            with pytest.raises(AssertionError):
                torch.testing.assert_close(out, expected)
            with pytest.raises(AssertionError):
                _support_was_read(q, cache, 1.5)


def test_what_is_not_finite_is_read(cells: bool) -> None:
    """A NaN, an infinity or a product out of range behind the last page of interest."""
    k, v, q = (x.float() for x in (draw(0, (1, 2), 90, 4, 4.0), draw(1, (1, 2), 90, 4), draw(2, (1, 2), 3, 4)))
    q[0, 1, 1] = torch.tensor([2.0, 0.0, 0.0, 0.0])
    for bad in (torch.nan, torch.inf, -torch.inf, 3e38, 1e25):
        for place in (0, 50, 88):
            own = k.clone()
            own[0, 1, place, 2] = bad
            cache = PagedCache(8, cells=cells)
            cache.append(own, v)
            out, _ = cache.attend(q)
            expected = full(q, own, v, 1.5)
            torch.testing.assert_close(out, expected, equal_nan=True)
            assert not out[0, 0].isnan().any()
            if bad != bad and place == 88:
                # Of three queries two see it.
                assert out[0, 1].isnan().all(-1).tolist() == [False, True, True]
    q[0, 0, 0, 0] = torch.nan
    cache.attend(q)
    assert cache.attend(q)[0].isnan().all(-1).tolist()[0][0] == [True, False, False]


def test_alphas_that_cannot_be_make_their_rows_nan(cells: bool) -> None:
    k, q = draw(0, (2, 2), 60, 4, 4.0), draw(1, (2, 4), 2, 4)
    cache = PagedCache(8, cells=cells)
    cache.append(k, k)
    for alpha in (torch.tensor([1.5, torch.nan, -1.0, 2.0]), torch.tensor([torch.nan, -1.0, 1.5, 2.0])):
        out, _ = cache.attend(q, alpha=alpha.double())
        assert out.isnan().any()
        torch.testing.assert_close(out, full(q, k, k, alpha.double()), equal_nan=True)


def test_equal_keys_are_all_read(cells: bool) -> None:
    k, v = torch.ones(1, 1, 100, 4), torch.randn(1, 1, 100, 4)
    cache = PagedCache(8, cells=cells)
    cache.append(k, v)
    for q in (torch.ones(1, 1, 1, 4), torch.zeros(1, 1, 1, 4), torch.full((1, 1, 1, 4), -1e6)):
        out, stats = cache.attend(q)
        torch.testing.assert_close(out, v.mean(2, keepdim=True))
        assert stats.share == 1.0


def test_one_key(cells: bool) -> None:
    cache = PagedCache(cells=cells)
    k, v = torch.randn(2, 2, 1, 4), torch.randn(2, 2, 1, 3)
    cache.append(k, v)
    out, stats = cache.attend(torch.randn(2, 4, 1, 4))
    assert torch.equal(out, v.repeat_interleave(2, 1))
    assert stats.keys_read.tolist() == [[1, 1], [1, 1]]
    assert cache.attend(torch.randn(2, 4, 0, 4))[0].shape == (2, 4, 0, 3)
    cache.append(k[:, :, :0], v[:, :, :0])
    assert len(cache) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(cells: bool, dtype: torch.dtype) -> None:
    k, v, q = (
        x.to(dtype) for x in (draw(0, (2, 2), 120, 16, 3.0), draw(1, (2, 2), 120, 16), draw(2, (2, 4), 1, 16, 2.0))
    )
    cache = PagedCache(8, cells=cells)
    cache.append(k, v)
    out, _ = cache.attend(q)
    assert out.dtype == cache.keys.dtype == dtype
    wide = ts.entmax_attention(q.float(), k.float(), v.float(), enable_gqa=True)
    torch.testing.assert_close(out.float(), wide, rtol=torch.finfo(dtype).eps, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cache.attend(q)[0], out)


def test_products_of_rounded_factors_widen_the_slack() -> None:
    query, size = torch.randn(1, 2, 16), torch.ones(1, 5)
    found = {}
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            found[precision] = float(page_bounds.slack(query, size).max() / query.norm(dim=-1).max())
    finally:
        torch.set_float32_matmul_precision(before)
    assert found["highest"] < 1e-4 < 2e-3 < found["high"] < found["medium"]
    assert float(page_bounds.slack(query.double(), size.double()).max()) < 1e-12


def _planted(seed: int, d: int, heads: int, group: int, runs: bool, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """8,192 normal keys per head; for each query 32 are moved along it until their score is `margin` standard
    deviations of the background above its mean: at random places, or in runs of eight.
    """
    g = torch.Generator().manual_seed(seed)
    q, v = torch.randn(1, heads * group, 1, d, generator=g), torch.randn(1, heads, 8192, d, generator=g)
    k = torch.randn(1, heads, 8192, d, generator=g)
    for h in range(heads * group):
        own, query = k[0, h // group], q[0, h, 0]
        z = own @ query
        at = torch.randperm(8192, generator=g)[:32]
        if runs:
            at = (torch.randperm(1024, generator=g)[:4, None] * 8 + torch.arange(8)).flatten()
        own[at] += ((z.mean() + margin * z.std() - z[at]) / query.square().sum())[:, None] * query
    return q, k, v


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize(("d", "heads", "group"), [(64, 1, 1), (128, 1, 1), (64, 4, 2), (128, 1, 4)])
def test_planted_keys_are_found_in_a_quarter_of_the_pages(d: int, heads: int, group: int, runs: bool) -> None:
    for seed in range(3):
        for margin, cells in ((6.0, True), (16.0, False)):
            q, k, v = _planted(seed, d, heads, group, runs, margin)
            cache = PagedCache(cells=cells)
            cache.append(k, v)
            out, stats = cache.attend(q)
            torch.testing.assert_close(out, ts.entmax_attention(q, k, v, enable_gqa=True), rtol=0, atol=1e-6)
            assert stats.pages == 512
            assert float(stats.keys_read.max()) <= 0.25 * 512
            assert stats.rounds <= 3


def test_scale_and_backend_are_those_of_attention(cells: bool) -> None:
    k, q = draw(0, (1, 1), 90, 8, 4.0), draw(1, (1, 2), 1, 8)
    cache = PagedCache(8, cells=cells)
    cache.append(k, k)
    for scale in (2.0, 0.0, -1.5, 1e-3):
        out, _ = cache.attend(q, scale=scale, backend="reference")
        torch.testing.assert_close(out, full(q, k, k, 1.5, scale=scale))
    with ts.debug_checks(True):
        cache.attend(q)
    with pytest.raises(TsallisError, match="backend"):
        cache.attend(q, backend="no such backend")
