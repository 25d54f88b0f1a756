"""The simulated model's eye: opens a picture as vLLM would, and finds white-ish framed tables of text lines in it."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from server.simulator.answer import Box
from server.simulator.ask import Refusal
from server.simulator.tokens import image_tokens

SIDE = 320
"""Longest side at which the detector looks."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What a picture's header tells: enough to know its cost."""

    digest: str
    width: int
    height: int
    tokens: int

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


def glance(data: bytes) -> Glance:
    """Raises Refusal, with vLLM's words, for what is no picture or has an impossible shape. Decodes nothing."""
    try:
        with Pictures.open(io.BytesIO(data)) as picture:
            width, height = picture.size
    except UnidentifiedImageError:
        raise Refusal("Failed to load image: cannot identify image file <_io.BytesIO object>") from None
    except Pictures.DecompressionBombError as error:
        raise Refusal(str(error), None, 500, "InternalServerError") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise Refusal(f"Failed to load image: {error}") from None
    try:
        tokens = image_tokens(width, height)
    except ValueError:
        image = f"<PIL.Image.Image image mode=RGB size={width}x{height}>"
        kwargs = "{'do_normalize': False, 'do_rescale': False, 'return_tensors': 'pt'}"
        fact = f"Failed to apply Qwen2VLProcessor on data={{'images': [{image}]}} with kwargs={kwargs}"
        raise Refusal(fact) from None
    return Glance(hashlib.blake2b(data, digest_size=12).hexdigest(), width, height, tokens)


def look(data: bytes) -> tuple[Box, ...]:
    """The tables in a picture, best first. Raises Refusal for a picture that is not whole."""
    try:
        with Pictures.open(io.BytesIO(data)) as picture:
            picture.draft("L", (SIDE, SIDE))
            grey = picture.convert("L")
    except (OSError, SyntaxError, ValueError) as error:
        raise Refusal(f"Failed to load image: {error}") from None
    grey.thumbnail((SIDE, SIDE), Pictures.Resampling.BOX)
    return find_tables(np.asarray(grey, dtype=np.float32))


def find_tables(grey: np.ndarray) -> tuple[Box, ...]:
    """Boxes in 0..1, the best one first; empty when nothing looks like a table."""
    bright = grey > np.percentile(grey, 80)
    rows = np.flatnonzero(bright.mean(axis=1) > 0.3)
    columns = np.flatnonzero(bright.mean(axis=0) > 0.3)
    if not rows.size or not columns.size:
        return ()
    h, w = grey.shape
    return ((columns[0] / w, rows[0] / h, (columns[-1] + 1) / w, (rows[-1] + 1) / h),)
