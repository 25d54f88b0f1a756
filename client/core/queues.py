"""Does the queue of an open loop grow without end? Or is it now and then full, as a queue of random arrivals is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from client.core import limits
from client.core.metrics import MS, Arm


class Growing(NamedTuple):
    """Medians of the response times in the first and in the last third of the blocks; requests that waited as the last one of a block arrived."""

    first_ms: float
    last_ms: float
    waiting: float


def growing(arm: Arm) -> Growing | None:
    """None where it does not, or where there are too few requests to tell.

    Response times that double within the blocks are not enough: from an empty server every queue grows for a while. What waits as the last
    request of a block arrives must be more than a stable queue leaves (limits.BACKLOG).
    """
    response = arm.latency["response"]
    known = np.isfinite(response)
    if known.sum() < 4 * limits.FEW_REQUESTS:
        return None
    arrived = np.where(known, arm.end_ns - np.where(known, response, 0.0) * MS, arm.start_ns)
    waiting, first, last = [], [], []
    for block in np.unique(arm.block):
        rows = np.flatnonzero(arm.block == block)
        waiting.append(int((arm.end_ns[rows] > arrived[rows].max()).sum()))
        third = -(-len(rows) // 3)
        first.append(response[rows[:third]])
        last.append(response[rows[-third:]])
    found = Growing(_median(first), _median(last), float(np.mean(waiting)))
    most = limits.BACKLOG[0] + limits.BACKLOG[1] * len(arm) / len(waiting)
    return found if found.last_ms > 2 * found.first_ms and found.waiting > most else None


def _median(parts: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.nan
