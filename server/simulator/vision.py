"""Opening pictures as vLLM would, with its refusals, and looking at them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from server.simulator import eye
from server.simulator.answer import Box
from server.simulator.ask import Refusal
from server.simulator.tokens import image_tokens


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


def look(data: bytes) -> Box | None:
    """The nutrition table in a picture, None where none is seen. Raises Refusal for a picture that is not whole."""
    try:
        with Pictures.open(io.BytesIO(data)) as picture:
            picture.draft("L", (eye.SIDE, eye.SIDE))
            grey = picture.convert("L").resize((eye.SIDE, eye.SIDE), Pictures.Resampling.BOX)
    except (OSError, SyntaxError, ValueError) as error:
        raise Refusal(f"Failed to load image: {error}") from None
    return eye.find_table(np.asarray(grey))
