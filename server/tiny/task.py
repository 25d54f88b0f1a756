"""The task as text and numbers: prompt, answer, and the size at which a picture is seen. Needs nothing but the standard library."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

Box = tuple[float, float, float, float]

PROMPT = "Detect the nutrition table. Provide bounding box in [x_min, y_min, x_max, y_max] format."
BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
AFTER = f"<|vision_end|>{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
CELL = 28
"""Side of an image token in pixels: two patches of 14."""
MODEL_FILES = Path(__file__).parent / "model"


def answer(box: Box) -> str:
    """Always 28 characters, one token each: a batch needs no padding. A thousandth is half a pixel of what the model sees."""
    return "[" + ", ".join(f"{min(1.0, max(0.0, value)):.3f}" for value in box) + "]"


def read_answer(text: str) -> Box | None:
    """The box of an answer, None when it has not exactly four numbers."""
    numbers = [float(n) for n in re.findall(r"\d+\.\d+", text)]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 for a box without area."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return wide * high / (areas - wide * high)


def pixel_budget() -> int:
    """The largest picture that the model sees, in pixels, from its own preprocessor file."""
    return int(json.loads((MODEL_FILES / "preprocessor_config.json").read_text())["max_pixels"])


def seen_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Width and height after the resizing of the Qwen2-VL image processor (`smart_resize` in transformers)."""
    wide, high = max(CELL, round(width / CELL) * CELL), max(CELL, round(height / CELL) * CELL)
    if wide * high > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        wide = max(CELL, math.floor(width / shrink / CELL) * CELL)
        high = max(CELL, math.floor(height / shrink / CELL) * CELL)
    return wide, high
