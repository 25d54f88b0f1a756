"""Keeps API keys out of everything that is written or shown. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MASK = "***"
SHORTEST_SECRET = 8
"""Characters. A shorter one (`EMPTY`, `x`) protects nothing, and masking it would eat into ordinary words and numbers."""


SECRET_FLAG = re.compile(r"^(--api[-_]key|--hf[-_]token)(=.*)?$")
"""Engine arguments that are followed by secrets; vLLM takes several keys after one --api-key."""


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


NO_MASK = Mask()


def mask_args(args: Iterable[str]) -> tuple[str, ...]:
    """`--api-key X Y` and `--api-key=X` lose X and Y."""
    return tuple(arg if secret is None else arg.removesuffix(secret) + MASK for arg, secret in _read(args))


def secrets_in(args: Iterable[str]) -> tuple[str, ...]:
    """The X and Y of `--api-key X Y` and `--api-key=X`."""
    return tuple(secret for _, secret in _read(args) if secret)


def _read(args: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Each argument with the secret that it ends with, or None."""
    hide = False
    for arg in args:
        flag = SECRET_FLAG.match(arg)
        if flag is not None and flag[2]:
            yield arg, flag[2][1:]
        else:
            yield arg, arg if hide and not arg.startswith("--") else None
        hide = (hide and not arg.startswith("--")) or (flag is not None and not flag[2])
