"""Slots, shares and blocks: exact by construction, so the tests are exact too."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.blocks import Block, arm_plan, block_plan, levels_of, parse_sweep, workers_needed
from client.core.plan import Arrival, Design, LoadProfile, Target
from client.core.records import Phase
from client.core.schedule import (
    Schedule,
    Slot,
    closed_loop,
    closed_loop_for,
    open_loop,
    share,
    share_of_count,
    share_schedule,
)
from client.errors import UsageError

PAIR = (Target(name="bf16", base_url="http://a"), Target(name="fp8", base_url="http://b"))
TRIO = (*PAIR, Target(name="int8", base_url="http://c"))


def order(blocks: list[Block]) -> str:
    return " ".join(f"{block.target}{block.number}" for block in blocks)


# ---------------------------------------------------------------- slots


def test_a_block_alone_in_flight_has_no_edges() -> None:
    schedule = closed_loop(3, 1, index=6, image=40)
    assert list(schedule) == [
        Slot(6, 40, Phase.MEASURE),
        Slot(7, 41, Phase.MEASURE),
        Slot(8, 42, Phase.MEASURE),
    ]


def test_a_block_under_load_is_led_in_and_out() -> None:
    schedule = closed_loop(3, 2, index=6, edge_index=10, image=40)
    phases = [(slot.phase, slot.index) for slot in schedule]
    edge, measure = Phase.EDGE, Phase.MEASURE
    assert phases == [(edge, 10), (edge, 11), (measure, 6), (measure, 7), (measure, 8), (edge, 12), (edge, 13)]
    assert [slot.image for slot in schedule] == list(range(40, 47))


def test_warm_up_has_no_edges_whatever_its_concurrency() -> None:
    assert {slot.phase for slot in closed_loop(5, 4, phase=Phase.WARMUP)} == {Phase.WARMUP}


def test_a_closed_loop_by_duration_keeps_its_lead_out_apart() -> None:
    schedule = closed_loop_for(10**9, 2, bound=5, index=3, edge_index=8, image=20)
    assert [slot.phase for slot in schedule.slots] == [Phase.EDGE] * 2 + [Phase.MEASURE] * 5
    assert list(schedule.tail) == [Slot(10, 20, Phase.EDGE), Slot(11, 21, Phase.EDGE)]
    assert len({(slot.phase, slot.index) for slot in schedule}) == len(schedule)
    assert len({slot.image for slot in schedule}) == len(schedule)


def test_slots_are_a_sequence() -> None:
    slots = open_loop(np.array([0, 5, 9], dtype=np.int64)).slots
    assert [slot.offset_ns for slot in slots[1:]] == [5, 9]
    assert len(slots) == 3
    for sequence, past in ((slots, 3), (slots, -1), (share(slots, 0, 2), 2), (share(slots, 1, 2), -1)):
        with pytest.raises(IndexError):
            sequence[past]


def test_a_million_slots_cost_no_memory_until_asked_for() -> None:
    schedule = closed_loop(10**12, 64)
    assert len(schedule) == 10**12 + 128
    assert share(schedule.slots, 1, 2, 64)[0] == Slot(1, 1, Phase.EDGE)


# ---------------------------------------------------------------- shares


@settings(deadline=None)
@given(count=st.integers(0, 60), workers=st.integers(1, 9), lanes=st.one_of(st.none(), st.integers(1, 20)))
def test_shares_are_disjoint_ordered_and_together_the_whole(count: int, workers: int, lanes: int | None) -> None:
    if lanes is None:
        whole: Schedule = open_loop(np.arange(count, dtype=np.int64) * 7)
    else:
        whole = closed_loop(count, lanes)
    shares = [share_schedule(whole, k, workers) for k in range(workers)]
    images = [[slot.image for slot in part] for part in shares]
    assert all(a < b for part in images for a, b in pairwise(part))
    assert sorted(image for part in images for image in part) == [slot.image for slot in whole]
    assert {slot.image: slot for part in shares for slot in part} == {slot.image: slot for slot in whole}
    assert [len(part) for part in shares] == [len(part) for part in images]
    if lanes is not None:
        in_flight = [part.concurrency or 0 for part in shares]
        assert sum(in_flight) == lanes
        assert max(in_flight) - min(in_flight) <= 1
        assert all(part.concurrency or not len(part) for part in shares), "slots without a lane would never be sent"


@settings(deadline=None)
@given(lanes=st.integers(2, 40), workers=st.integers(1, 8), count=st.integers(1, 50))
def test_each_worker_leads_in_and_out_with_as_many_slots_as_it_has_lanes(lanes: int, workers: int, count: int) -> None:
    for k in range(workers):
        part = share_schedule(closed_loop(count, lanes), k, workers)
        slots = list(part)
        own = part.concurrency or 0
        assert [slot.phase for slot in slots[:own]] == [Phase.EDGE] * own
        assert [slot.phase for slot in slots].count(Phase.EDGE) == 2 * own


@settings(deadline=None)
@given(count=st.integers(0, 1000), n=st.integers(1, 50))
def test_shares_of_a_count_sum_to_it_and_differ_by_one_at_most(count: int, n: int) -> None:
    parts = [share_of_count(count, k, n) for k in range(n)]
    assert sum(parts) == count
    assert max(parts) - min(parts) <= 1


def test_a_duration_and_a_cap_are_shared_too() -> None:
    part = share_schedule(closed_loop_for(5, 4, bound=8), 1, 2)
    assert part.duration_ns == 5
    assert [slot.image for slot in part.tail] == [1, 3]
    capped = open_loop(np.zeros(4, dtype=np.int64), max_in_flight=5)
    assert [share_schedule(capped, k, 2).max_in_flight for k in range(2)] == [3, 2]


@settings(deadline=None)
@given(rounds=st.integers(1, 5), rest=st.integers(0, 11), workers=st.integers(1, 9), cap=st.integers(1, 12))
def test_the_caps_of_the_shares_are_the_cap_and_each_worker_has_arrivals_for_its_places(
    rounds: int, rest: int, workers: int, cap: int
) -> None:
    count = rounds * cap + rest % cap
    whole = open_loop(np.arange(count, dtype=np.int64), max_in_flight=cap)
    shares = [share_schedule(whole, k, workers) for k in range(workers)]
    places = [part.max_in_flight or 0 for part in shares]
    assert sum(places) == cap
    assert all(place or not len(part) for place, part in zip(places, shares, strict=True)), "none waits for ever"
    assert sorted(slot.image for part in shares for slot in part) == [slot.image for slot in whole]
    firsts = [[slot.image for slot in part if slot.image < rounds * cap] for part in shares]
    assert [len(first) for first in firsts] == [rounds * place for place in places]


# ---------------------------------------------------------------- blocks


def test_a_live_pair_is_measured_in_turns() -> None:
    blocks = block_plan(PAIR, Design.INTERLEAVED, LoadProfile(requests=8, blocks_per_arm=4))
    assert order(blocks) == "bf160 fp80 fp81 bf161 bf162 fp82 fp83 bf163"


def test_turns_cancel_a_linear_drift() -> None:
    for targets in (PAIR, TRIO):
        blocks = block_plan(targets, Design.INTERLEAVED, LoadProfile(requests=8, blocks_per_arm=4))
        middle = {t.name: np.mean([i for i, b in enumerate(blocks) if b.target == t.name]) for t in targets}
        assert len(set(middle.values())) == 1, middle


def test_a_serial_run_comes_back_to_the_baseline() -> None:
    load = LoadProfile(requests=8, blocks_per_arm=4)
    assert order(block_plan(PAIR, Design.SERIAL, load)) == "bf160 bf161 fp80 fp81 fp82 fp83 bf162 bf163"
    one = LoadProfile(requests=8, blocks_per_arm=1)
    assert order(block_plan(PAIR, Design.SERIAL, one)) == "bf160 fp80"


def test_a_serial_sweep_changes_servers_twice_only() -> None:
    load = LoadProfile(requests=4, blocks_per_arm=2, sweep=parse_sweep("concurrency=1,2"))
    blocks = block_plan(PAIR, Design.SERIAL, load)
    assert order(blocks) == "bf160 bf162 fp80 fp81 fp82 fp83 bf161 bf163"
    assert [block.level for block in blocks] == [0, 1, 0, 0, 1, 1, 0, 1]


def test_a_single_target_runs_its_blocks_in_order() -> None:
    assert order(block_plan(PAIR[:1], Design.SINGLE, LoadProfile(requests=3, blocks_per_arm=2))) == "bf160 bf161"


LOADS = st.builds(
    LoadProfile,
    arrival=st.sampled_from([Arrival.CLOSED, Arrival.CONSTANT, Arrival.POISSON, Arrival.GAMMA]),
    concurrency=st.integers(1, 8),
    rate_per_s=st.just(12.0),
    burstiness=st.just(0.5),
    requests=st.one_of(st.none(), st.integers(1, 40)),
    duration_s=st.just(9.0),  # at these rates, some arrival falls into each level
    warmup=st.integers(0, 6),
    blocks_per_arm=st.integers(1, 5),
    sweep=st.sampled_from([None, parse_sweep("concurrency=1,3"), parse_sweep("rate=2,9")]),
)


@settings(deadline=None)
@given(
    load=LOADS,
    design=st.sampled_from([Design.INTERLEAVED, Design.SERIAL]),
    seed=st.integers(0, 5),
    starts=st.integers(1, 2),
)
def test_arms_are_paired_and_each_server_sees_each_image_once(
    load: LoadProfile, design: Design, seed: int, starts: int
) -> None:
    blocks = block_plan(PAIR, design, load, seed, starts=starts, fastest_request_s=0.01)
    stages = arm_plan(load, seed, starts=starts, fastest_request_s=0.01)
    by_arm = {
        target.name: {block.number: (block.level, list(block.slots)) for block in blocks if block.target == target.name}
        for target in PAIR
    }
    assert by_arm["bf16"] == by_arm["fp8"]
    before = [slot for schedule in (*stages.cold, *stages.warmup) for slot in schedule]
    measured = [slot for _, slots in by_arm["bf16"].values() for slot in slots]
    images = [slot.image for slot in before + measured]
    assert len(set(images)) == len(images)
    assert max(images) < stages.images
    if load.requests is not None:
        assert sorted(images) == list(range(stages.images)), "a number that is not sent is a file that stays unused"
    for phase in Phase:
        indices = sorted(slot.index for slot in before + measured if slot.phase is phase)
        assert indices == list(range(len(indices))), phase
    if load.requests is not None:
        levels = len(levels_of(load))
        assert sum(slot.phase is Phase.MEASURE for slot in measured) == load.requests * levels
        sizes = [sum(slot.phase is Phase.MEASURE for slot in slots) for _, slots in by_arm["bf16"].values()]
        assert max(sizes) - min(sizes) <= 1


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    load = LoadProfile(arrival=Arrival.POISSON, rate_per_s=5, requests=20)
    plans = [[list(b.slots) for b in block_plan(PAIR, Design.INTERLEAVED, load, seed)] for seed in (3, 3, 4)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    first, second = ([slot.offset_ns for slot in slots] for slots in (plans[0][0], plans[0][3]))
    assert first != second, "blocks of one arm must not repeat one draw"


def test_an_open_loop_has_a_second_of_lead_in() -> None:
    load = LoadProfile(arrival=Arrival.CONSTANT, rate_per_s=4, requests=40, blocks_per_arm=1)
    (block,) = block_plan(PAIR[:1], Design.SINGLE, load)
    phases = [slot.phase for slot in block.slots]
    assert phases == [Phase.EDGE] * 4 + [Phase.MEASURE] * 40 + [Phase.EDGE] * 4
    assert block.slots.slots[4].offset_ns == 10**9


def test_a_ramp_by_requests_has_no_edges_and_so_many_requests() -> None:
    load = LoadProfile(arrival=Arrival.POISSON, rate_per_s=1, rate_end_per_s=9, requests=20, blocks_per_arm=2)
    blocks = block_plan(PAIR[:1], Design.SINGLE, load)
    assert [{slot.phase for slot in block.slots} for block in blocks] == [{Phase.MEASURE}] * 2
    assert [len(block.slots) for block in blocks] == [10, 10]


def test_a_ramp_by_duration_has_no_edges() -> None:
    load = LoadProfile(
        arrival=Arrival.CONSTANT, rate_per_s=1, rate_end_per_s=9, requests=None, duration_s=4, blocks_per_arm=1
    )
    (block,) = block_plan(PAIR[:1], Design.SINGLE, load)
    assert len(block.slots) == 20
    assert {slot.phase for slot in block.slots} == {Phase.MEASURE}


def test_a_sweep_sets_one_knob_a_level() -> None:
    assert [step.concurrency for step in levels_of(LoadProfile(sweep=parse_sweep("concurrency=1,4,16")))] == [1, 4, 16]
    rates = levels_of(LoadProfile(sweep=parse_sweep("rate=0.5,2")))
    assert [(step.rate_per_s, step.arrival) for step in rates] == [(0.5, Arrival.POISSON), (2.0, Arrival.POISSON)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "depth=1,2",
        "concurrency=",
        "concurrency=1.5",
        "concurrency=0",
        "rate=-1",
        "rate=a",
        "rate=2,2",
        "rate=nan",
        "concurrency=nan",
        "concurrency=inf",
    ],
)
def test_a_sweep_that_cannot_be_walked_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError):
        parse_sweep(text)


@pytest.mark.parametrize(
    "load",
    [
        LoadProfile(requests=None, duration_s=None),
        LoadProfile(arrival=Arrival.POISSON),
        LoadProfile(arrival=Arrival.REPLAY),
        LoadProfile(arrival=Arrival.CONSTANT, rate_per_s=0, rate_end_per_s=0, requests=10),
        LoadProfile(arrival=Arrival.POISSON, rate_per_s=0.1, requests=None, duration_s=1),
        LoadProfile(requests=None, duration_s=1, sweep=parse_sweep("rate=9,0.1")),
    ],
)
def test_a_load_that_lacks_something_is_refused(load: LoadProfile) -> None:
    with pytest.raises(UsageError):
        block_plan(PAIR, Design.INTERLEAVED, load)


def test_the_bound_of_a_block_by_duration_follows_what_a_request_takes() -> None:
    load = LoadProfile(requests=None, duration_s=2, blocks_per_arm=2, concurrency=4, warmup=0)
    wide, tight = (arm_plan(load, fastest_request_s=s).images for s in (0.01, 0.1))
    assert (wide, tight) == (1 + 2 * (400 + 8), 1 + 2 * (40 + 8))


@pytest.mark.parametrize(
    ("load", "cores", "workers"),
    [
        (LoadProfile(concurrency=1), 8, 1),
        (LoadProfile(concurrency=64), 8, 1),
        (LoadProfile(concurrency=256), 8, 3),
        (LoadProfile(concurrency=256), 2, 1),
        (LoadProfile(concurrency=256), 1, 1),
        (LoadProfile(sweep=parse_sweep("concurrency=1,256")), 8, 3),
        (LoadProfile(arrival=Arrival.POISSON, rate_per_s=1000, concurrency=999), 8, 1),
        (LoadProfile(arrival=Arrival.POISSON, rate_per_s=100, rate_end_per_s=5000), 8, 3),
        (LoadProfile(arrival=Arrival.POISSON, rate_per_s=9000, max_in_flight=2), 8, 2),
    ],
)
def test_auto_workers_follow_the_load_and_the_cores(load: LoadProfile, cores: int, workers: int) -> None:
    assert workers_needed(load, cores) == workers


@pytest.mark.parametrize("concurrency", [1, 3])
def test_blocks_by_duration_use_the_pictures_of_a_folder_up_one_after_the_other(concurrency: int) -> None:
    """Each block has numbers for far more requests than time: one behind the other they left most of a folder unused, and came back to
    the pictures of the warm-up under other names."""
    load = LoadProfile(requests=None, duration_s=40, blocks_per_arm=4, concurrency=concurrency, warmup=5)
    stages = arm_plan(load)
    sent = [slot.image for slots in (*stages.cold, *stages.warmup) for slot in slots]
    for schedule in stages.levels[0]:
        sent += [slot.image for slot in (*schedule.tail, *schedule.slots[: 25 + len(schedule.tail)])]
    assert sorted(sent) == list(range(len(sent)))
    by_level = arm_plan(msgspec.structs.replace(load, sweep=parse_sweep("concurrency=2,5")))
    numbers = [slots[k].image for level in by_level.levels for s in level for slots in (s.tail, s.slots) for k in range(min(len(slots), 30))]  # fmt: skip
    assert len(set(numbers)) == len(numbers)
