"""The line in which vLLM repeats its arguments -> a dict of plain values, secrets masked."""

from __future__ import annotations

import ast
import re
from typing import Any

from client.core.loglines import plain

_PAIR = re.compile(
    r"(?:'(\w{1,60})': |\b(\w{1,60})=)('[^']{0,500}'|-?\d{1,15}(?:\.\d{1,12})?\b|True\b|False\b|\['[^\]]{0,500}'\])"
)
_QUOTED = re.compile(r"'([^']{0,500})'")
_SECRET = re.compile(r"(?:api_key|token|secret|password)$")
_MOST = 400


def read_args(message: str) -> dict[str, Any]:
    """`non-default args: {...}` (0.8 on) or `args: Namespace(...)` (0.6 to 0.7). Values that are not plain are left out or become text."""
    found = _literal(message) if message.startswith("non-default args: ") else None
    if found is None:
        found = {}
        for pair in _PAIR.finditer(message):
            if len(found) < _MOST:
                found.setdefault(pair[1] or pair[2], _scalar(pair[3]))
    return {name: "***" if _SECRET.search(name) else value for name, value in found.items() if value is not None}


def _literal(message: str) -> dict[str, Any] | None:
    text = message.partition(": ")[2].strip()
    if len(text) > 20_000 or text.count("{") + text.count("[") + text.count("(") > 500:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return {plain(name): _plain(given) for name, given in list(value.items())[:_MOST] if isinstance(name, str)}


def _scalar(text: str) -> Any:
    """The value of what `_PAIR` found, without evaluating it."""
    if text in ("True", "False"):
        return text == "True"
    if text.startswith("["):
        return _QUOTED.findall(text)
    if text.startswith("'"):
        return plain(text[1:-1])
    return float(text) if "." in text else int(text)


def _plain(value: Any, depth: int = 0) -> Any:
    """JSON-like values stay, everything else becomes short text."""
    if isinstance(value, str):
        return plain(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < 4 and isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value[:50]]
    if depth < 4 and isinstance(value, dict):
        return {plain(str(name)): _plain(item, depth + 1) for name, item in list(value.items())[:50]}
    return plain(str(value)[:200])
