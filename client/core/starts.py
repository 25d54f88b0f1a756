"""Starts of a server's container -> how long each step took, on the clock of the container's host."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from client.core.container import START_STEPS, StartMarks
from client.core.findings import Estimate


def server_start(starts: Sequence[StartMarks]) -> dict[str, Estimate]:
    """`start_<step>_s`: median seconds from the start of the process to each step that was seen. Range as interval, no verdict."""
    seen = [start.seconds() for start in starts]
    found = {}
    for step in START_STEPS:
        values = [one[step] for one in seen if step in one]
        if values:
            low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
            note = "the interval is the range seen" if len(values) > 1 else None
            name = f"start_{step.replace(' ', '_')}_s"
            found[name] = Estimate(value=median(values), low=low, high=high, n=len(values), unit="s", note=note)
    return found


def start_sentences(starts: Sequence[StartMarks]) -> list[str]:
    """One sentence for each start that was seen from its process on."""
    told = []
    for number, start in enumerate(starts, 1):
        seconds = start.seconds()
        if not seconds:
            continue
        which = f"Start {number} of {len(starts)}" if len(starts) > 1 else "Its start"
        steps = ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items())
        told.append(f"{which}, since the process of its container began{_after_making(start, number)}: {steps}.")
    return told


def _after_making(start: StartMarks, number: int) -> str:
    """Only the first start of a container follows its making."""
    if number > 1 or start.created_ns is None or start.started_ns is None or start.started_ns < start.created_ns:
        return ""
    return f" ({(start.started_ns - start.created_ns) / 1e9:.1f} s after the container was made)"
