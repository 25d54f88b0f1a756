"""Intervals: known numbers, published examples, and how often they cover the truth."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from marked import answers, moved

from client.core.plan import BoxFrame
from client.core.quality import parity, target_quality
from client.core.resample import Resampling, bootstrap_sums, by_image, images_needed, mcnemar, share_difference, wilson


def test_wilson_against_published_values() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    assert wilson(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148, 0.95) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20, 0.95) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29, 0.95) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_mcnemar_is_the_exact_sign_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(8, 1) == mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)
    assert 0 < mcnemar(60_000, 61_000) < 0.01


def test_share_difference_against_a_published_example() -> None:
    """Newcombe 1998, Statistics in Medicine 17, 2635: method 10 on the table 36, 12, 2, 0 gives 0.0569 to 0.3404 for first − second."""
    assert share_difference(36, 2, 12, 0, 0.95) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_images_needed_by_hand() -> None:
    """(1.959964 + 0.841621)² · 100 = 784.9 when the standard error is as large as the distance."""
    assert images_needed(0.01, 100, 0.01, 0.95) == 785
    assert images_needed(0.01, 100, 0.02, 0.95) == 197


def test_share_difference_contains_it_and_mirrors() -> None:
    low, high = share_difference(40, 10, 5, 45, 0.95)
    assert low < -0.05 < high
    assert share_difference(40, 5, 10, 45, 0.95) == pytest.approx((-high, -low))
    assert share_difference(0, 0, 0, 100, 0.95)[1] > 0.03
    # Shares that rise and fall together differ by less than shares that go their own way.
    together, apart = share_difference(50, 5, 5, 40, 0.95), share_difference(28, 27, 27, 18, 0.95)
    assert together[1] - together[0] < 0.8 * (apart[1] - apart[0])


def test_a_thinned_bootstrap_gives_the_same_interval() -> None:
    rows = np.random.default_rng(5).beta(8, 2, size=(60_000, 1))
    pairs = np.concatenate([rows, np.ones_like(rows)], axis=1)
    found = by_image(pairs, lambda sums: sums[..., :1] / sums[..., 1:], Resampling(resamples=4000))
    half = 1.96 * rows.std() / np.sqrt(len(rows))
    assert found.low[0] == pytest.approx(rows.mean() - half, abs=half * 0.06)
    assert found.high[0] == pytest.approx(rows.mean() + half, abs=half * 0.06)


def test_many_answers_take_seconds_and_little_memory() -> None:
    """10,000 answers, a tenth of a very long run; the limits leave a slow machine ten times what was measured."""
    texts: list[str | None] = [moved(0.001 * (k % 50)) for k in range(10_000)]
    given = answers(texts)
    start = time.process_time()
    target_quality(given, BoxFrame.AUTO)
    parity(given, given, BoxFrame.UNIT)
    assert time.process_time() - start < 15
    rows = np.ones((9_000, 2))
    tracemalloc.start()
    bootstrap_sums(rows, seed=0, resamples=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000, "144 MB would hold all draws at once"


@pytest.mark.parametrize(("number", "least"), [(10, 0.84), (30, 0.87), (100, 0.91)])
def test_intervals_of_a_mean_iou_cover_the_truth(number: int, least: float) -> None:
    """400 experiments with skewed IoUs and 7 % misses. Ten pictures often hold no miss at all, and no interval can know of it."""
    draw = np.random.default_rng(11)

    def ious() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.where(draw.random(number) < 0.07, 0.0, draw.beta(8, 2, number))

    assert least <= coverage(ious, number, 0.93 * 8 / 10) <= 0.985


@pytest.mark.parametrize(("number", "least"), [(10, 0.90), (30, 0.90), (100, 0.91)])
def test_intervals_of_a_paired_difference_cover_the_truth(number: int, least: float) -> None:
    """400 experiments in which 6 of 10 answers are the same and the others move a little."""
    draw = np.random.default_rng(12)

    def changes() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.where(draw.random(number) < 0.4, draw.normal(0, 0.02, number), 0.0)

    assert least <= coverage(changes, number, 0.0) <= 0.985


def coverage(values: Callable[[], np.ndarray[tuple[int], np.dtype[np.float64]]], number: int, truth: float) -> float:
    inside = 0
    for seed in range(400):
        rows = np.stack([values(), np.ones(number)], axis=1)
        found = by_image(rows, lambda sums: sums[..., :1] / sums[..., 1:], Resampling(seed=seed, resamples=500))
        inside += bool(found.low[0] <= truth <= found.high[0])
    return inside / 400
