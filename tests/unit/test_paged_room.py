"""The room of a cache in pages: nothing is copied, what is reordered and cropped is as if it were new, errors help."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tsallis.attention import PagedCache
from tsallis.core.errors import ParameterError, ShapeError, TsallisError

from .paging import draw, full, summary_is_fresh


def test_appending_does_not_copy_the_cache() -> None:
    cache = PagedCache()
    cache.append(torch.randn(1, 2, 8192, 16), torch.randn(1, 2, 8192, 16))
    one = torch.randn(1, 2, 1, 16)
    cache.append(one, one)
    places = [x.data_ptr() for x in (cache.keys, cache.values, *cache._filled().summary.each())]
    for _ in range(100):
        cache.append(one, one)
    assert [x.data_ptr() for x in (cache.keys, cache.values, *cache._filled().summary.each())] == places
    # What is copied in all is as long as what is there.
    copies = 0
    for _ in range(3000):
        before = cache.keys.data_ptr()
        cache.append(one, one)
        copies += cache.keys.data_ptr() != before
    assert copies == 0
    assert cache.keys.shape == (1, 2, 8192 + 3101, 16)
    assert cache._filled().keys.shape[2] == 2 * 8192
    small = PagedCache(4)
    seen = set()
    for _ in range(300):
        small.append(one, one)
        seen.add(small._filled().keys.shape[2])
    assert seen == {4, 8, 16, 32, 64, 128, 256, 512}


@pytest.mark.parametrize("cells", [True, False])
def test_batches_are_reordered_and_caches_cropped(cells: bool) -> None:
    k, v, q = draw(0, (3, 2), 75, 8, 4.0), draw(1, (3, 2), 75, 8), draw(2, (5, 4), 1, 8, 2.0)
    keep = torch.rand(3, 75) < 0.8
    cache = PagedCache(8, cells=cells)
    cache.append(k, v, keep)
    index = torch.tensor([2, 0, 0, 1, 2])
    cache.reorder(index)
    torch.testing.assert_close(cache.attend(q)[0], full(q, k[index], v[index], 1.5, keep[index]))
    k, v, keep = k[index], v[index], keep[index]
    for length in (75, 61, 56, 3):
        cache.crop(length)
        assert len(cache) == length
        out, stats = cache.attend(q)
        torch.testing.assert_close(out, full(q, k[:, :, :length], v[:, :, :length], 1.5, keep[:, :length]))
        assert stats.pages == -(-length // 8)
        summary_is_fresh(cache)
    more = draw(5, (5, 2), 30, 8, 4.0)
    cache.append(more, more)
    k, v = torch.cat([k[:, :, :3], more], 2), torch.cat([v[:, :, :3], more], 2)
    keep = torch.cat([keep[:, :3], torch.ones(5, 30, dtype=torch.bool)], 1)
    torch.testing.assert_close(cache.attend(q)[0], full(q, k, v, 1.5, keep))
    cache.crop(0)
    assert len(cache) == 0
    cache.reset()
    single = torch.randn(1, 1, 2, 6)
    cache.append(single, single)
    assert cache.keep is None
    assert cache.attend(single)[0].shape == (1, 1, 2, 6)


def test_a_nan_that_was_cropped_is_gone() -> None:
    k = torch.randn(1, 1, 12, 4)
    bad = k.clone()
    bad[0, 0, 9:] = torch.nan
    cache = PagedCache(8)
    cache.append(bad, bad)
    cache.crop(9)
    torch.testing.assert_close(cache.attend(k[:, :, :1])[0], full(k[:, :, :1], k[:, :, :9], k[:, :, :9], 1.5))
    summary_is_fresh(cache)


def test_inference_mode_and_gradients() -> None:
    k = torch.randn(1, 1, 10, 4)
    cache = PagedCache(4)
    with torch.inference_mode():
        cache.append(k, k)
        cache.reorder(torch.zeros(2, dtype=torch.int64))
    cache.append(k.repeat(2, 1, 1, 1), k.repeat(2, 1, 1, 1))
    cache.crop(15)
    assert cache.attend(k[:, :, :1].repeat(2, 1, 1, 1))[0].shape == (2, 1, 1, 4)
    hot, query = k.repeat(2, 1, 1, 1).requires_grad_(), k[:, :, :1].repeat(2, 1, 1, 1)
    alpha = torch.tensor(1.5, requires_grad=True)
    with pytest.raises(TsallisError, match=r"key that requires.*entmax_attention"):
        cache.append(hot, hot)
    with pytest.raises(TsallisError, match="query that requires"):
        cache.attend(hot[:, :, :1])
    with pytest.raises(TsallisError, match="alpha that requires"):
        cache.attend(query, alpha=alpha)
    with torch.no_grad():
        cache.append(hot, hot)
        out, _ = cache.attend(hot[:, :, :1], alpha=alpha)
    assert not out.requires_grad
    assert not cache.keys.requires_grad


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ParameterError, match="page_size"):
        PagedCache(0)
    cache, k = PagedCache(), torch.randn(2, 2, 5, 4)
    for call in (lambda: cache.keys, lambda: cache.attend(k), lambda: cache.reorder(torch.tensor([0]))):
        with pytest.raises(TsallisError, match=r"empty cache.*Append"):
            call()
    cache.append(k, k)
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: cache.append(k[0], k[0]), ShapeError, r"\(B, H, n, d\)"),
        (lambda: cache.append(k, k[:, :, :3]), ShapeError, "as many values"),
        (lambda: cache.append(k[:1], k[:1]), ShapeError, "like those in the cache"),
        (lambda: cache.append(k.double(), k.double()), ShapeError, "like those in the cache"),
        (lambda: cache.append(k, k[..., :3]), ShapeError, "value of shape"),
        (lambda: cache.append(k, k, torch.ones(5)), ShapeError, "torch.bool"),
        (lambda: cache.attend(k[0]), ShapeError, r"\(B, Hq, n, d\)"),
        (lambda: cache.attend(torch.randn(2, 3, 1, 4)), ShapeError, "multiple"),
        (lambda: cache.attend(torch.randn(2, 2, 6, 4)), ShapeError, "newest"),
        (lambda: cache.attend(k.double()), ShapeError, "one floating dtype"),
        (lambda: cache.attend(k, alpha=-1.0), ParameterError, "alpha"),
        (lambda: cache.attend(k, scale="big"), ParameterError, "scale"),
        (lambda: cache.attend(k, keep=torch.ones(2, 4, dtype=torch.bool)), ShapeError, "broadcasts"),
        (lambda: cache.reorder(torch.tensor([0.5])), ShapeError, "integers"),
        (lambda: cache.crop(6), ParameterError, "from 0 to 5"),
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()
    assert len(cache) == 5
    torch.testing.assert_close(cache.attend(k)[0], full(k, k, k, 1.5))


def test_nothing_asked_and_entries_that_are_not_there() -> None:
    with torch.inference_mode():
        cache = PagedCache(page_size=4)
        cache.append(torch.randn(2, 1, 0, 8), torch.randn(2, 1, 0, 8))
    cache.append(torch.randn(2, 1, 0, 8), torch.randn(2, 1, 0, 8))
    for length in (0, 5):
        cache.append(torch.randn(2, 1, length, 8), torch.randn(2, 1, length, 8))
        out, stats = cache.attend(torch.randn(2, 3, 0, 8))
        assert out.shape == (2, 3, 0, 8)
        assert stats.residual.shape == (2, 3, 0)
        assert stats.share == 0
    for index in ([0, 2], [-1]):
        with pytest.raises(ParameterError, match="places of 2 entries"):
            cache.reorder(torch.tensor(index))
