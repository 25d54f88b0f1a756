"""Text in several typefaces, all derived from the one that Pillow carries inside itself, so that every machine draws the same.

That font (Aileron, regular) knows ASCII alone: accents are drawn here. Bold is a stroke, condensed and wide come from stretching a
panel after it was drawn, slanted from shearing.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from client.core.pictures.dice import Colour

_SMALL = 30
_LETTERS = {"ß": "ss", "œ": "oe", "æ": "ae", "·": ".", "•": "-", "–": "-"}
_DOTS, _ACUTE, _GRAVE, _ROOF, _HOOK, _TILDE, _RING = (
    "\u0308",
    "\u0301",
    "\u0300",
    "\u0302",
    "\u0327",
    "\u0303",
    "\u030a",
)


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The embedded typeface at a size in pixels, laid out without the optional shaping library."""
    loaded = ImageFont.load_default(10)
    assert isinstance(loaded, ImageFont.FreeTypeFont)  # only a Pillow without FreeType gives the bitmap one
    return loaded.font_variant(size=max(4, size), layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=2048)
def _plain(text: str) -> tuple[str, tuple[tuple[int, str], ...]]:
    """The ASCII letters of a text, and its accents by the position of their letter."""
    letters: list[str] = []
    marks: list[tuple[int, str]] = []
    for char in unicodedata.normalize("NFD", "".join(_LETTERS.get(c, c) for c in text)):
        if unicodedata.combining(char):
            marks.append((len(letters) - 1, char))
        else:
            letters.append(char if char < "\x7f" else "?")
    return "".join(letters), tuple(marks)


@lru_cache(maxsize=4096)
def text_width(text: str, size: int, bold: float = 0.0) -> float:
    """Pixels."""
    return font(size).getlength(_plain(text)[0]) + 2 * bold


@dataclass(slots=True)
class Pen:
    """Writes on one image. `weight` is the stroke of bold text as a part of its size."""

    draw: ImageDraw.ImageDraw
    ink: Colour
    weight: float = 0.028

    def write(self, x: float, y: float, text: str, size: int, *, bold: bool = False, anchor: str = "l") -> None:
        """`y` is the middle of the small letters' band; `anchor` l, m or r says which end `x` is."""
        plain, marks = _plain(text)
        # Small bold text is written twice, a pixel apart: at that size a stroke looks the same and takes three times as long.
        stroke = self.weight * size if bold and size > _SMALL else 0.0
        length = text_width(text, size)
        left = x - (length if anchor == "r" else length / 2 if anchor == "m" else 0.0)
        self.draw.text((left, y), plain, fill=self.ink, font=font(size), anchor="lm", stroke_width=stroke)
        if bold and size <= _SMALL:
            self.draw.text((left + 1, y), plain, fill=self.ink, font=font(size), anchor="lm")
        for position, mark in marks:
            start = left + font(size).getlength(plain[:position])
            wide = font(size).getlength(plain[position])
            self._accent(mark, start + wide / 2, y, size, plain[position].isupper())

    def _accent(self, mark: str, x: float, y: float, size: int, upper: bool) -> None:
        top = y - size * (0.5 if upper else 0.33)
        reach, width = size * 0.12, max(1, round(size * 0.08))
        if mark == _DOTS:
            for dx in (-reach, reach):
                self.draw.rectangle(
                    (x + dx - width / 2, top - width / 2, x + dx + width / 2, top + width / 2), fill=self.ink
                )
        elif mark == _HOOK:
            self.draw.line((x, y + size * 0.36, x - reach / 2, y + size * 0.48), fill=self.ink, width=width)
        elif mark in (_ACUTE, _GRAVE):
            lean = reach if mark == _ACUTE else -reach
            self.draw.line((x - lean / 2, top + reach / 2, x + lean / 2, top - reach / 2), fill=self.ink, width=width)
        elif mark in (_ROOF, _TILDE, _RING):
            self.draw.line(
                (x - reach, top + reach / 2, x, top - reach / 2, x + reach, top + reach / 2), fill=self.ink, width=width
            )


def slanted(picture: Image.Image, lean: float) -> Image.Image:
    """A mask sheared to the right by `lean` pixels for each pixel of height, as wide as it then needs."""
    extra = round(abs(lean) * picture.height)
    shift = -lean * picture.height if lean > 0 else 0.0
    size = (picture.width + extra, picture.height)
    return picture.transform(size, Image.Transform.AFFINE, (1.0, lean, shift, 0.0, 1.0, 0.0), Image.Resampling.BILINEAR)
