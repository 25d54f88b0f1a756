"""The detector of the simulated model: a small convolutional net in numpy that boxes one nutrition table in a grey picture.

136,000 weights, trained on the project's own synthetic photographs by `benchmarks/sim_eye`, which draws the same net and says how.
Two strided convolutions bring 224 x 224 pixels to 28 x 28 cells; six dilated ones look around; each cell then tells how sure it is
that it lies inside a table, and how far the table's four edges are. The answer is the mean box, weighted by the sureness squared.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.simulator.answer import Box

Floats = NDArray[np.float32]

WEIGHTS = Path(__file__).with_name("eye.npz")
SIDE = 224
CELLS = 28
DILATIONS = (1, 2, 4, 8, 4, 2)
SEEN = 0.5
"""A table is seen when the surest cell is surer than this."""


@cache
def _weights() -> dict[str, Floats]:
    with np.load(WEIGHTS) as file:
        return {name: file[name].astype(np.float32) for name in file.files}


def find_table(grey: NDArray[np.uint8]) -> Box | None:
    """(x_min, y_min, x_max, y_max) in 0..1 of a picture stretched to SIDE x SIDE; None when it shows no table."""
    x = np.asarray(grey.astype(np.float32)[None] / 128 - 1, dtype=np.float32)
    x = _relu(_convolve(_patches(x, 4), "stem"))
    x = _relu(_convolve(_neighbours(x, 1)[:, ::2, ::2], "down"))
    for number, dilation in enumerate(DILATIONS):
        x = np.add(x, _relu(_convolve(_neighbours(x, dilation), f"block{number}")))
    out = _convolve(x, "head")
    sure = 0.5 * (1 + np.tanh(0.5 * out[0]))
    if sure.max() < SEEN:
        return None
    centre = (np.arange(CELLS, dtype=np.float32) + 0.5) / CELLS
    reach = np.logaddexp(0, out[1:])
    edges = (centre[None] - reach[0], centre[:, None] - reach[1], centre[None] + reach[2], centre[:, None] + reach[3])
    weight = sure**2 + 1e-6
    x0, y0, x1, y1 = (float((edge * weight).sum() / weight.sum()) for edge in edges)
    return (max(0.0, x0), max(0.0, y0), min(1.0, x1), min(1.0, y1))


def _convolve(columns: Floats, name: str) -> Floats:
    """One matrix product: `columns` holds, for each output pixel, all values that its filter covers."""
    kernel, bias = _weights()[f"{name}_weight"], _weights()[f"{name}_bias"]
    _, high, wide = columns.shape
    product = kernel.reshape(len(kernel), -1) @ columns.reshape(len(columns), -1)
    return np.asarray(product + bias[:, None], dtype=np.float32).reshape(len(kernel), high, wide)


def _patches(x: Floats, size: int) -> Floats:
    channels, high, wide = x.shape
    cut = x.reshape(channels, high // size, size, wide // size, size).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(cut).reshape(channels * size * size, high // size, wide // size)


def _neighbours(x: Floats, dilation: int) -> Floats:
    """The 3 x 3 neighbourhood of each pixel, `dilation` apart, zeros beyond the edge."""
    channels, high, wide = x.shape
    padded = np.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation)))
    shifted = [
        padded[:, dy : dy + high, dx : dx + wide]
        for dy in (0, dilation, 2 * dilation)
        for dx in (0, dilation, 2 * dilation)
    ]
    return np.stack(shifted, axis=1).reshape(channels * 9, high, wide)


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0)
