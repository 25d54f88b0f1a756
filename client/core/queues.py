"""Does the queue of an open loop grow without end? Or is it now and then full, as a queue of random arrivals is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from client.core import limits
from client.core.metrics import MS, Arm


class Growing(NamedTuple):
    """Medians of the response times in the first and in the last third of the blocks; `waiting` of the `asked` requests of a block had not
    been answered as its last one arrived."""

    first_ms: float
    last_ms: float
    waiting: float
    asked: float


def growing(arm: Arm) -> Growing | None:
    """None where it does not, or where there are too few requests to tell.

    Response times that double within the blocks are not enough: from an empty server every queue grows for a while, and one that works on all
    requests at once slows the first as much as the last. What has not been answered as the last request of a block arrives must be more than a
    stable queue leaves: limits.BACKLOG with such doubling, limits.BACKLOG_ALONE without.
    """
    response = arm.latency["response"]
    known = np.isfinite(response)
    if known.sum() < 4 * limits.FEW_REQUESTS:
        return None
    arrived = np.where(
        known, arm.end_ns - np.where(known, response, 0.0) * MS, -np.inf
    )  # of a failure only the late send may be known
    waiting, first, last = [], [], []
    for block in np.unique(arm.block):
        rows = np.flatnonzero(arm.block == block)
        waiting.append(int((arm.end_ns[rows] > arrived[rows].max()).sum()))
        third = -(-len(rows) // 3)
        first.append(response[rows[:third]])
        last.append(response[rows[-third:]])
    found = Growing(_median(first), _median(last), float(np.mean(waiting)), len(arm) / len(waiting))
    a, share = limits.BACKLOG if found.last_ms > 2 * found.first_ms else limits.BACKLOG_ALONE
    return found if found.waiting > a + share * found.asked else None


def _median(parts: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.nan
