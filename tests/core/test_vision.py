"""Image tokens: known sizes, and what must hold for any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core.vision import FACTOR, MAX_PIXELS, MIN_PIXELS, image_tokens, smart_resize
from client.errors import UsageError


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (1024, 759, 999),
        (640, 480, 391),
        (512, 380, 252),
        (256, 190, 63),
        (2048, 1518, 3942),
        (4208, 3120, 16_280),
    ],
)
def test_known_sizes(width: int, height: int, tokens: int) -> None:
    assert image_tokens(width, height) == tokens


def test_the_seed_picture_is_resized_to_1036_by_756() -> None:
    assert smart_resize(1024, 759) == (1036, 756)
    assert image_tokens(1024, 759, max_pixels=1_003_520) == 999


def test_a_lower_max_pixels_shrinks() -> None:
    assert smart_resize(1024, 759, max_pixels=470_400) == (784, 588)
    assert image_tokens(1024, 759, max_pixels=470_400) == 588


def test_halves_are_rounded_to_even() -> None:
    assert smart_resize(70, 98) == (56, 112)  # 2.5 -> 2, 3.5 -> 4


def test_a_tiny_picture_grows() -> None:
    assert smart_resize(5, 5) == (56, 56)


def test_width_and_height_keep_their_places() -> None:
    assert smart_resize(200, 1000) == (196, 1008)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (-3, 5), (201, 1), (1, 201)])
def test_refused_shapes(width: int, height: int) -> None:
    with pytest.raises(UsageError):
        smart_resize(width, height)


def test_refused_limits() -> None:
    with pytest.raises(UsageError):
        smart_resize(100, 100, min_pixels=10, max_pixels=5)


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_any_size_stays_in_bounds(width: int, height: int) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    new_width, new_height = smart_resize(width, height)
    assert new_width % FACTOR == new_height % FACTOR == 0
    assert MIN_PIXELS <= new_width * new_height <= MAX_PIXELS
    assert image_tokens(width, height) == (new_width // FACTOR) * (new_height // FACTOR)
