"""Token arithmetic of Qwen2-VL: text by the tokenizer's own pre-split, images by `smart_resize`."""

from __future__ import annotations

import re

MIN_PIXELS = 3136
MAX_PIXELS = 12_845_056
FACTOR = 28
"""Patch of 14 pixels, merged 2 by 2."""
MAX_ASPECT = 200

_SPLIT = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\w]?[^\W\d_]+|_[^\W\d_]+|\d| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LONGEST = 12


def split_text(text: str) -> list[str]:
    """Pieces of a text as the Qwen2 byte-pair tokenizer would pre-split them; each counts as one token, long words as several.

    Exact for the benchmark's prompt (24 tokens) and for box answers, where digits stand alone; an approximation elsewhere.
    """
    pieces: list[str] = []
    for piece in _SPLIT.findall(text):
        pieces.extend(piece[i : i + _LONGEST] for i in range(0, len(piece), _LONGEST))
    return pieces


def smart_resize(width: int, height: int) -> tuple[int, int]:
    """The (width, height) that the vision encoder sees. Source: transformers, image_processing_qwen2_vl.smart_resize.

    Raises ValueError for an aspect ratio over 200.
    """
    if max(width, height) / min(width, height) > MAX_ASPECT:
        raise ValueError("absolute aspect ratio must be smaller than 200")
    w = max(FACTOR, round(width / FACTOR) * FACTOR)
    h = max(FACTOR, round(height / FACTOR) * FACTOR)
    if w * h > MAX_PIXELS:
        beta = (width * height / MAX_PIXELS) ** 0.5
        w = max(FACTOR, int(width / beta / FACTOR) * FACTOR)
        h = max(FACTOR, int(height / beta / FACTOR) * FACTOR)
    elif w * h < MIN_PIXELS:
        beta = (MIN_PIXELS / (width * height)) ** 0.5
        w = -int(-width * beta // FACTOR) * FACTOR
        h = -int(-height * beta // FACTOR) * FACTOR
    return w, h


def image_tokens(width: int, height: int) -> int:
    w, h = smart_resize(width, height)
    return w * h // (FACTOR * FACTOR)
