"""A request's prompt as tokens: the chat template of Qwen2-VL around texts and picture placeholders, and its cache keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.simulator.ask import SYSTEM_PROMPT, Ask, Picture
from server.simulator.engine import Image
from server.simulator.tokens import split_text


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: int
    images: tuple[Image, ...]
    block_keys: tuple[int, ...]


def lay_out(ask: Ask, pictures: Sequence[tuple[str, int]], block_size: int) -> Prompt:
    """`pictures`: (cache key, tokens) in the order of the request."""
    line: list[object] = []
    images: list[Image] = []
    left = iter(pictures)
    parts = ask.parts
    if parts[0][0] != "system":
        parts = [("system", [SYSTEM_PROMPT]), *parts]
    for role, content in parts:
        line += ["<|im_start|>", role, "\n"]
        for item in content:
            if isinstance(item, Picture):
                key, tokens = next(left)
                line += ["<|vision_start|>", *[key] * tokens]
                images.append(Image(key, tokens, len(line)))
                line.append("<|vision_end|>")
            else:
                line += split_text(item)
        line += ["<|im_end|>", "\n"]
    line += ["<|im_start|>", "assistant", "\n"]
    return Prompt(len(line), tuple(images), _block_keys(line, ask.cache_salt, block_size))


def _block_keys(line: list[object], salt: str, size: int) -> tuple[int, ...]:
    """One key for each full block; it stands for the block and all before it."""
    keys = []
    before = hash(salt)
    for start in range(0, len(line) - size + 1, size):
        before = hash((before, tuple(line[start : start + size])))
        keys.append(before)
    return tuple(keys)
