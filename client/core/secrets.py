"""Keeps API keys out of everything that is written or shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable

MASK = "***"
SHORTEST_SECRET = 8
"""Characters. A shorter one (`EMPTY`, `x`) protects nothing, and masking it would eat into ordinary words and numbers."""


class Mask:
    """Replaces each secret wherever it stands, also with its slashes escaped as some JSON writers do."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        worth = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=lambda s: (-len(s), s))
        self.secrets = tuple(dict.fromkeys(form for s in worth for form in (s, s.replace("/", "\\/"))))
        self._bytes = tuple(s.encode() for s in self.secrets)

    def text(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return text

    def data(self, data: bytes) -> bytes:
        for secret in self._bytes:
            if secret in data:
                data = data.replace(secret, MASK.encode())
        return data
