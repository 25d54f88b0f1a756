"""Disagreements -> PNG pictures: the true box and the boxes of both targets on the photo, with their IoUs below.

Colours are three of Okabe and Ito's, which people with any common colour blindness tell apart; line patterns and labels say the same
once more, so that nothing hangs on colour alone. Every line has a contrasting edge and shows on any photo.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from client.core.boxes import Box
from client.core.disagreements import Disagreement
from client.errors import UsageError
from client.reports.terminal import plain

LEAST_WIDTH, MOST_SIDE = 720, 1280
_MARGIN, _TEXT, _LINE, _SAMPLE = 16, 20, 4, 62
_Point = tuple[float, float]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class _Pen(NamedTuple):
    colour: str
    edge: str
    pattern: tuple[int, int] | None
    """Drawn and skipped pixels; None: a solid line."""


TRUTH = _Pen("#FFFFFF", "#000000", None)
BASELINE = _Pen("#56B4E9", "#000000", (26, 10))
CANDIDATE = _Pen("#E69F00", "#000000", (8, 8))


def draw(item: Disagreement, jpeg: bytes, *, baseline: str = "baseline", candidate: str = "candidate") -> bytes:
    """One PNG. `jpeg` is the picture as it was sent. Raises UsageError when it cannot be opened."""
    photo = _photo(jpeg, item.image_id)
    pencil = ImageDraw.Draw(photo)
    for boxes, pen in ((item.truth or (), TRUTH), (item.baseline, BASELINE), (item.candidate, CANDIDATE)):
        for box in boxes:
            _outline(pencil, box, photo.size, pen)
    out = io.BytesIO()
    _with_caption(photo, _entries(item, baseline, candidate), _title(item, baseline, candidate)).save(out, format="PNG")
    return out.getvalue()


def gallery(
    items: Iterable[Disagreement],
    jpeg_of: Callable[[str], bytes | None],
    *,
    baseline: str = "baseline",
    candidate: str = "candidate",
) -> Iterator[tuple[str, bytes]]:
    """File name and PNG of each item in order. `jpeg_of` gives the sent picture of an image id; None leaves that image out."""
    for number, item in enumerate(items, start=1):
        jpeg = jpeg_of(item.image_id)
        if jpeg is not None:
            yield file_name(number, item.image_id), draw(item, jpeg, baseline=baseline, candidate=candidate)


def file_name(number: int, image_id: str) -> str:
    """Safe in any folder: an image id comes from outside and may hold anything."""
    return f"{number:02d}-{safe_name(image_id)}.png"


def safe_name(text: str) -> str:
    """Letters, digits, dots and hyphens; `image` where nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:60] or "image"


def _photo(jpeg: bytes, image_id: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(jpeg)) as opened:
            photo = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"The picture of {plain(image_id)} cannot be drawn: {error}.") from error
    scale = min(max(1.0, LEAST_WIDTH / photo.width), MOST_SIDE / max(photo.size))
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return photo.resize(size, Image.Resampling.LANCZOS) if size != photo.size else photo


def _outline(pencil: ImageDraw.ImageDraw, box: Box, size: tuple[int, int], pen: _Pen) -> None:
    """Kept half a line inside the photo, so that a box at its border still shows."""
    half = _LINE
    left, right = (min(max(x * size[0], half), size[0] - 1 - half) for x in (box[0], box[2]))
    top, bottom = (min(max(y * size[1], half), size[1] - 1 - half) for y in (box[1], box[3]))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        _line(pencil, start, end, pen)


def _line(pencil: ImageDraw.ImageDraw, start: _Point, end: _Point, pen: _Pen) -> None:
    for a, b in _dashes(start, end, pen.pattern):
        pencil.line([_longer(b, a, 2), _longer(a, b, 2)], fill=pen.edge, width=_LINE + 4)
        pencil.line([a, b], fill=pen.colour, width=_LINE)


def _longer(a: _Point, b: _Point, by: float) -> _Point:
    """The end b of the line a-b, moved outwards."""
    length = max(abs(b[0] - a[0]) + abs(b[1] - a[1]), 1e-9)
    return b[0] + (b[0] - a[0]) / length * by, b[1] + (b[1] - a[1]) / length * by


def _dashes(start: _Point, end: _Point, pattern: tuple[int, int] | None) -> Iterator[tuple[_Point, _Point]]:
    """Pieces of a horizontal or vertical line; the last one ends at its end, so that corners are closed."""
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    if pattern is None or length <= pattern[0]:
        yield start, end
        return
    on, off = pattern
    steps = max(1, round((length - on) / (on + off)))
    for k in range(steps + 1):
        at = k * (length - on) / steps
        yield _along(start, end, at / length), _along(start, end, (at + on) / length)


def _along(start: _Point, end: _Point, share: float) -> _Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _title(item: Disagreement, baseline: str, candidate: str) -> str:
    where = "" if item.pass_ == "measure" else f" ({plain(item.pass_)})"
    return f"{_short(item.image_id)}{where}: {_short(baseline)} and {_short(candidate)} overlap with IoU {item.between:.3f}"


def _entries(item: Disagreement, baseline: str, candidate: str) -> list[tuple[_Pen, str]]:
    truth = "truth" if item.truth else "truth: not known" if item.truth is None else "truth: no table"
    return [
        (TRUTH, truth),
        (BASELINE, _told(baseline, item.baseline, item.baseline_iou)),
        (CANDIDATE, _told(candidate, item.candidate, item.candidate_iou)),
    ]


def _told(name: str, boxes: tuple[Box, ...], value: float | None) -> str:
    if not boxes:
        return f"{_short(name)}: no readable box"
    more = f", {len(boxes)} boxes" if len(boxes) > 1 else ""
    return f"{_short(name)}: IoU {value:.3f} with the truth{more}" if value is not None else f"{_short(name)}{more}"


def _short(text: str) -> str:
    text = plain(text).strip()
    return text if len(text) <= 28 else text[:27] + "…"


def _with_caption(photo: Image.Image, entries: list[tuple[_Pen, str]], title: str) -> Image.Image:
    """The photo above a strip with the title and a legend; legend entries that do not fit in one row take another."""
    font = ImageFont.load_default(_TEXT)
    width = max(photo.width, LEAST_WIDTH)
    rows: list[list[tuple[_Pen, str, int]]] = [[]]
    x = _MARGIN
    for pen, text in entries:
        needed = _SAMPLE + 12 + round(font.getlength(text)) + 24
        if rows[-1] and x + needed > width:
            rows.append([])
            x = _MARGIN
        rows[-1].append((pen, text, x))
        x += needed
    step = _TEXT + 12
    page = Image.new("RGB", (width, photo.height + _MARGIN + step * (1 + len(rows)) + 4), "#FFFFFF")
    page.paste(photo, ((width - photo.width) // 2, 0))
    pencil = ImageDraw.Draw(page)
    y = photo.height + _MARGIN // 2
    pencil.text((_MARGIN, y), title, fill="#000000", font=font)
    for row in rows:
        y += step
        for pen, text, left in row:
            _sample(pencil, (left, y + _TEXT / 2 + 2), pen)
            pencil.text((left + _SAMPLE + 12, y), text, fill="#000000", font=font)
    return page


def _sample(pencil: ImageDraw.ImageDraw, at: _Point, pen: _Pen) -> None:
    _line(pencil, at, (at[0] + _SAMPLE, at[1]), pen)


def small(png: bytes, width: int = 640) -> bytes:
    """The same picture as WebP of at most `width` pixels: for a page that must stay small."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=78, method=6)
    return out.getvalue()


def told(item: Disagreement, *, baseline: str = "baseline", candidate: str = "candidate") -> str:
    """What a picture of the gallery shows, in words."""
    sides = ((baseline, item.baseline, item.baseline_iou), (candidate, item.candidate, item.candidate_iou))
    truth = "The true box is not known" if item.truth is None else "There is no table" if not item.truth else ""
    parts = [*(_told(*side) for side in sides), truth]
    return f"{_title(item, baseline, candidate)}. {'; '.join(part for part in parts if part)}."
