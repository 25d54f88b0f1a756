"""`--min-effect` as text -> a share: the one parser of the bench and of the comparison of two runs."""

from __future__ import annotations

import re

from client.errors import UsageError

HELP = "smallest effect worth having, above 0%% and below 100%%: 3%% or 0.03 (default: {default})"
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", re.ASCII)


def read_min_effect(text: str) -> float:
    """`3%` and `0.03` alike -> 0.03. Zero is refused: no run can show that two servers differ by nothing at all."""
    found = _SHARE.fullmatch(text.strip())
    step = "Write 3%, or 0.03, which is the same."
    if found is None:
        raise UsageError(f"--min-effect {text!r} cannot be read.", step)
    share = float(found[1]) / (100 if found[2] else 1)
    if not 0 < share < 1:
        raise UsageError(f"--min-effect {text!r}: it must lie above 0% and below 100%.", step)
    return share
