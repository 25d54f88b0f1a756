"""`logprobs` of a chat answer -> the tokens and their likeliest alternatives. Apart from `tokens`, whose statistics a request need not load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from client.core.records import TokenStep

_FLOOR = -100.0
"""Natural log: below this a probability is 0 to every purpose. vLLM writes −9999 for it."""


def read_steps(content: Sequence[object] | None) -> tuple[TokenStep, ...]:
    """Steps from `logprobs.content` of a chat completion, or of its chunks joined. () for None.

    Stops at the first entry that is not in that form: what follows has lost its place. Special tokens, which the server writes as empty
    text, stay apart only with `return_tokens_as_token_ids`.
    """
    steps = []
    for entry in content or ():
        token, top = (entry.get("token"), entry.get("top_logprobs")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(token, str) or not isinstance(top, Sequence) or isinstance(top, str):
            break
        weights: dict[str, float] = {}
        for item in top:
            name, value = (item.get("token"), item.get("logprob")) if isinstance(item, Mapping) else (None, None)
            if isinstance(name, str) and isinstance(value, (int, float)) and not math.isnan(value) and value <= 1e-6:
                weights[name] = _added(weights.get(name), max(_FLOOR, float(value)))
        if not weights:
            break
        steps.append(TokenStep(token, weights))
    return tuple(steps)


def _added(log_a: float | None, log_b: float) -> float:
    """Two tokens with the same text are one event: their probabilities add, and never above 1."""
    return log_b if log_a is None else min(0.0, max(log_a, log_b) + math.log1p(math.exp(-abs(log_a - log_b))))
