"""What is said of a series that did not settle, or settled late. The gates that say it: `client.core.gates.settled`."""

from __future__ import annotations

from client.core.pairing import Sides
from client.core.steady import Course, Settling
from client.core.warmup import Steady

WARMUP = 20
"""Requests that a run warms up with unless told otherwise."""


def stay_of(number: int, stays: int) -> str:
    return f", its {('first', 'second')[number]} stay," if stays > 1 else ""


def left_out(steady: Steady) -> tuple[str, str, tuple[str, ...]]:
    """Fact, next step, and the targets whose beginning it is."""
    counts = steady.left_out
    if len(set(counts.values())) == 1:
        many = f"The first {max(counts.values()):,} measured requests{' of each arm' if len(counts) > 1 else ''} belong"
    else:
        many = f"Of the measured requests {', '.join(f'{n:,} of {name}' for name, n in counts.items())} belong"
    if any(one.stays > 1 for one in steady.found):
        many = many.replace("The first ", "")
    why = "; ".join(
        f"the first {one.end:,} of {one.target}{stay_of(one.stay, one.stays).rstrip(',')} are {one.size:.0%} apart from the rest in {one.metric.upper()}"
        for one in steady.found
    )
    return (
        f"{many} to the warm-up and are left out of latency, throughput, energy and cost: {why} (MSER-5, and a test for one level).",
        "Raise --warmup by as much, and nothing needs to be left out.",
        tuple(dict.fromkeys(one.target for one in steady.found)),
    )


def maybe_warming(both: Sides, metric: str, likely: float, wider: float, warmup: int) -> tuple[str, str]:
    """Fact and next step: a warm-up that may reach into the pairs, `likely` from 0 to 1; the interval of a median is so many times as wide for it."""
    b, a = (part.target for part in both.parts[:2])
    how = f"likely by {min(likely, 0.99):.0%}" if likely > 0.5 else "not ruled out by so few requests"
    cost = f", that of the median {wider:.1f} times as wide" if wider >= 1.05 else ""
    return (
        f"The warm-up of {b} or {a} may reach into the measured requests ({metric}, {how}). The intervals are averaged over where it may end{cost}.",
        f"Ask for --warmup {2 * max(warmup, WARMUP // 2)} or more, and they need not be.",
    )


UNSETTLED = {
    Course.LATE: "settled only after the first {end} measured requests, which are {size} apart from the rest",
    Course.STEP: "never settled: in the later half of the run its level changed by {size}",
    Course.DRIFT: "never settled: it drifts by {size} from the first request to the last",
    Course.BEND: "never settled: the middle of the run lies {size} apart from its ends",
    Course.FEW: "had not settled: its first measured requests are {size} apart from the rest, and there are too few to leave them out",
}


def unsettled(who: str, found: Settling, cancels: bool) -> tuple[str, str]:
    """Fact and next step. `cancels`: every arm has it, in blocks that lie between one another."""
    told = UNSETTLED[found.course].format(end=found.end, size=f"{found.size:.0%}")
    cancel = " Interleaved blocks let what both arms share cancel between them." if cancels else ""
    early = found.course in (Course.LATE, Course.FEW)
    step = "Raise --warmup" if early else "Run longer or again"
    return (
        f"{who} {told} (MSER-5, and a test for one level).{cancel}",
        f"{step}, and look for other work on the machine or a GPU that heats up.",
    )
