"""How many tokens a picture costs: the resize arithmetic of Qwen2-VL's image processor, and of Qwen2.5-VL's, which shares it.

The processor rounds both sides to multiples of `factor` (patch size 14 x spatial merge 2), then shrinks or grows the picture until its
area lies in [min_pixels, max_pixels]. One token stands for one factor x factor square of the resized picture.
Rounding is half to even, as in the processor (transformers `smart_resize`, image_processing_qwen2_vl).
"""

from __future__ import annotations

import math

from client.errors import UsageError

FACTOR = 28
MIN_PIXELS = 3136
MAX_PIXELS = 12_845_056
"""`min_pixels` and `max_pixels` of the Qwen2-VL checkpoints. A processor without a preprocessor_config.json uses 1,003,520."""

MAX_ASPECT = 200


def smart_resize(
    width: int, height: int, *, factor: int = FACTOR, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Width and height in pixels that the model sees. Raises UsageError for a shape the processor refuses (aspect over 200, empty)."""
    if min(width, height, factor) < 1 or not 0 < min_pixels <= max_pixels:
        raise UsageError(
            f"A {width}x{height} picture cannot be resized between {min_pixels} and {max_pixels} pixels (factor {factor}).",
            "Sides, factor and min_pixels must be at least 1, and max_pixels no smaller than min_pixels.",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UsageError(
            f"A {width}x{height} picture is more than {MAX_ASPECT} times as long as wide: the model's processor refuses it.",
            "Crop it, or leave it out.",
        )
    new_width, new_height = (round(side / factor) * factor for side in (width, height))
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width, new_height = (max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height))
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width, new_height = (math.ceil(side * grow / factor) * factor for side in (width, height))
    return new_width, new_height


def image_tokens(
    width: int, height: int, *, factor: int = FACTOR, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> int:
    """Tokens in the prompt for one picture, without the two tokens that mark its start and end."""
    new_width, new_height = smart_resize(width, height, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    return new_width * new_height // (factor * factor)
