"""Validity gates over the GPU while each arm was measured: slowdowns, clocks, strangers."""

from __future__ import annotations

from collections.abc import Iterator

from client.core import limits
from client.core.findings import Gate
from client.core.gates import Seen, flag, invalid, unlike
from client.core.plan import Design


def slowed_gpu(seen: Seen) -> Iterator[Gate]:
    for target, gpu in seen.gpu.items():
        if gpu.slowed_share is not None and gpu.slowed_share > limits.THROTTLED_SHARE:
            yield invalid(
                "gpu_throttled",
                f"The GPU was slowed down by heat or hardware in {gpu.slowed_share:.0%} of the samples while {target} was measured.",
                "Improve cooling or power, lock the clocks (nvidia-smi -lgc), and run again.",
                (target,),
            )


def unequal_clocks(seen: Seen) -> Iterator[Gate]:
    """Where a power cap holds the slower arm down, the clock follows from the work itself: the difference is part of the answer, and only told."""
    known = [(target, mhz) for target, gpu in seen.gpu.items() if (mhz := gpu.sm_mhz)]
    for (a, mhz_a), (b, mhz_b) in unlike(known, lambda a, b: abs(b[1] / a[1] - 1) > limits.CLOCKS_UNEQUAL):
        fact = f"The GPU ran at {mhz_a:.0f} MHz for {a} and {mhz_b:.0f} MHz for {b} (medians while measured)"
        slower = a if mhz_a < mhz_b else b
        capped = seen.gpu[slower].power_capped_share
        if capped is not None and capped >= limits.CAPPED_SHARE:
            yield flag(
                "gpu_clocks",
                f"{fact}; {slower} was at the power cap in {capped:.0%} of its samples: drawing less power is part of what a precision does.",
                "Lock the clocks (nvidia-smi -lgc) to compare at equal clocks.",
                (a, b),
            )
            continue
        step = "Lock the clocks (nvidia-smi -lgc), or use --design interleaved."
        if seen.plan.design is Design.INTERLEAVED:
            step = "Lock the clocks (nvidia-smi -lgc), and see that both servers have the same kind of GPU."
        if seen.evidence.separate_runs:
            step = "Lock the clocks (nvidia-smi -lgc), or measure both in one run."
        yield invalid("gpu_clocks", f"{fact}: the arms did not have the same machine.", step, (a, b))


def strangers(seen: Seen) -> Iterator[Gate]:
    found = sorted({name for gpu in seen.gpu.values() for name in gpu.strangers})
    if found:
        yield invalid(
            "other_process",
            f"Another process used the GPU during the run: {', '.join(found[:3])}.",
            "Stop it, or give the servers a GPU of their own.",
        )
