"""The arrivals of a saved run, to be sent again: block by block, for between two blocks another arm was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from client.core.arrivals import NS, Offsets
from client.core.records import Phase


@dataclass(frozen=True, slots=True)
class SavedBlock:
    """Ascending offsets from the first arrival of one block. The first and the last `edges` were its lead-in and lead-out."""

    offsets: Offsets
    edges: int = 0

    @property
    def measured(self) -> int:
        return len(self.offsets) - 2 * self.edges


Replay = tuple[SavedBlock, ...]


def saved_blocks(arrivals: Iterable[tuple[int, Phase, int]]) -> Replay:
    """(block, phase, intended_ns) of first tries, MEASURE and EDGE, in any order. A block without a measured one is left out."""
    found: dict[int, list[tuple[int, bool]]] = {}
    for block, phase, intended_ns in arrivals:
        found.setdefault(block, []).append((intended_ns, phase is Phase.MEASURE))
    return tuple(
        _saved(sorted(found[block])) for block in sorted(found) if any(measured for _, measured in found[block])
    )


def _saved(block: list[tuple[int, bool]]) -> SavedBlock:
    """With as many edges on both sides, so that a run cut short has none: its lead-out was never sent."""
    first = next(place for place, (_, measured) in enumerate(block) if measured)
    last = next(place for place, (_, measured) in enumerate(reversed(block)) if measured)
    edges = min(first, last)
    kept = block[first - edges : len(block) - (last - edges)]
    stamps = np.array([intended_ns for intended_ns, _ in kept], dtype=np.int64)
    return SavedBlock(stamps - stamps[0], edges)


def beginning(replay: Replay, requests: int | None, duration_s: float | None) -> Replay:
    """The first `requests` measured arrivals, or those of the first `duration_s` of measured time; all when both are None."""
    kept: list[SavedBlock] = []
    left = requests
    left_ns = None if duration_s is None else round(duration_s * NS)
    for block in replay:
        measured = block.offsets[block.edges : len(block.offsets) - block.edges]
        n = len(measured) if left is None else min(left, len(measured))
        if left_ns is not None:
            n = min(n, int(np.searchsorted(measured - measured[0], left_ns)))
        if n <= 0:
            break
        kept.append(SavedBlock(block.offsets[: n + 2 * block.edges], block.edges))
        left = None if left is None else left - n
        left_ns = None if left_ns is None else left_ns - int(measured[-1] - measured[0])
    return tuple(kept)
