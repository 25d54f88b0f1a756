"""One photograph: plane, view, light, sensor, JPEG.

Pixels and boxes depend on the seed, the number and the size alone (with one version of Pillow and of the maths library);
the JPEG bytes may differ between libjpeg versions.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageChops

from client.core.cases import Box, ImageCase
from client.core.pictures import packages, tables
from client.core.pictures.dice import Dice
from client.core.pictures.view import Points, View, bounds, choose_view, mesh, outline, perspective

SMALLEST_SIDE = 56
_BELL = [NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)]


@dataclass(frozen=True, slots=True)
class Scene:
    """The flat plane as drawn, and how it is seen. `place` maps plane coordinates to pixels of `plane`; `table` is in those pixels."""

    plane: Image.Image
    place: Points
    view: View
    table: packages.Area
    box: Box


def synthetic(seed: int, number: int, width: int, height: int) -> ImageCase:
    """Photograph `number` of the endless series `seed`, with the axis-aligned bounds of its nutrition table as the one true box.

    ValueError for a negative seed or number, or a side under 56 pixels.
    """
    if seed < 0 or number < 0:
        raise ValueError("seed and number start at 0")
    if min(width, height) < SMALLEST_SIDE:
        raise ValueError(f"a synthetic picture has sides of at least {SMALLEST_SIDE} pixels")
    dice = Dice(seed, number)
    scene = compose(dice, (width, height))
    picture = develop(dice, expose(scene, scene.plane, (width, height)))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=dice.integer(82, 93))
    return ImageCase(
        image_id=f"synthetic-{seed}-{number}-{width}x{height}",
        jpeg=out.getvalue(),
        width=width,
        height=height,
        boxes=(scene.box,),
        source="synthetic",
    )


def compose(dice: Dice, frame: tuple[int, int]) -> Scene:
    """Draws the plane of the package, as large as the view needs it."""
    us_label = dice.chance(0.5)
    rows = tables.american(dice) if us_label else tables.european(dice)
    aspect = dice.uniform(1.0, 2.4) if us_label else dice.uniform(0.45, 1.5)
    view, wide, high = choose_view(dice, aspect, frame)
    sharpness = dice.uniform(0.62, 1.1)
    size = (max(12, round(wide * sharpness)), max(12, round(high * sharpness)))
    seen = bounds(view.to_plane(outline(0.0, 0.0, float(frame[0]), float(frame[1]))))
    per_x, per_y = size[0] / wide, size[1] / high
    # The table begins at a whole pixel, so that its edge is where the box says.
    left, top = int((-wide / 2 - seen[0]) * per_x) + 2, int((-high / 2 - seen[1]) * per_y) + 2
    place = np.array([[per_x, 0.0, left + size[0] / 2], [0.0, per_y, top + size[1] / 2]])
    right, bottom = int((seen[2] - wide / 2) * per_x), int((seen[3] - high / 2) * per_y)
    drawn = (left + size[0] + max(2, right + 3), top + size[1] + max(2, bottom + 3))
    table = (left, top, left + size[0], top + size[1])
    plane = _draw_plane(dice, drawn, table, view.radius is not None, rows)
    x_min, y_min, x_max, y_max = bounds(view.to_frame(outline(-wide / 2, -high / 2, wide / 2, high / 2)))
    box = (x_min / frame[0], y_min / frame[1], x_max / frame[0], y_max / frame[1])
    return Scene(plane, place, view, table, box)


def _draw_plane(
    dice: Dice, size: tuple[int, int], table: packages.Area, bent: bool, rows: list[tables.Row]
) -> Image.Image:
    picture = packages.background(dice, size)
    wide, high = table[2] - table[0], table[3] - table[1]
    reach = [dice.uniform(0.03, 1.4) ** 1.5 for _ in range(4)]
    body = (
        table[0] - round(wide * reach[0]) - 3,
        table[1] - round(high * reach[1]) - 3,
        table[2] + round(wide * reach[2]) + 3,
        table[3] + round(high * reach[3]) + 3,
    )
    colour = packages.package_colour(dice)
    packages.neighbours(dice, picture, body)
    packages.body(dice, picture, body, colour, bent)
    packages.prints(dice, picture, body, table, colour)
    look = tables.choose_look(dice, colour)
    picture.paste(tables.draw_table(dice, rows, look, (wide, high)), table[:2])
    return picture


def expose(scene: Scene, plane: Image.Image, frame: tuple[int, int]) -> Image.Image:
    """The plane as the camera sees it. A flat one needs one homography, a bent one a mesh."""
    if scene.view.radius is None:
        data: object = perspective(scene.view, scene.place)
        return plane.transform(frame, Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)  # type: ignore[arg-type]
    return plane.transform(frame, Image.Transform.MESH, mesh(scene.view, frame, scene.place), Image.Resampling.BILINEAR)


def develop(dice: Dice, picture: Image.Image) -> Image.Image:
    """Uneven light, sometimes a reflection, and sensor noise."""
    size = picture.size
    darkest = dice.integer(120, 225)
    levels = bytes(max(darkest, min(255, 255 - (b * (255 - darkest) >> 8))) for b in dice.bytes(12))
    light = Image.frombytes("L", (4, 3), levels).resize(size, Image.Resampling.BICUBIC)
    picture = ImageChops.multiply(picture, Image.merge("RGB", (light,) * 3))
    if dice.chance(0.2):
        glare = Image.new("L", (24, 18))
        x, y = dice.integer(2, 21), dice.integer(2, 15)
        glare.paste(dice.integer(50, 170), (x, y, x + dice.integer(2, 6), y + dice.integer(2, 9)))
        spread = glare.resize(size, Image.Resampling.BICUBIC)
        picture = ImageChops.add(picture, Image.merge("RGB", (spread,) * 3))
    spread_of_noise = dice.uniform(1.0, 9.0)
    curve = [max(0, min(255, round(128 + spread_of_noise * value))) for value in _BELL]
    grain = Image.frombytes("L", size, dice.bytes(size[0] * size[1])).point(curve)
    if dice.chance(0.4):  # the three colours of a dim sensor differ
        layers = (grain, ImageChops.offset(grain, 17, 31), ImageChops.offset(grain, 71, 5))
    else:
        layers = (grain, grain, grain)
    return ImageChops.add(picture, Image.merge("RGB", layers), 1.0, -128)
