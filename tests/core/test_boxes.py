"""Reading boxes: every form and frame reads back, and nothing else becomes a box."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.boxes import Box, frame_size, iou, match, read_boxes, to_unit, written_boxes
from client.core.plan import BoxFrame

FRAMES = [BoxFrame.UNIT, BoxFrame.GRID1000, BoxFrame.PIXELS, BoxFrame.RESIZED_PIXELS]
WRITTEN = (10.0, 20.0, 30.0, 40.0)


@pytest.mark.parametrize(
    "text",
    [
        "[10, 20, 30, 40]",
        "[10,20,30,40]",
        "[ 10 , 20 ,\n30 , 40 ]",
        "The table is at [10, 20, 30, 40], left of the barcode (4006381333931).",
        "nutrition-table(10,20),(30,40)",
        "nutrition-table(10,20,30,40)",
        "nutrition-table<box(10, 20),(30, 40)>",
        "nutrition-table<box>(10,20),(30,40)</box>",
        "nutrition-table<box>(10,20),(30,40)",
        "nutrition-table<box>10, 20, 30, 40</box>",
        "<ref>nutrition table</ref><box>[[10, 20, 30, 40]]</box>",
        "<|object_ref_start|>nutrition table<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>",
        "<|box_start|>10,20,30,40<|box_end|>",
        '[{"bbox_2d": [10, 20, 30, 40], "label": "nutrition table"}]',
        '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "table 3, 4"}\n]\n```',
        '{"x_min": 10, "y_min": 20, "x_max": 30, "y_max": 40}',
        "xmin=10, ymin=20, xmax=30, ymax=40",
        "x1: 10; y1: 20; x2: 30; y2: 40.",
        "[[10, 20], [30, 40]]",
        "[(10, 20), (30, 40)]",
        "(10.0, 2e1, +30, 40.)",
        "[30, 40, 10, 20]",
        "(30,20),(10,40)",
    ],
)
def test_reads_every_form(text: str) -> None:
    assert written_boxes(text) == (WRITTEN,)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "There is no nutrition table in this picture.",
        "Per 100 g: energy 1046 kJ, fat 10, 20, 30, 40 g",
        "[10, 20, 30]",
        "[10, 20, 30, 40, 50]",
        "(10, 20)",
        "[10 20 30 40]",
        "[10%, 20%, 30%, 40%]",
        "[1,024, 20, 30, 40]",
        "[0.10.2, 0.2, 0.3, 0.4]",
        "[x1, y1, x2, y2]",
        "[10, 20, 30, nan]",
        "[10, 20, 30, inf]",
        "[10, 20, 30, 1e999]",
        "[12345678901, 20, 30, 40]",
        "[[10, 20], [30, 40], [50, 60], [70, 80]]",
        "(10,20),(30,40),(50,60)",
        '{"point_2d": [10, 20]}, {"point_2d": [30, 40]}',
        "<box>10, 20, 30</box>",
        "box 10, 20, 30, 40",
        "[١٠, ٢٠, ٣٠, ٤٠]",
    ],
)
def test_never_invents_a_box(text: str | None) -> None:
    assert written_boxes(text) == ()


@pytest.mark.parametrize(
    "whole",
    [
        "[10, 20, 30, 45]",
        "label(10,20,30,45)",
        "label(10,20),(30,45)",
        "label<box>10,20,30,45</box>",
        "[(10, 20), (30, 45)]",
        '{"bbox_2d": [10, 20, 30, 45]}',
        '{"x_min": 10, "y_min": 20, "x_max": 30, "y_max": 45}',
    ],
)
def test_a_cut_off_box_is_not_read(whole: str) -> None:
    """At any cut the answer reads as the whole box or as none, never as another one."""
    expected = {(), written_boxes(whole)}
    assert {written_boxes(whole[:end], complete=False) for end in range(len(whole) + 1)} == expected


@pytest.mark.parametrize("whole", ["[[10, 20], [30, 40], [50, 60], [70, 80]]", "[(1,2),(3,4),(5,6)]"])
def test_a_cut_off_polygon_is_not_read(whole: str) -> None:
    assert {written_boxes(whole[:end], complete=False) for end in range(len(whole))} == {()}


def test_a_row_of_points_that_goes_on_is_not_read() -> None:
    assert written_boxes("(10,20),(30,40),(50,", complete=False) == ()
    assert written_boxes("(10,20),(30,40),") == (WRITTEN,)


def test_reads_several_boxes_and_leaves_out_the_unfinished_one() -> None:
    text = "a(1,2),(3,4)\n\na(5,6),(7,8)(9,10),(11,12)\na<box>[[1, 1, 2, 2], [3, 3, 4, 4]]</box>\na(13,14),(15,"
    assert written_boxes(text) == (
        (1, 2, 3, 4),
        (5, 6, 7, 8),
        (9, 10, 11, 12),
        (1, 1, 2, 2),
        (3, 3, 4, 4),
    )


FORMS: list[Callable[[str, str, str, str], str]] = [
    lambda a, b, c, d: f"[{a}, {b}, {c}, {d}]",
    lambda a, b, c, d: f"[{c}, {d}, {a}, {b}]",
    lambda a, b, c, d: f"table({a},{b}),({c},{d})",
    lambda a, b, c, d: f"table({a},{b},{c},{d})",
    lambda a, b, c, d: f"table<box({a}, {b}),({c}, {d})>",
    lambda a, b, c, d: f'Sure! ```json\n[{{"bbox_2d": [{a}, {b}, {c}, {d}], "label": "t"}}]\n```',
    lambda a, b, c, d: f"<|box_start|>({a},{b}),({c},{d})<|box_end|>",
    lambda a, b, c, d: f'{{"x_min": {a}, "y_min": {b}, "x_max": {c}, "y_max": {d}}}',
]
unit_boxes = st.tuples(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.02, 0.1), st.floats(0.02, 0.1)).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
)


@given(
    box=unit_boxes,
    form=st.sampled_from(FORMS),
    frame=st.sampled_from(FRAMES),
    width=st.integers(100, 2000),
    height=st.integers(100, 2000),
    figures=st.integers(0, 6),
)
@settings(deadline=None)
def test_any_box_in_any_form_and_frame_reads_back(
    box: Box, form: Callable[[str, str, str, str], str], frame: BoxFrame, width: int, height: int, figures: int
) -> None:
    size = frame_size(frame, width, height)
    assert size is not None
    figures = figures if size[0] > 1 else figures + 3
    written = form(*(f"{value * side:.{figures}f}" for value, side in zip(box, size * 2, strict=True)))
    (read,) = read_boxes(written, frame, width, height)
    for value, expected, side in zip(read, box, size * 2, strict=True):
        assert abs(value - expected) <= 0.5 * 10**-figures / side + 1e-9


def test_pixels_of_the_sent_and_of_the_resized_picture_differ() -> None:
    """1024x759 is resized to 1036x756 by Qwen's processor."""
    text = "[518, 378, 1036, 756]"
    assert read_boxes(text, BoxFrame.RESIZED_PIXELS, 1024, 759) == ((0.5, 0.5, 1.0, 1.0),)
    assert read_boxes(text, BoxFrame.PIXELS, 1024, 759) == ((518 / 1024, 378 / 759, 1.0, 756 / 759),)
    assert read_boxes(text, BoxFrame.RESIZED_PIXELS, 4000, 10) == ()


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("[265, 492, 735, 842]", BoxFrame.UNIT),
        ("[0, 0, 735, 842]", BoxFrame.UNIT),
        ("[0, 0, 1100, 900]", BoxFrame.GRID1000),
        ("[-100, 0, 500, 500]", BoxFrame.GRID1000),
        ("[0.5, 0.2, 0.5, 0.6]", BoxFrame.UNIT),
        ("[0.5, 0.5, 0.5, 0.5]", BoxFrame.UNIT),
        ("[1001, 10, 1010, 20]", BoxFrame.GRID1000),
        ("[1e-99, 0, 2e-99, 1e-320]", BoxFrame.UNIT),
    ],
)
def test_numbers_outside_the_frame_or_without_area_are_refused(text: str, frame: BoxFrame) -> None:
    assert read_boxes(text, frame) == ()


def test_swapped_corners_of_a_given_box_are_sorted() -> None:
    assert to_unit((600, 700, 200, 300), (1000, 1000)) == (0.2, 0.3, 0.6, 0.7)


def test_a_small_overshoot_is_cut_to_the_picture() -> None:
    assert read_boxes("[-5, 100, 1010, 500]", BoxFrame.GRID1000) == ((0.0, 0.1, 1.0, 0.5),)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(4))
def test_not_finite_coordinates_are_refused(bad: float, place: int) -> None:
    four = [0.1, 0.2, 0.5, 0.6]
    four[place] = bad
    assert to_unit(four, (1.0, 1.0)) is None
    with pytest.raises(ValueError, match="not a box"):
        iou((four[0], four[1], four[2], four[3]), (0.1, 0.2, 0.5, 0.6))


def test_auto_and_unknown_sizes_are_never_guessed() -> None:
    with pytest.raises(ValueError, match="decided"):
        read_boxes("[1, 2, 3, 4]", BoxFrame.AUTO)
    with pytest.raises(ValueError, match="size of the picture"):
        read_boxes("[1, 2, 3, 4]", BoxFrame.PIXELS)


alphabet = st.text(alphabet="[](){}<>|/,.:;=+-0123456789eE xy12_minbox\"'\n\\`% ", max_size=200)


@given(text=st.one_of(alphabet, st.text(max_size=200)), frame=st.sampled_from(FRAMES), complete=st.booleans())
@settings(deadline=None)
def test_any_text_reads_without_a_crash_and_only_as_real_boxes(text: str, frame: BoxFrame, complete: bool) -> None:
    for box in read_boxes(text, frame, 640, 480, complete=complete):
        assert all(0 <= value <= 1 for value in box)
        assert box[2] > box[0]
        assert box[3] > box[1]
    assert len(re.findall("[0-9]+", text)) >= 4 * len(written_boxes(text, complete=complete))


@given(text=st.text(alphabet="abc ,.;:%-0123456789\n", max_size=300))
@settings(deadline=None)
def test_prose_with_numbers_holds_no_box(text: str) -> None:
    assert written_boxes(text) == ()


HOSTILE = [
    "[",
    "(",
    "[1,",
    "(1,2),",
    "1",
    "[1,1,1,1,1",
    "[ ",
    "x1=1 y1=2 ",
    "<box>1,2,3,",
    "[1, 2, 3, 4], ",
    "x_min: 1, ",
    "(1,2)\n",
    "[1.1.",
    '"bbox_2d": [[[',
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_megabyte_of_hostile_text_takes_linear_time(piece: str) -> None:
    def spent(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.process_time()
        written_boxes(text)
        return time.process_time() - start

    assert spent(1_000_000) < 5.0
    for tail in (" " * 1_000_000, "\n" * 1_000_000 + ",", "9" * 1_000_000):
        start = time.process_time()
        written_boxes(piece + tail)
        assert time.process_time() - start < 2.0


@given(a=unit_boxes, b=unit_boxes)
@settings(deadline=None)
def test_iou_is_symmetric_and_one_only_for_equal_boxes(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0.0 <= iou(a, b) <= 1.0
    assert (iou(a, b) == 1.0) == (a == b)
    assert iou(a, a) == 1.0


@given(a=unit_boxes)
@settings(deadline=None)
def test_iou_of_boxes_one_step_apart_is_not_one(a: Box) -> None:
    b = (a[0], a[1], math.nextafter(a[2], 2), a[3])
    assert iou(a, b) < 1.0


def test_iou_by_hand() -> None:
    assert iou((0, 0, 0.5, 0.5), (0.25, 0.25, 0.75, 0.75)) == pytest.approx(0.0625 / 0.4375)
    assert iou((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5)) == 0.0
    assert iou((0, 0, 1, 1), (0.25, 0.25, 0.75, 0.75)) == 0.25


def test_matching_is_one_to_one_from_the_best_pair_down() -> None:
    truth = [(0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 0.4, 0.5)]
    predictions = [(0.0, 0.0, 0.4, 0.45), (0.0, 0.0, 0.4, 0.5), (0.0, 0.0, 0.4, 0.5)]
    pairs = match(predictions, truth)
    assert [(pair.prediction, pair.truth) for pair in pairs] == [(1, 1), (0, 0)]
    assert match(predictions, truth, at_least=0.95) == pairs[:1]
    assert match([], truth) == []
    assert match(predictions, []) == []


@given(predictions=st.lists(unit_boxes, max_size=5), truth=st.lists(unit_boxes, max_size=5), limit=st.floats(0, 1))
@settings(deadline=None)
def test_matches_at_a_threshold_are_the_first_of_all_matches(
    predictions: list[Box], truth: list[Box], limit: float
) -> None:
    every = match(predictions, truth)
    kept = [pair for pair in every if pair.iou >= limit]
    assert match(predictions, truth, at_least=limit) == kept
    assert len({pair.prediction for pair in every}) == len(every) == len({pair.truth for pair in every})
