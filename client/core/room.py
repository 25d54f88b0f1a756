"""How many requests the KV cache of each server holds at once, counted in requests of one size: the baseline's.

Each in its own would make longer answers, or the larger pictures of another run, a smaller server.
"""

from __future__ import annotations

import math

from client.core.evidence import Evidence
from client.core.findings import Findings, Memory
from client.core.records import Outcome, Phase
from client.core.table import NEVER, Ints

OTHER_SIZE = 0.05
"""Requests whose tokens differ by more from those that room is counted in are told; whole blocks alone make 1 or 2 %."""


def one_size(evidence: Evidence) -> float | None:
    """Mean tokens of the requests that room is counted in, prompt and answer; None where no target's are known."""
    sizes = (request_tokens(evidence, target.name) for target in evidence.plan.targets)
    return next((size for size in sizes if size is not None), None)


def request_tokens(evidence: Evidence, name: str) -> float | None:
    rows = _measured_ok(evidence, name)
    prompt = _mean_known(evidence.records["prompt_tokens"][rows])
    output = _mean_known(evidence.records["completion_tokens"][rows])
    return None if prompt is None or output is None else prompt + output


def prompt_tokens(evidence: Evidence, name: str) -> float | None:
    return _mean_known(evidence.records["prompt_tokens"][_measured_ok(evidence, name)])


def counted_size(memory: Memory) -> float | None:
    """Tokens, in whole blocks, of the requests that `requests_at_once` counts."""
    held, fit = memory.kv_cache_tokens, memory.requests_at_once
    return None if held is None or not fit else held / fit


def own_requests(memory: Memory, tokens: float | None) -> tuple[str, ...]:
    """How many of a target's own requests of so many tokens fit, where they are not of the size that is counted."""
    held, size = memory.kv_cache_tokens, counted_size(memory)
    if held is None or size is None or tokens is None or abs(tokens / size - 1) <= OTHER_SIZE:
        return ()
    return (
        f"Its own requests have {tokens:,.0f} tokens on average, not up to {size:,.0f} like those in which the room of every target is "
        f"counted: about {math.floor(held / tokens):,} of its own fit at once.",
    )


def size_to_tell(findings: Findings) -> float | None:
    """The size that room is counted in, where a target was sent prompts of another; None where all are alike."""
    prompts = [t.image_tokens for t in findings.targets.values() if t.image_tokens is not None]
    if not prompts or max(prompts) <= (1 + OTHER_SIZE) * min(prompts):
        return None
    sizes = (counted_size(target.memory) for target in findings.targets.values())
    return next((size for size in sizes if size is not None), None)


def _measured_ok(evidence: Evidence, name: str) -> Ints:
    return evidence.records.where(name, Phase.MEASURE, Outcome.OK)


def _mean_known(values: Ints) -> float | None:
    known = values[values != NEVER]
    return float(known.mean()) if len(known) else None
