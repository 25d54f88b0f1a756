"""In which order the arms are measured, and with which slots. Pure: targets, design and load profile in, blocks out.

    INTERLEAVED   A B │ B A │ A B │ B A      every pair in turn reversed (ABBA): a linear drift cancels over two pairs
    SERIAL        A A │ B B B B │ A A        one server at a time; the baseline's half before and half after show the drift
    SINGLE        A A A A

Block j of each arm has the same slots: same indices, same image numbers, same arrival times. So measured requests pair up between arms,
while each server sees each image number once. Numbers run through the life of a server: cold, warm-up, block by block; closed blocks by
duration take them in turn. So the files of a folder are used up before the first of them comes back as a variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import msgspec

from client.core.arrivals import NS, Offsets, by_count, by_duration, check_rate
from client.core.plan import Arrival, Design, LoadProfile, Sweep, Target
from client.core.records import Phase
from client.core.replays import Replay, beginning
from client.core.schedule import Schedule, closed_loop, closed_loop_for, open_loop, share_of_count
from client.errors import UsageError

EDGE_S = 1.0
"""Lead-in and lead-out of an open-loop block: longer than a request takes, on the servers that this tool is made for."""
FASTEST_REQUEST_S = 1e-4
"""Bounds the number of slots of a closed loop by duration: no request on one lane is faster than this, whatever the server, for it costs
this process about as much. A slot costs nothing until it is sent; a bound that is reached would end the load before its time."""

USUAL_REQUEST_S = 0.05
"""A closed loop's rate is not known ahead: an image request that is answered faster than this is rare."""
REQUESTS_PER_WORKER = 2_000
"""Requests/s of one generator process at which it still has more than half of its core to spare for lateness."""


@dataclass(frozen=True, slots=True)
class Block:
    """One stretch of measured load on one target. `number` counts within the arm, over all levels."""

    target: str
    number: int
    level: int
    slots: Schedule


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """What every arm goes through. `cold` and `warmup` have one schedule for each start of a server; `images` is how many numbers are used."""

    cold: tuple[Schedule, ...]
    warmup: tuple[Schedule, ...]
    levels: tuple[tuple[Schedule, ...], ...]
    images: int


def block_plan(
    targets: Sequence[Target],
    design: Design,
    load: LoadProfile,
    seed: int = 0,
    *,
    replay: Replay | None = None,
    starts: int = 1,
    fastest_request_s: float = FASTEST_REQUEST_S,
) -> list[Block]:
    """All measured blocks in the order in which they run. `targets[0]` is the baseline; the rest as in `arm_plan`."""
    names = [target.name for target in targets]
    levels: list[list[tuple[int, int, Schedule]]] = []
    number = 0
    stages = arm_plan(load, seed, replay=replay, starts=starts, fastest_request_s=fastest_request_s)
    for level, schedules in enumerate(stages.levels):
        levels.append([(number + n, level, slots) for n, slots in enumerate(schedules)])
        number += len(schedules)
    order = _in_turns(names, levels) if design is Design.INTERLEAVED else _one_server_at_a_time(names, levels, design)
    return [Block(name, number, level, slots) for name, (number, level, slots) in order]


def arm_plan(
    load: LoadProfile,
    seed: int = 0,
    *,
    replay: Replay | None = None,
    starts: int = 1,
    fastest_request_s: float = FASTEST_REQUEST_S,
) -> ArmPlan:
    """The schedules of one arm, numbered through.

    `starts`: how often a server is taken through its first requests (`starts_of`): numbers that are set aside and not sent are pictures of
    a folder that stay unused, while others come back as variants. `fastest_request_s` bounds the slots of a closed loop
    by duration, lane by lane: what the warm-up took, halved, keeps the number of pictures near to what is needed.
    """
    image = starts
    cold = tuple(closed_loop(1, 1, phase=Phase.COLD, index=i, image=i) for i in range(starts))
    warmup = []
    for i in range(starts):
        together = max(1, min(levels_of(load)[0].concurrency, load.warmup))
        warmup.append(closed_loop(load.warmup, together, phase=Phase.WARMUP, index=i * load.warmup, image=image))
        image += load.warmup
    steps = levels_of(load)
    numbers = _Numbers(image=image, in_turn=len(steps) * max(1, load.blocks_per_arm))
    levels = tuple(_blocks_of_level(step, seed, n, numbers, replay, fastest_request_s) for n, step in enumerate(steps))
    return ArmPlan(cold, tuple(warmup), levels, numbers.end)


def starts_of(isolated: bool, targets: Sequence[Target]) -> int:
    """How often one server may be started in a run: where one is alive at a time, the baseline comes up again after the others."""
    return 2 if isolated and len(targets) > 1 else 1


def levels_of(load: LoadProfile) -> list[LoadProfile]:
    """The load profile at each level of its sweep; itself when it has none."""
    if load.sweep is None:
        return [load]
    if load.sweep.knob == "concurrency":
        return [_set(load, concurrency=int(value), arrival=Arrival.CLOSED) for value in load.sweep.values]
    arrival = Arrival.POISSON if load.arrival is Arrival.CLOSED else load.arrival
    return [_set(load, rate_per_s=value, arrival=arrival) for value in load.sweep.values]


def workers_needed(load: LoadProfile, cores: int) -> int:
    """How many generator processes `--workers auto` means: enough for REQUESTS_PER_WORKER, one core left to the system, none without a
    place in flight, at least one."""
    highest = max(
        step.concurrency / USUAL_REQUEST_S
        if step.rate_per_s is None
        else max(step.rate_per_s, step.rate_end_per_s or 0)
        for step in levels_of(load)
    )
    places = cores - 1 if load.max_in_flight is None else min(cores - 1, load.max_in_flight)
    return max(1, min(places, ceil(highest / REQUESTS_PER_WORKER)))


def parse_sweep(text: str) -> Sweep:
    """`concurrency=1,4,16,64` or `rate=0.5,1,2`."""
    knob, _, listed = text.partition("=")
    example = "For example --sweep concurrency=1,4,16,64 or --sweep rate=1,2,4."
    if knob not in ("concurrency", "rate"):
        raise UsageError(f"--sweep {text}: `{knob}` cannot be swept.", example)
    try:
        values = tuple(float(value) for value in listed.split(","))
    except ValueError:
        raise UsageError(f"--sweep {text}: `{listed}` is not a list of numbers.", example) from None
    for value in values:
        if knob == "concurrency" and not (1 <= value <= 100_000 and value == int(value)):
            raise UsageError(f"--sweep {text}: {value:g} requests in flight is not a whole number above 0.", example)
        if knob == "rate":
            check_rate(value, 1.0)
    if len(set(values)) < len(values):
        raise UsageError(f"--sweep {text}: a level stands there twice.", example)
    return Sweep(knob=knob, values=values)


@dataclass(slots=True)
class _Numbers:
    """The next free numbers of one arm."""

    image: int
    in_turn: int
    """How many closed blocks by duration deal the numbers out among themselves: each may send up to a bound that none comes near, and
    blocks one after another would leave most pictures of a folder unused and begin again anywhere in it."""
    index: int = 0
    edge_index: int = 0
    dealt: int = 0
    longest: int = 0

    @property
    def end(self) -> int:
        return self.image + self.in_turn * self.longest

    def deal(self, schedule: Schedule, measured: int) -> Schedule:
        """`schedule` has the numbers from `image + dealt` on, in steps of `in_turn`."""
        self.dealt += 1
        self.longest = max(self.longest, len(schedule))
        self.index += measured
        self.edge_index += len(schedule) - measured
        return schedule

    def take(self, schedule: Schedule, measured: int) -> Schedule:
        self.image += len(schedule)
        self.index += measured
        self.edge_index += len(schedule) - measured
        return schedule


def _blocks_of_level(
    load: LoadProfile, seed: int, level: int, numbers: _Numbers, replay: Replay | None, fastest_s: float
) -> tuple[Schedule, ...]:
    blocks = max(1, load.blocks_per_arm)
    if load.arrival is Arrival.REPLAY:
        if replay is None or not len(replay):
            raise UsageError("There are no arrivals to replay.", "Name a run directory that has measured requests.")
        saved = beginning(replay, load.requests, load.duration_s)
        return tuple(_open(block.offsets, block.edges, numbers, load.max_in_flight) for block in saved)
    if load.requests is None:
        if not load.duration_s or load.duration_s <= 0:
            raise UsageError("Neither a number of requests nor a duration was given.", "Give --requests or --duration.")
        timed = tuple(
            _by_duration(load, load.duration_s / blocks, (seed, level, b), numbers, fastest_s) for b in range(blocks)
        )
        if not any(len(schedule) for schedule in timed):
            end = "" if load.rate_end_per_s is None else f" to {load.rate_end_per_s:g}"
            raise UsageError(
                f"No arrival falls into {load.duration_s:g} s at {_rate(load):g}{end} requests per second (seed {seed}).",
                "Give a longer --duration, a higher --rate, or --requests.",
            )
        return timed
    blocks = min(blocks, load.requests)
    counts = [share_of_count(load.requests, b, blocks) for b in range(blocks)]
    return tuple(_by_count(load, count, (seed, level, b), numbers) for b, count in enumerate(counts))


def _by_count(load: LoadProfile, count: int, seed: tuple[int, ...], numbers: _Numbers) -> Schedule:
    if load.arrival is Arrival.CLOSED:
        schedule = closed_loop(
            count, load.concurrency, index=numbers.index, edge_index=numbers.edge_index, image=numbers.image
        )
        return numbers.take(schedule, count)
    rate, end = _rate(load), load.rate_end_per_s
    # A ramp has no steady state to be led into.
    edges = 0 if end is not None else min(round(rate * EDGE_S), count // 4)
    offsets = by_count(load.arrival, rate, count + 2 * edges, seed=seed, burstiness=load.burstiness, end_rate_per_s=end)
    return _open(offsets, edges, numbers, load.max_in_flight)


def _by_duration(
    load: LoadProfile, duration_s: float, seed: tuple[int, ...], numbers: _Numbers, fastest_s: float
) -> Schedule:
    if load.arrival is Arrival.CLOSED:
        bound = ceil(duration_s / fastest_s) * load.concurrency
        schedule = closed_loop_for(
            round(duration_s * NS),
            load.concurrency,
            bound=bound,
            index=numbers.index,
            edge_index=numbers.edge_index,
            image=numbers.image + numbers.dealt,
            step=numbers.in_turn,
        )
        return numbers.deal(schedule, bound)
    rate = _rate(load)
    offsets = by_duration(
        load.arrival,
        rate,
        duration_s,
        seed=seed,
        burstiness=load.burstiness,
        end_rate_per_s=load.rate_end_per_s,
    )
    # A ramp has no steady state to be led into.
    edges = 0 if load.rate_end_per_s is not None else min(round(rate * EDGE_S), len(offsets) // 6)
    return _open(offsets, edges, numbers, load.max_in_flight)


def _open(offsets: Offsets, edges: int, numbers: _Numbers, cap: int | None) -> Schedule:
    schedule = open_loop(
        offsets,
        edges=edges,
        index=numbers.index,
        edge_index=numbers.edge_index,
        image=numbers.image,
        max_in_flight=cap,
    )
    return numbers.take(schedule, len(offsets) - 2 * edges)


def _rate(load: LoadProfile) -> float:
    if load.rate_per_s is None:
        raise UsageError(f"{load.arrival} arrivals have no rate.", "Give --rate.")
    return load.rate_per_s


def _set(load: LoadProfile, **changes: object) -> LoadProfile:
    return msgspec.structs.replace(load, sweep=None, **changes)


_Numbered = tuple[int, int, Schedule]


def _in_turns(names: list[str], levels: list[list[_Numbered]]) -> list[tuple[str, _Numbered]]:
    return [
        (name, block)
        for level in levels
        for turn, block in enumerate(level)
        for name in (names if turn % 2 == 0 else reversed(names))
    ]


def _one_server_at_a_time(
    names: list[str], levels: list[list[_Numbered]], design: Design
) -> list[tuple[str, _Numbered]]:
    """SERIAL: the baseline's first half of each level, all of every other arm, the baseline's second half.

    A level of one block cannot be halved: the baseline then runs it first, and there is no second look.
    """
    every = [block for level in levels for block in level]
    if design is Design.SINGLE or len(names) < 2:
        return [(name, block) for name in names for block in every]
    before = [block for level in levels for block in level[: (len(level) + 1) // 2]]
    after = [block for level in levels for block in level[(len(level) + 1) // 2 :]]
    others = [(name, block) for name in names[1:] for block in every]
    return [(names[0], block) for block in before] + others + [(names[0], block) for block in after]
