"""The gallery: which images come first, and what is really drawn on them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from client.core.answers import Answer
from client.core.boxes import Box
from client.core.disagreements import Disagreement, worst_disagreements
from client.core.plan import BoxFrame
from client.errors import UsageError
from client.reports.gallery import BASELINE, CANDIDATE, LEAST_WIDTH, TRUTH, draw, file_name, gallery

TRUE: Box = (0.1, 0.2, 0.5, 0.8)
MINE: Box = (0.2, 0.25, 0.6, 0.85)
YOURS: Box = (0.6, 0.1, 0.9, 0.5)


def photo(width: int = 1000, height: int = 500) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "#707070").save(out, "JPEG")
    return out.getvalue()


def item(**changes: object) -> Disagreement:
    fields = {
        "image_id": "image-7",
        "pass_": "measure",
        "truth": (TRUE,),
        "baseline": (MINE,),
        "candidate": (YOURS,),
        "baseline_iou": 0.6,
        "candidate_iou": 0.0,
        "between": 0.0,
    }
    return Disagreement(**{**fields, **changes})


def pixels(png: bytes) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def colour_along(png: bytes, box: Box, colour: str, width: int, height: int) -> float:
    """Share of the box's upper and left sides that has this colour."""
    page = pixels(png)
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    x = np.linspace(box[0] * width, box[2] * width, 400).astype(int)
    y = np.linspace(box[1] * height, box[3] * height, 400).astype(int)
    sides = np.concatenate([page[int(box[1] * height), x], page[y, int(box[0] * width)]])
    return float(np.mean(np.all(sides == wanted, axis=1)))


def test_boxes_stand_where_they_belong_in_their_colours() -> None:
    png = draw(item(), photo())
    assert png.startswith(b"\x89PNG")
    assert colour_along(png, TRUE, TRUTH.colour, 1000, 500) > 0.7
    assert 0.4 < colour_along(png, MINE, BASELINE.colour, 1000, 500) < 0.95
    assert 0.2 < colour_along(png, YOURS, CANDIDATE.colour, 1000, 500) < 0.8
    assert colour_along(png, (0.3, 0.3, 0.4, 0.4), CANDIDATE.colour, 1000, 500) == 0.0
    assert png == draw(item(), photo()), "the same run gives the same bytes"


def test_a_small_photo_is_drawn_large_enough_to_read() -> None:
    page = Image.open(io.BytesIO(draw(item(), photo(252, 168))))
    assert page.width == LEAST_WIDTH
    assert page.height > LEAST_WIDTH * 168 / 252


@pytest.mark.parametrize("size", [(4000, 200), (200, 4000), (5, 5)])
def test_any_shape_of_photo_and_any_text_can_be_drawn(size: tuple[int, int]) -> None:
    hostile = "\x1b[31m" + "name" * 40 + "\u202e\U0001f600"
    whole = (0.0, 0.0, 1.0, 1.0)
    tiny = (0.5, 0.5, 0.5001, 0.5001)
    given = item(image_id=hostile, pass_=hostile, truth=None, baseline=(whole, tiny), candidate=(), baseline_iou=None)
    assert max(Image.open(io.BytesIO(draw(given, photo(*size), baseline=hostile))).size) < 1600


def test_what_is_no_picture_is_told() -> None:
    for data in (b"", b"not a picture", photo()[:300]):
        with pytest.raises(UsageError, match="image-7 cannot be drawn"):
            draw(item(), data)


def test_file_names_stay_in_their_folder() -> None:
    assert file_name(3, "0044000007492_1") == "03-0044000007492_1.png"
    assert file_name(1, "../../etc/passwd") == "01-etc-passwd.png"
    assert file_name(12, "\x1b]\n/..") == "12-image.png"
    given = [item(image_id="a"), item(image_id="b"), item(image_id="c")]
    drawn = dict(gallery(given, lambda image_id: None if image_id == "b" else photo()))
    assert list(drawn) == ["01-a.png", "03-c.png"]


# Linear-light matrices of full dichromacy: Viénot, Brettel and Mollon 1999 (protan, deutan); tritan after Machado et al. 2009.
BLIND = {
    "protan": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deutan": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", BLIND)
def test_colour_blind_people_tell_the_lines_apart(kind: str) -> None:
    """CIE76 distance in Lab of every two pens as such a person sees them; 20 is plain at a glance."""
    seen = [_lab(_as_seen(pen.colour, BLIND[kind])) for pen in (TRUTH, BASELINE, CANDIDATE)]
    for k, first in enumerate(seen):
        for second in seen[k + 1 :]:
            assert np.linalg.norm(first - second) > 20


def _as_seen(colour: str, matrix: list[list[float]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    value = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.clip(np.array(matrix) @ linear, 0, 1)


def _lab(linear: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = to_xyz @ linear / np.array([0.9505, 1.0, 1.089])
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def test_the_worst_come_first_once_each_and_agreement_is_left_out() -> None:
    def answer(image_id: str, text: str | None, pass_: str = "measure") -> Answer:
        return Answer(image_id, text, (TRUE,), 100, 100, pass_)

    same, near, far = "[0.1, 0.2, 0.5, 0.8]", "[0.1, 0.2, 0.5, 0.7]", "[0.1, 0.2, 0.3, 0.5]"
    base = [answer(name, same) for name in ("same", "near", "far", "mute", "lost")]
    base += [answer("both", None), answer("far", same, "load")]
    other = [answer("same", same), answer("near", near), answer("far", far), answer("lost", "no table")]
    other += [answer("both", None), answer("far", near, "load")]
    found = worst_disagreements(base, other, BoxFrame.UNIT)
    assert [entry.image_id for entry in found] == ["lost", "far", "near"]
    assert found[1].between == pytest.approx(0.25)
    assert (found[0].baseline_iou, found[0].candidate_iou, found[0].candidate) == (1.0, 0.0, ())
    assert [entry.image_id for entry in worst_disagreements(base, other, BoxFrame.UNIT, count=1)] == ["lost"]
