"""Campaigns in memory whose true effect is known: no sockets, no clock. `benchmarks/coverage` asks the analysis about thousands of them.

The latency of a request is 200 ms · image · machine(t) · drift(t) · noise, times (1 + effect) on the second server. What belongs to the
machine belongs to its time, so neighbours in time share it whichever server they went to. With several in flight, requests start in waves,
and what belongs to a wave all of its requests share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.core.metrics import Arm
from client.core.pairing import Sides, sides
from client.core.plan import Design, LoadProfile, RunPlan, Target
from client.core.table import NEVER
from client.core.warmup import Steady, steady_state

Floats = npt.NDArray[np.float64]
BLOCKS = 4
WARMUP = 20
"""Warm-up requests before each stay of a server, as in a campaign unless told otherwise: the same pictures for both servers, but for a
baseline that is started a second time."""
COLD_FOR = 31
IMAGE_SPREAD = 0.15
AHEAD = -1
"""In the place of a block: warm-up requests."""
Stretch = tuple[int, npt.NDArray[np.int64], int]
"""Arm, images, block."""


@dataclass(frozen=True, slots=True)
class World:
    """Log-scale noise: `sigma` of independent noise, `rho` and `machine` of an AR(1) machine state, `tail` degrees of freedom of
    Student's t instead of a normal, `drift` over the whole run, `wander` as the spread of a random walk at its end, `heating` a drift that settles after a
    fifth of the run, `step` a jump where the baseline of a serial run ends its first stay, `cycle` a swing to either side, twice in the run; `wave` of what the
    `in_flight` requests of a wave have in common."""

    name: str
    sigma: float = 0.10
    rho: float = 0.0
    machine: float = 0.0
    tail: float | None = None
    drift: float = 0.0
    wander: float = 0.0
    heating: float = 0.0
    step: float = 0.0
    cycle: float = 0.0
    wave: float = 0.0
    in_flight: int = 1
    sizes: tuple[int, ...] = (30, 120)
    cold: tuple[float, float] = (0.0, 0.0)
    """How much slower each server is until it has answered COLD_FOR requests since its start, WARMUP of them before any is measured."""
    fading: float | None = None
    """Then, it is so much slower at its start, and 1 / e of it after so many requests."""
    promised: bool = True
    """False: outside what any of the designs can promise; told beside the others so that the limit is seen."""


WORLDS: tuple[World, ...] = (
    World("log-normal", sizes=(30, 60, 120)),
    World("autocorrelated", sigma=0.06, rho=0.6, machine=0.08),
    World("heavy tails", sigma=0.08, tail=2.5),
    World("drift 10 %", drift=0.10, sizes=(30, 60, 120)),
    World("drift + autocorrelated + heavy tails", sigma=0.06, rho=0.6, machine=0.06, tail=3.0, drift=0.10),
    World("warm-up reaches into what is measured", cold=(0.6, 0.2), sizes=(30, 60, 120)),
    World("small warm-up of one server", cold=(0.15, 0.0), sizes=(30, 60, 120)),
    World("fading warm-up of one server", cold=(0.5, 0.0), fading=16, sizes=(30, 60, 120)),
    World("fading warm-up", cold=(1.0, 0.2), fading=16, sizes=(30, 60, 120)),
    World("heating 10 %", heating=0.10, sizes=(60, 120)),
    World("step of 10 % after a quarter", step=0.10, sizes=(60, 120), promised=False),
    World("cycle of half the run, ±3 %", cycle=0.03, sizes=(120,), promised=False),
    World("random walk 5 %", wander=0.05, promised=False),
    World("waves of 6", sigma=0.06, wave=0.05, in_flight=6, sizes=(120,)),
    World("waves of 15", sigma=0.06, wave=0.05, in_flight=15, sizes=(120,), promised=False),
    World("15 in flight that share nothing", in_flight=15, sizes=(120,)),
    World("single waves of 30", sigma=0.06, wave=0.05, in_flight=30, sizes=(120,), promised=False),
)


def timeline(world: World, n: int, rng: np.random.Generator) -> Floats:
    """Log latency, but for image and effect, of n requests one after the other."""
    shocks = rng.normal(size=n) * world.machine * np.sqrt(1 - world.rho**2)
    state = np.empty(n)
    last = rng.normal() * world.machine
    for k in range(n):
        last = world.rho * last + shocks[k]
        state[k] = last
    noise = rng.normal(size=n) if world.tail is None else rng.standard_t(world.tail, n)
    walk = np.cumsum(rng.normal(size=n)) * world.wander / np.sqrt(n)
    share = np.arange(n) / max(n - 1, 1)
    shared = np.log1p(world.drift * share) + np.log1p(world.heating * -np.expm1(-share / 0.2))
    shared += np.where(share >= 0.25, np.log1p(world.step), 0.0)
    if world.cycle:
        shared += world.cycle * np.sin(2 * np.pi * (2 * share + rng.random()))
    return np.asarray(state + world.sigma * noise + shared + walk, np.float64)


def waves(world: World, n: int, rng: np.random.Generator) -> Floats:
    """What each of n requests of one block has in common with its wave, as a log."""
    effects = rng.normal(size=-(-n // world.in_flight)) * world.wave
    return np.asarray(np.repeat(effects, world.in_flight)[:n], np.float64)


def slots(design: Design, n: int) -> list[Stretch]:
    """(arm, images, block) stretches in order of time, as `client.core.blocks` lays them: ABBA blocks over the same images; or the
    baseline's half of them, all of the candidate's, the baseline's other half."""
    images = np.arange(n)
    if design is Design.SERIAL:
        blocks = list(enumerate(np.array_split(images, BLOCKS)))
        half = BLOCKS // 2
        return [
            (arm, part, block)
            for arm, some in ((0, blocks[:half]), (1, blocks), (0, blocks[half:]))
            for block, part in some
        ]
    found = []
    for block, part in enumerate(np.array_split(images, BLOCKS)):
        order = (0, 1) if block % 2 == 0 else (1, 0)
        found += [(arm, part, block) for arm in order]
    return found


def made_arm(
    name: str,
    log_ms: Floats,
    image: npt.NDArray[np.int64],
    block: npt.NDArray[np.int64],
    place: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
) -> Arm:
    n = len(log_ms)
    e2e = np.exp(log_ms)
    yes = np.ones(n, np.bool_)
    none = np.full(n, NEVER, np.int64)
    return Arm(
        target=name, rows=place, image=image.astype(np.int32), block=block, index=np.arange(n), start_ns=start,
        end_ns=start + (e2e * 1e6).astype(np.int64), ok=yes, counted=yes, censored=~yes, tokens=none, prompt_tokens=none, cached_tokens=none,
        latency={"e2e": e2e}, gaps=np.zeros(0), gap_owner=np.zeros(0, np.int32), limit_ms=None,
    )  # fmt: skip


def campaign(world: World, design: Design, n: int, effect: float, rng: np.random.Generator) -> Sides:
    """One campaign of n requests per arm, without what the analysis finds to belong to the warm-up."""
    return steady_of(*whole_campaign(world, design, n, effect, rng), design).sides[0]


def steady_of(arms: dict[str, Arm], warm: dict[str, Arm], design: Design) -> Steady:
    return steady_state(arms, (sides(*arms.values(), design),), design, warm)


def whole_campaign(
    world: World, design: Design, n: int, effect: float, rng: np.random.Generator
) -> tuple[dict[str, Arm], dict[str, Arm]]:
    """The measured requests and the warm-up of both servers. One machine and one timeline for all of them: a live pair is warmed up one
    after the other before the first block, one server at a time after each start."""
    image_log, warm_log = rng.normal(size=n) * IMAGE_SPREAD, rng.normal(size=2 * WARMUP) * IMAGE_SPREAD
    stretches = _with_warm_ups(design, slots(design, n))
    noise = timeline(world, sum(len(images) for _, images, _ in stretches), rng)
    rows: tuple[list[Floats], list[Floats]] = ([], [])
    warm: tuple[list[Floats], list[Floats]] = ([], [])
    begin, now, answered, starts_of = 0, 0.0, [0, 0], [0, 0]
    for arm, images, block in stretches:
        end = begin + len(images)
        pictures = image_log[images]
        if block == AHEAD:
            answered[arm] = 0
            images = images + WARMUP * starts_of[arm]
            starts_of[arm] += 1
            pictures = warm_log[images]
        logs = np.log(200.0) + pictures + noise[begin:end] + (np.log1p(effect) if arm else 0.0)
        logs += cold_log(world, arm, answered[arm] + np.arange(len(images)))
        answered[arm] += len(images)
        if world.in_flight > 1:
            logs = logs + waves(world, len(images), rng)
        starts, now = _starts(logs, world.in_flight, now)
        whole = np.stack([logs, images, np.full(len(images), block), np.arange(begin, end), starts * 1e6])
        (warm if block == AHEAD else rows)[arm].append(whole)
        begin = end
    return _arms(rows, 0), _arms(warm, n)


def _with_warm_ups(design: Design, stretches: list[Stretch]) -> list[Stretch]:
    ahead = np.arange(WARMUP)
    if design is not Design.SERIAL:
        return [(0, ahead, AHEAD), (1, ahead, AHEAD), *stretches]
    found: list[Stretch] = []
    for arm, images, block in stretches:
        if not found or found[-1][0] != arm:
            found.append((arm, ahead, AHEAD))
        found.append((arm, images, block))
    return found


def _arms(rows: tuple[list[Floats], list[Floats]], first_image: int) -> dict[str, Arm]:
    arms = {}
    for name, parts in zip(("bf16", "fp8"), rows, strict=True):
        log_ms, image, of_block, place, start = np.concatenate(parts, axis=1)
        whole = (part.astype(np.int64) for part in (image + first_image, of_block, place, start))
        arms[name] = made_arm(name, log_ms, *whole)
    return arms


def cold_log(world: World, arm: int, answered: npt.NDArray[np.int64]) -> Floats:
    """What a server that has answered so many requests since its start is slower by, as a log."""
    if world.fading is not None:
        return np.asarray(np.log1p(world.cold[arm] * np.exp(-answered / world.fading)), np.float64)
    return np.where(answered < COLD_FOR, np.log1p(world.cold[arm]), 0.0)


def _starts(logs: Floats, in_flight: int, now: float) -> tuple[Floats, float]:
    """When each starts, in ms, and when the last of them has ended: a wave starts as the longest of the one before it ends."""
    firsts = np.arange(0, len(logs), in_flight)
    lasting = np.maximum.reduceat(np.exp(logs), firsts)
    ends = now + np.cumsum(lasting)
    return np.repeat(ends - lasting, in_flight)[: len(logs)], float(ends[-1])


def plan(design: Design, seed: int, in_flight: int = 1) -> RunPlan:
    pair = (Target(name="bf16", base_url="http://a"), Target(name="fp8", base_url="http://b"))
    return RunPlan(targets=pair, design=design, seed=seed, load=LoadProfile(concurrency=in_flight))


def naive_interval(world: World, n: int, effect: float, rng: np.random.Generator) -> tuple[float, float]:
    """What a plain benchmark does: all of A, then all of B, and a bootstrap of independent requests. As logs of the ratio of medians."""
    image_log = rng.normal(size=n) * IMAGE_SPREAD
    noise = timeline(world, 2 * n, rng)
    if world.in_flight > 1:
        noise = noise + np.concatenate([waves(world, n, rng) for _ in range(2)])
    slow = [cold_log(world, arm, WARMUP + np.arange(n)) for arm in (0, 1)]
    a, b = np.exp(image_log + noise[:n] + slow[0]), np.exp(image_log + noise[n:] + slow[1]) * (1 + effect)
    index = rng.integers(0, n, (1000, 2, n))
    logs = np.log(np.median(b[index[:, 1]], axis=1) / np.median(a[index[:, 0]], axis=1))
    low, high = np.quantile(logs, [0.025, 0.975])
    return float(low), float(high)
