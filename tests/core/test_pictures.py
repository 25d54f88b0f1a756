"""Synthetic photographs: the same everywhere, never two alike, and a true box that is the table's own edge."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.core.pictures import synthetic
from client.core.pictures.dice import Dice
from client.core.pictures.lettering import Pen, font, text_width
from client.core.pictures.photo import compose, develop, expose
from client.core.pictures.view import bounds, choose_view, outline

FRAME = (640, 480)


def pixels(seed: int, number: int, size: tuple[int, int]) -> bytes:
    """The photograph before JPEG, whose bytes depend on the library."""
    dice = Dice(seed, number)
    scene = compose(dice, size)
    return develop(dice, expose(scene, scene.plane, size)).tobytes()


def test_a_number_is_always_the_same_picture_and_box() -> None:
    assert synthetic(3, 5, *FRAME) == synthetic(3, 5, *FRAME)
    dice = Dice(3, 5)
    assert [round(v, 6) for v in compose(dice, FRAME).box] == [0.113588, 0.232133, 0.43137, 0.711253]


def test_the_pixels_are_those_that_were_drawn_when_this_was_written() -> None:
    """Another picture under the same seed would make runs of two versions incomparable: change this only on purpose."""
    assert hashlib.sha256(pixels(0, 0, (320, 240))).hexdigest()[:16] == "cd21d0f25de4634f"


def test_no_two_numbers_and_no_two_seeds_are_alike() -> None:
    seen = {hashlib.sha256(pixels(seed, number, (160, 120))).hexdigest() for seed in (0, 1) for number in range(40)}
    assert len(seen) == 80


def table_extent(number: int, size: tuple[int, int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The true box in pixels, and the extent of what changes when the table alone is painted over."""
    scene = compose(Dice(11, number), size)
    plane = Image.new("L", scene.plane.size)
    plane.paste(255, scene.table)
    seen = np.asarray(expose(scene, plane, size), dtype=np.float64) / 255
    width, height = size
    box = (scene.box[0] * width, scene.box[1] * height, scene.box[2] * width, scene.box[3] * height)
    across, down = seen.max(axis=0), seen.max(axis=1)
    return box, (edge(across), edge(down), width - edge(across[::-1]), height - edge(down[::-1]))


def edge(profile: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Where the table begins, to a part of a pixel: the first full pixel less the parts of those before it."""
    full = int(np.argmax(profile > 0.98))
    return full - float(profile[:full].sum())


@pytest.mark.parametrize("size", [(1024, 759), (480, 640), (300, 300)])
def test_the_box_is_within_a_pixel_of_the_tables_outer_edge(size: tuple[int, int]) -> None:
    for number in range(40):
        box, extent = table_extent(number, size)
        assert np.abs(np.array(box) - np.array(extent)).max() <= 1.0, (number, box, extent)


def test_the_drawn_table_fills_its_place_to_the_edge() -> None:
    """Painting over the table's place changes the picture right up to the box, so the drawn table itself ends there."""
    for number in range(12):
        scene = compose(Dice(11, number), FRAME)
        table = np.asarray(scene.plane.crop(scene.table))
        frame = np.concatenate([table[0], table[-1], table[:, 0], table[:, -1]])
        around = np.asarray(
            scene.plane.crop((scene.table[0] - 2, scene.table[1] - 2, scene.table[2] + 2, scene.table[3] + 2))
        )
        outside = np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])
        # A border or another paper: the edge differs from what lies outside it.
        assert np.abs(frame.astype(int).mean(axis=0) - outside.astype(int).mean(axis=0)).max() > 8, number


@settings(max_examples=60, deadline=None)
@given(number=st.integers(0, 10**9), width=st.integers(56, 500), height=st.integers(56, 500))
def test_any_number_and_size_gives_a_table_inside_the_picture(number: int, width: int, height: int) -> None:
    case = synthetic(1, number, width, height)
    assert Image.open(io.BytesIO(case.jpeg)).size == (case.width, case.height) == (width, height)
    assert case.boxes is not None
    (box,) = case.boxes
    assert 0 <= box[0] < box[2] <= 1
    assert 0 <= box[1] < box[3] <= 1
    assert (box[2] - box[0]) * width >= 8


@settings(max_examples=60, deadline=None)
@given(number=st.integers(0, 10**6), aspect=st.floats(0.4, 2.5))
def test_the_way_into_the_frame_and_back_meet(number: int, aspect: float) -> None:
    view, wide, high = choose_view(Dice(2, number), aspect, FRAME)
    points = outline(-wide / 2, -high / 2, wide / 2, high / 2)
    assert np.abs(view.to_plane(view.to_frame(points)) - points).max() < 1e-6 * max(wide, high)
    x_min, y_min, x_max, y_max = bounds(view.to_frame(points))
    assert min(x_min, y_min) > 0
    assert x_max < FRAME[0]
    assert y_max < FRAME[1]


def test_photographs_are_varied() -> None:
    boxes = [synthetic(0, number, 200, 150).boxes for number in range(120)]
    areas = [(b[0][2] - b[0][0]) * (b[0][3] - b[0][1]) for b in boxes if b]
    assert min(areas) < 0.08
    assert max(areas) > 0.5
    centres = np.array([((b[0][0] + b[0][2]) / 2, (b[0][1] + b[0][3]) / 2) for b in boxes if b])
    assert centres.std(axis=0).min() > 0.1


def test_accents_are_drawn_though_the_font_has_none() -> None:
    def drawn(text: str) -> bytes:
        from PIL import ImageDraw

        picture = Image.new("L", (120, 40))
        Pen(ImageDraw.Draw(picture), 255).write(4, 20, text, 24)  # type: ignore[arg-type]  # a gray pen for a gray picture
        return picture.tobytes()

    assert len({drawn(text) for text in ("Nahr", "Nähr", "Nâhr", "Náhr", "Nàhr")}) == 5
    assert text_width("ß", 20) == text_width("ss", 20)
    assert font(12).getbbox("x") != font(24).getbbox("x")


@pytest.mark.parametrize(("seed", "number", "side"), [(-1, 0, 100), (0, -1, 100), (0, 0, 55)])
def test_what_cannot_be_drawn_is_refused(seed: int, number: int, side: int) -> None:
    with pytest.raises(ValueError, match="at"):
        synthetic(seed, number, side, 100)
