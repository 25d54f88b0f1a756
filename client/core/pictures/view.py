"""From the flat plane of a package into the photograph and back: tilt, perspective, and the bend of a can.

Plane coordinates have their origin in the centre of the table; frame coordinates are pixels of the photograph, measured at pixel edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.core.pictures.dice import Dice

Points = NDArray[np.float64]
"""Rows of (x, y); also the matrices that map them."""
_BEND_LIMIT = 0.8
"""Sine of the angle beyond which a bent surface goes on flat, so that the whole plane stays reachable."""
_CELLS = (8, 32)
"""Smallest and largest side of a mesh cell, in pixels: an eighth of a can's radius, so that a cell is nearly flat."""


@dataclass(frozen=True, slots=True)
class View:
    """`matrix` maps the (bent) plane into the frame as a homography. `radius` None: flat. `axis` is the x of a can's nearest line."""

    matrix: Points
    radius: float | None = None
    axis: float = 0.0
    bow: float = 0.0

    def to_frame(self, points: Points) -> Points:
        return _project(self.matrix, self._bend(points))

    def to_plane(self, points: Points) -> Points:
        return self._flatten(_project(np.asarray(np.linalg.inv(self.matrix), dtype=np.float64), points))

    def moved(self, dx: float, dy: float) -> View:
        shift = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])
        return View(shift @ self.matrix, self.radius, self.axis, self.bow)

    def _bend(self, points: Points) -> Points:
        if self.radius is None:
            return points
        limit = math.asin(_BEND_LIMIT)
        angle = (points[:, 0] - self.axis) / self.radius
        inside = np.clip(angle, -limit, limit)
        x = self.axis + self.radius * (np.sin(inside) + (angle - inside) * math.cos(limit))
        y = points[:, 1] + self.bow * self.radius * (1.0 - np.cos(inside))
        return np.asarray(np.stack([x, y], axis=1), dtype=np.float64)

    def _flatten(self, points: Points) -> Points:
        if self.radius is None:
            return points
        limit = math.asin(_BEND_LIMIT)
        sine = (points[:, 0] - self.axis) / self.radius
        inside = np.arcsin(np.clip(sine, -_BEND_LIMIT, _BEND_LIMIT))
        x = self.axis + self.radius * (inside + (sine - np.sin(inside)) / math.cos(limit))
        y = points[:, 1] - self.bow * self.radius * (1.0 - np.cos(inside))
        return np.stack([x, y], axis=1)


def _project(matrix: Points, points: Points) -> Points:
    extended = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return np.asarray(extended[:, :2] / extended[:, 2:], dtype=np.float64)


def outline(left: float, top: float, right: float, bottom: float, steps: int = 48) -> Points:
    """Points along the border of a rectangle."""
    t = np.linspace(0.0, 1.0, steps)
    xs, ys = left + (right - left) * t, top + (bottom - top) * t
    sides = [
        (xs, np.full(steps, top)),
        (xs, np.full(steps, bottom)),
        (np.full(steps, left), ys),
        (np.full(steps, right), ys),
    ]
    return np.concatenate([np.stack(side, axis=1) for side in sides])


def bounds(points: Points) -> tuple[float, float, float, float]:
    """(x_min, y_min, x_max, y_max)."""
    low, high = points.min(axis=0), points.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def choose_angle(dice: Dice) -> float:
    """Degrees. Most photos are held nearly straight; about one in five shows the table turned by 90, as phones do."""
    quarter = dice.uniform(0.0, 1.0)
    base = 90.0 if quarter < 0.1 else -90.0 if quarter < 0.2 else 180.0 if quarter < 0.22 else 0.0
    kind = dice.uniform(0.0, 1.0)
    tilt = dice.bell(2.0)
    if kind > 0.92:
        tilt = dice.sign() * dice.uniform(12.0, 24.0)
    elif kind > 0.7:
        tilt = dice.sign() * dice.uniform(3.0, 12.0)
    return base + tilt


def choose_view(dice: Dice, aspect: float, frame: tuple[int, int]) -> tuple[View, float, float]:
    """A view in which a table of `aspect` (height / width) lies wholly in the frame, and the table's width and height in its plane."""
    width, height = 1.0, aspect
    angle = math.radians(choose_angle(dice))
    slant_x, slant_y = dice.uniform(-0.16, 0.16), dice.uniform(-0.16, 0.16)
    bent = dice.chance(0.3)
    radius, axis, bow = dice.uniform(0.75, 2.4), dice.uniform(-0.3, 0.3), dice.uniform(-0.25, 0.25)
    fill, at_x, at_y = dice.uniform(0.36, 0.95), dice.uniform(0.0, 1.0), dice.uniform(0.0, 1.0)

    def view(scale: float, farther: float = 1.0) -> View:
        far = scale * max(1.0, aspect) * farther
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [slant_x / far, slant_y / far, 1.0]])
        return View(matrix, radius * scale if bent else None, axis * scale, bow)

    def table(scale: float, farther: float = 1.0) -> tuple[float, float, float, float]:
        w, h = width * scale / 2, height * scale / 2
        return bounds(view(scale, farther).to_frame(outline(-w, -h, w, h)))

    left, top, right, bottom = table(1000.0)
    margin = 3.0
    most = 1000.0 * min((frame[0] - 2 * margin) / (right - left), (frame[1] - 2 * margin) / (bottom - top))
    scale = most * fill
    # Around a table that is small in its frame the slant is less, so that the horizon stays far outside.
    farther = max(1.0, 0.5 * math.hypot(*frame) / (scale * max(1.0, aspect)))
    left, top, right, bottom = table(scale, farther)
    x = margin - left + at_x * (frame[0] - 2 * margin - (right - left))
    y = margin - top + at_y * (frame[1] - 2 * margin - (bottom - top))
    return view(scale, farther).moved(x, y), width * scale, height * scale


def mesh(
    view: View, frame: tuple[int, int], place: Points
) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """The frame in cells, each with its quadrilateral of the drawn plane, for `PIL.Image.transform`.

    `place` is the affine map (2x3) from the plane to the pixels of the drawn plane.
    """
    cell = max(_CELLS[0], min(_CELLS[1], int(view.radius / 8) if view.radius else _CELLS[1]))
    xs = np.array([*range(0, frame[0], cell), frame[0]], dtype=np.float64)
    ys = np.array([*range(0, frame[1], cell), frame[1]], dtype=np.float64)
    grid = np.stack(np.meshgrid(xs, ys), axis=2).reshape(-1, 2)
    drawn = (view.to_plane(grid) @ place[:, :2].T + place[:, 2]).reshape(len(ys), len(xs), 2)
    cells = []
    for row in range(len(ys) - 1):
        for column in range(len(xs) - 1):
            box = (int(xs[column]), int(ys[row]), int(xs[column + 1]), int(ys[row + 1]))
            corners = (drawn[row, column], drawn[row + 1, column], drawn[row + 1, column + 1], drawn[row, column + 1])
            cells.append((box, tuple(float(v) for corner in corners for v in corner)))
    return cells


def perspective(view: View, place: Points) -> tuple[float, ...]:
    """The eight coefficients of `PIL.Image.Transform.PERSPECTIVE` for a flat view."""
    to_drawn = np.concatenate([place, [[0.0, 0.0, 1.0]]]) @ np.linalg.inv(view.matrix)
    flat = (to_drawn / to_drawn[2, 2]).reshape(-1)
    return tuple(float(v) for v in flat[:8])
