"""Saved arrivals, sent again: each block as it was, none of the pauses between them."""

from __future__ import annotations

import numpy as np
import pytest

from client.core.arrivals import NS
from client.core.blocks import block_plan
from client.core.plan import Arrival, Design, LoadProfile, Target
from client.core.records import Phase
from client.core.replays import Replay, SavedBlock, beginning, saved_blocks

TARGET = (Target(name="a", base_url="http://a"),)
M, E = Phase.MEASURE, Phase.EDGE


def blocks_of(replay: Replay, **more: object) -> list[list[tuple[str, int | None]]]:
    load = LoadProfile(arrival=Arrival.REPLAY, **{"requests": None, **more})  # type: ignore[arg-type]  # made in one place
    return [
        [(slot.phase.value[0], slot.offset_ns) for slot in block.slots]
        for block in block_plan(TARGET, Design.SINGLE, load, replay=replay)
    ]


def offsets(*seconds: float) -> np.ndarray:
    return np.array([round(s * NS) for s in seconds], dtype=np.int64)


def test_a_block_is_sent_with_its_gaps_and_its_edges_and_no_pause_between_two_blocks() -> None:
    arrivals = [(1, M, 9_030), (1, M, 9_000), (0, E, 100), (0, M, 120), (0, M, 170), (0, E, 200)]
    replay = saved_blocks(arrivals)
    assert blocks_of(replay) == [[("e", 0), ("m", 20), ("m", 70), ("e", 100)], [("m", 0), ("m", 30)]]


def test_a_block_that_was_cut_short_has_no_edges_left_on_one_side() -> None:
    (block,) = saved_blocks([(0, E, 0), (0, M, 10), (0, M, 20)])
    assert (block.edges, block.offsets.tolist()) == (0, [0, 10])
    assert saved_blocks([(0, E, 0), (0, E, 5)]) == ()
    assert saved_blocks([]) == ()


@pytest.mark.parametrize(
    ("requests", "duration_s", "sent"),
    [
        (None, None, [["e", "m", "m", "m", "e"], ["m", "m"]]),
        (4, None, [["e", "m", "m", "m", "e"], ["m"]]),
        (2, None, [["e", "m", "m", "e"]]),
        (None, 1.5, [["e", "m", "m", "e"]]),
        (None, 2.5, [["e", "m", "m", "m", "e"], ["m"]]),
        (None, 99.0, [["e", "m", "m", "m", "e"], ["m", "m"]]),
    ],
)
def test_its_beginning_by_requests_or_by_duration(
    requests: int | None, duration_s: float | None, sent: list[list[str]]
) -> None:
    """Measured at 0, 1, 2 s of the first block, and at 0 and 5 s of the second."""
    replay = (SavedBlock(offsets(0, 1, 2, 3, 4), 1), SavedBlock(offsets(0, 5)))
    assert [
        [kind for kind, _ in block] for block in blocks_of(replay, requests=requests, duration_s=duration_s)
    ] == sent


def test_the_beginning_of_all_is_all() -> None:
    replay = (SavedBlock(offsets(0, 1, 2, 3), 1),)
    assert [b.offsets.tolist() for b in beginning(replay, 2, None)] == [replay[0].offsets.tolist()]
    assert replay[0].measured == 2
