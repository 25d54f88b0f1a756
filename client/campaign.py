"""The order of a run: cold start, warm-up, measured blocks, counters around them. Puts the rooms together and computes nothing.

Both arms go through the same stages with the same picture numbers. Each stage leaves its lines in the run directory before the next one
begins, so that whatever happens later, what was measured stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from client.core.blocks import ArmPlan, Block, arm_plan, block_plan, starts_of
from client.core.evidence import ServerEvidence
from client.core.plan import RunPlan
from client.core.records import ImageFact, Outcome, Phase, PhaseWindow, RequestRecord, ServerSnapshot, WorkerHealth
from client.core.replays import Replay
from client.core.runpod import Workers
from client.core.schedule import Images, Schedule, closed_loop
from client.errors import TargetError
from client.preflight import Introduction
from client.progress import Progress
from client.rundir import RunDir
from client.serverless import Poll, settled

UNKNOWN_PACE = 64
"""Pictures for each lane of a block by duration, when nothing is known of the server's pace; the others are made as it goes on."""


async def _no_workers(name: str) -> Workers | None:
    """For servers that are not serverless."""
    del name
    return None


class BlockOutcome(Protocol):
    @property
    def window(self) -> PhaseWindow: ...
    @property
    def health(self) -> Sequence[WorkerHealth]: ...


class Fleet(Protocol):
    """What sends: `client.generator.LocalFleet` in this process, `client.workers.Fleet` in several."""

    async def start(self) -> None: ...
    async def run(
        self, target_name: str, slots: Schedule, *, phase: Phase, block: int | None, level: int
    ) -> BlockOutcome: ...
    async def stop(self) -> None: ...
    def abort(self) -> None: ...


class Pictures(Protocol):
    """Where request bodies come from (`client.workload.Bodies`)."""

    async def prepare(self, numbers: Iterable[int], likely: int | None = None, last: Iterable[int] = ()) -> None: ...
    def drain(self) -> Iterable[ImageFact]: ...


class Energy(Protocol):
    """The energy counter of a target's GPU, in millijoules; None when it is not measured."""

    async def __call__(self, target: str) -> int | None: ...


class Keeper(Protocol):
    """Keeps one server alive at a time (`client.containers.ServerContainers`)."""

    async def up(self, target: str) -> bool:
        """Makes this target the one that serves. True when it was started for that. Raises TargetError."""
        ...


class Campaign:
    """`keeper` None: every target serves all the time. Otherwise each is started before its turn, and cold again then."""

    def __init__(
        self,
        plan: RunPlan,
        run_dir: RunDir,
        met: Mapping[str, Introduction],
        fleet: Fleet,
        pictures: Pictures,
        snapshot: Callable[[str], Awaitable[ServerSnapshot]],
        energy: Energy,
        progress: Progress,
        replay: Replay | None = None,
        keeper: Keeper | None = None,
        poll: Poll = _no_workers,
    ) -> None:
        self._plan = plan
        self._keeper = keeper
        self._starts: dict[str, int] = {}
        self._alive: str | None = None
        self._run_dir = run_dir
        self._met = met
        self._fleet = fleet
        self._pictures = pictures
        self._snapshot = snapshot
        self._energy = energy
        self._progress = progress
        self._replay = replay
        self._poll = poll
        self._workers: dict[str, list[Workers]] = {}
        self._before: dict[str, ServerSnapshot] = {}
        self._last: RequestRecord | None = None
        self._fastest_ns: dict[str, int] = {}
        self._preparing: asyncio.Future[None] | None = None
        self.interrupted = False

    def see(self, record: RequestRecord) -> None:
        """Called with each record as it is written."""
        self._last = record
        if record.outcome is Outcome.OK and record.sent_ns is not None and record.done_ns is not None:
            took = record.done_ns - record.sent_ns
            self._fastest_ns[record.target] = min(took, self._fastest_ns.get(record.target, took))
        self._progress.record(record)

    def interrupt(self) -> None:
        """Stops sending. What is in flight is cancelled and leaves its record."""
        self.interrupted = True
        if self._preparing is not None:
            self._preparing.cancel()
        self._fleet.abort()

    async def run(self) -> None:
        """Returns when all is measured, or soon after `interrupt`. Raises TargetError when a target cannot answer its first request."""
        plan = self._plan
        starts = starts_of(self._keeper is not None, plan.targets)
        stages = arm_plan(plan.load, plan.seed, replay=self._replay, starts=starts)
        names = [target.name for target in plan.targets]
        blocks = block_plan(plan.targets, plan.design, plan.load, plan.seed, replay=self._replay, starts=starts)
        if self._keeper is None and all(block.slots.duration_ns is None for block in blocks):
            first = len(stages.cold[0]) + len(stages.warmup[0])
            asked = sum(len(slots) for slots in quality_passes(plan, stages.images))
            self._progress.expect(len(names) * (first + asked) + sum(len(block.slots) for block in blocks))
        await self._fleet.start()
        try:
            if self._keeper is None:
                for name in names:
                    await self._cold(name, stages.cold[0])
                for name in names:
                    await self._stage(f"warming up {name}", name, stages.warmup[0], Phase.WARMUP)
            for number, block in enumerate(blocks):
                await self._turn_to(block.target, stages)
                await self._measure(block, number, len(blocks))
                if self._ends_arm(number, blocks):
                    await self._after(block.target)
            for name in names:
                if self.interrupted and name in self._before:
                    await self._after(name)
            for name in names if plan.quality else ():
                await self._turn_to(name, None)
                for number, slots in enumerate(quality_passes(plan, stages.images)):
                    await self._stage(
                        f"asking {name} for accuracy (pass {number + 1})", name, slots, Phase.QUALITY, number
                    )
        finally:
            await self._fleet.stop()

    async def _turn_to(self, name: str, stages: ArmPlan | None) -> None:
        """With a keeper: brings the target up, and takes it through its first requests when it comes up anew (`stages` None: not)."""
        if self._keeper is None or self.interrupted or name == self._alive:
            return
        self._progress.stage(f"making {name} the one server alive")
        fresh = await self._keeper.up(name) or name not in self._starts
        self._alive = name
        if not fresh or stages is None:
            return
        start = self._starts[name] = self._starts.get(name, -1) + 1
        await self._cold(name, stages.cold[start])
        await self._stage(f"warming up {name}", name, stages.warmup[start], Phase.WARMUP)

    async def _cold(self, name: str, slots: Schedule) -> None:
        await self._stage(f"first request to {name} (cold)", name, slots, Phase.COLD)
        record = self._last
        if record is not None and not self.interrupted and record.outcome is not Outcome.OK:
            raise first_request_failed(name, record, self._plan)

    async def _measure(self, block: Block, number: int, of: int) -> None:
        if self.interrupted:
            return
        if block.target not in self._before:
            await self._count_workers(block.target, wait=True)
            self._before[block.target] = await self._snapshot(block.target)
        text = f"measuring {block.target} (block {number + 1} of {of})"
        await self._stage(text, block.target, block.slots, Phase.MEASURE, block.number, block.level)
        await self._count_workers(block.target)

    async def _count_workers(self, name: str, *, wait: bool = False) -> None:
        """Serverless only. `wait` lets workers that are still starting come up first: a cold one is no part of the measured phase."""
        found = await (settled(self._poll, name, lambda: self.interrupted) if wait else self._poll(name))
        if found is not None:
            self._workers.setdefault(name, []).append(found)

    async def _stage(
        self, text: str, name: str, slots: Schedule, phase: Phase, block: int | None = None, level: int = 0
    ) -> None:
        if self.interrupted or not len(slots):
            return
        # A block by duration holds more slots than it has time for: its progress is that of the clock.
        timed = None if slots.duration_ns is None else slots.duration_ns / 1e9
        self._progress.stage(text, len(slots) if timed is None else None, timed)
        await self._prepare(name, slots)
        if self.interrupted:
            return
        energy_start = await self._energy(name)
        result = await self._fleet.run(name, slots, phase=phase, block=block, level=level)
        energy_end = await self._energy(name)
        window = msgspec.structs.replace(result.window, energy_start_mj=energy_start, energy_end_mj=energy_end)
        self._run_dir.append("phases", window)
        for health in result.health:
            self._run_dir.append("health", health)
        for fact in self._pictures.drain():
            self._run_dir.append("images", fact)

    async def _prepare(self, name: str, slots: Schedule) -> None:
        """Thousands of pictures take minutes to draw: an interrupt does not wait for them."""
        pictures = self._pictures.prepare(Images(slots.slots), self._likely(name, slots), Images(slots.tail))
        self._preparing = asyncio.ensure_future(pictures)
        try:
            await self._preparing
        except asyncio.CancelledError:
            if not self.interrupted:
                raise
        finally:
            self._preparing = None

    def _likely(self, name: str, slots: Schedule) -> int:
        """How many slots will probably be sent: a block by duration has far more of them than time, and pictures cost time to draw."""
        fastest = self._fastest_ns.get(name)
        if slots.duration_ns is None or slots.concurrency is None:
            return len(slots.slots)
        if fastest is None:
            return UNKNOWN_PACE * slots.concurrency
        return min(len(slots.slots), slots.concurrency * (2 + slots.duration_ns // max(1, fastest)))

    @staticmethod
    def _ends_arm(number: int, blocks: Sequence[Block]) -> bool:
        return all(later.target != blocks[number].target for later in blocks[number + 1 :])

    async def _after(self, name: str) -> None:
        met = self._met[name]
        after = await self._snapshot(name)
        evidence: ServerEvidence = msgspec.structs.replace(
            met.server,
            before=self._before.get(name),
            after=after,
            workers=tuple(self._workers.get(name, met.server.workers)),
        )
        self._run_dir.write_server(evidence)


def quality_passes(plan: RunPlan, first_image: int) -> tuple[Schedule, ...]:
    """Untimed: the same pictures one at a time, one at a time again (what one server differs from itself), and at the load."""
    if plan.quality == 0:
        return ()
    together = plan.load.concurrency
    return tuple(
        closed_loop(
            plan.quality, lanes, phase=Phase.QUALITY, index=number * plan.quality, image=first_image, edges=False
        )
        for number, lanes in enumerate((1, 1, together) if together > 1 else (1, 1))
    )


def first_request_failed(name: str, record: RequestRecord, plan: RunPlan) -> TargetError:
    """A server that cannot answer one request will not answer a hundred: say what it said, and what to do."""
    said = record.error or str(record.outcome)
    if record.status == 400 and "max" in said and "len" in said:
        hint = f"{_what_is_too_long(said)}, or serve with a larger --max-model-len."
    elif record.status == 404:
        hint = f"Choose another model with --model {name}=MODEL."
    elif record.status in (401, 403):
        hint = "Name the variable that holds the key with --api-key-env."
    elif record.outcome.censored:
        hint = f"It may still be busy loading: give --wait, or look at its log. The limit was {plan.timeouts.first_byte_s:.0f} s to the first byte."
    else:
        hint = "Look at the server's log; the record is in the run directory."
    status = f" (HTTP {record.status})" if record.status not in (None, 200) else ""
    return TargetError(f"target {name} did not answer its first request: {record.outcome}{status}: {said}.", hint)


def _what_is_too_long(said: str) -> str:
    """Which part of the request passes the model's context, from the server's words (vLLM 0.20 to 0.32), and what makes it shorter."""
    if "max_tokens" in said:
        return "The answer may become longer than the model's context: ask for fewer --max-tokens"
    if "prompt contains" in said:
        return "The text alone is longer than the model's context: shorten --prompt or --system-prompt"
    return "The picture makes more tokens than the model's context: send smaller ones (--max-side 768)"
