"""The parent's side: starts workers, hands out shares, and accounts for every slot, also those of a worker that died."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic_ns

from client.core.records import ImageFact, Outcome, Phase, PhaseWindow, RequestRecord, WorkerHealth
from client.core.schedule import Schedule, Slot, share_schedule
from client.errors import MeasurementInvalid
from client.generator import GRACE_S, BlockResult
from client.rundir import JsonLines, read_lines
from client.workers.kit import Recipe
from client.workers.process import LEAVE_LIMIT_S, WorkerProcess
from client.workers.wire import Abort, Armed, Failed, Finished, Go, Hello, Leave, Prepare, Ready

START_LEAD_NS = 100_000_000
"""From the last worker's being ready to the common start: enough for the word to reach all of them."""
SILENCE_LIMIT_S = 30.0
"""A worker tells something ten times a second. One that is silent for so long is frozen, and is ended."""
START_LIMIT_S = 120.0
OUT_OF_MEMORY = "Look for out-of-memory kills (dmesg); give fewer --workers."


class Fleet:
    """The same door as `client.generator.LocalFleet`, over `workers` processes.

    Also stands in for the run's pictures: the workers build their own bodies, and tell the facts of those they sent.
    Each worker writes `requests-<k>.jsonl` in `folder`; what a dead one leaves undone is written to `requests-lost.jsonl`.
    """

    def __init__(
        self,
        workers: int,
        recipe: Recipe,
        folder: Path,
        see: Callable[[RequestRecord], None] = lambda record: None,
        *,
        grace_s: float = GRACE_S,
        retries: int = 0,
        silence_limit_s: float = SILENCE_LIMIT_S,
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._see = see
        self._grace_s = grace_s
        self._retries = retries
        self._silence_limit_s = silence_limit_s
        self._workers = [WorkerProcess(k, folder / f"requests-{k}.jsonl", self._seen) for k in range(workers)]
        self._facts: list[ImageFact] = []
        self._likely: int | None = None
        self._aborted = False

    @property
    def processes(self) -> list[int | None]:
        """Process id of each worker; None for one that died."""
        return [None if worker.lost else worker.pid for worker in self._workers]

    @property
    def in_flight(self) -> int:
        """As the living workers last told, a tenth of a second ago."""
        return sum(worker.in_flight for worker in self._workers if not worker.lost)

    async def start(self) -> None:
        """Start all processes and wait until each is ready. Raises what kept one from it."""
        try:
            for worker in self._workers:
                await worker.start(Hello(worker.k, self._recipe, worker.records, self._grace_s, self._retries))
            for worker in self._workers:
                answer = await worker.answer(START_LIMIT_S)
                if isinstance(answer, Failed) and answer.error is not None:
                    raise answer.error
                if not isinstance(answer, Ready):
                    end = worker.end()
                    raise MeasurementInvalid(
                        f"load worker {worker.k} did not start: {end}.",
                        OUT_OF_MEMORY if end.startswith("signal") else "Its own message stands above.",
                    )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Until every process is gone; one that does not go is killed."""
        for worker in self._workers:
            worker.post(Leave())
        await asyncio.gather(*(worker.gone() for worker in self._workers))

    def abort(self) -> None:
        """Send nothing new and let `run` return soon. May be called from a signal handler of the event loop, and more than once."""
        self._aborted = True
        for worker in self._workers:
            worker.post(Abort())

    async def prepare(self, numbers: Iterable[int], likely: int | None = None, last: Iterable[int] = ()) -> None:
        """Each worker prepares its own share when it is told of a block: only the number is remembered."""
        self._likely = likely

    def drain(self) -> list[ImageFact]:
        """What the workers told of the pictures that they sent since the last call."""
        facts, self._facts = self._facts, []
        return facts

    async def run(
        self, target_name: str, slots: Schedule, *, phase: Phase, block: int | None = None, level: int = 0
    ) -> BlockResult:
        """Walk one block with all living workers from one common start. A worker that dies in it is named in its health.

        Raises MeasurementInvalid when no worker is left, and whatever ended a worker's block.
        """
        alive = [worker for worker in self._workers if not worker.lost]
        if not alive:
            raise MeasurementInvalid("every load worker has died.", OUT_OF_MEMORY)
        n = len(alive)
        orders = [Prepare(target_name, slots, k, n, phase, block, level, self._likely) for k in range(n)]
        shares = [_Share(worker, order) for worker, order in zip(alive, orders, strict=True) if len(_slots_of(order))]
        try:
            start_ns = await self._arm_and_start(shares)
            await self._collect(shares)
        except asyncio.CancelledError:
            self.abort()
            await asyncio.wait_for(self._collect(shares), self._grace_s + LEAVE_LIMIT_S)
            raise
        self._raise_failures(shares)
        return self._result(shares, start_ns)

    def _seen(self, records: Iterable[RequestRecord]) -> None:
        for record in records:
            self._see(record)

    async def _arm_and_start(self, shares: list[_Share]) -> int:
        for share in shares:
            share.worker.post(share.order)
        for share in shares:
            answer = await share.worker.answer(self._silence_limit_s)
            if not isinstance(answer, Armed):
                share.outcome = answer if isinstance(answer, Failed) else None
                share.ended = True
        start_ns = monotonic_ns() + START_LEAD_NS
        failed = any(isinstance(share.outcome, Failed) for share in shares)
        for share in shares:
            share.worker.post(Abort() if failed else Go(start_ns))
        return start_ns

    async def _collect(self, shares: list[_Share]) -> None:
        async def collect(share: _Share) -> None:
            while not share.ended:
                answer = await share.worker.answer(self._silence_limit_s)
                if isinstance(answer, Finished | Failed) or answer is None:
                    share.outcome = answer
                    share.ended = True
            if isinstance(share.outcome, Failed):
                for other in shares:
                    other.worker.post(Abort())

        await asyncio.gather(*map(collect, shares))

    def _raise_failures(self, shares: list[_Share]) -> None:
        for share in shares:
            failed = share.outcome
            if isinstance(failed, Failed) and not failed.aborted and not self._aborted:
                raise failed.error or RuntimeError(f"load worker {share.worker.k}: {failed.text}")

    def _result(self, shares: list[_Share], start_ns: int) -> BlockResult:
        health = []
        ends = [start_ns]
        for share in shares:
            if isinstance(share.outcome, Finished):
                self._facts.extend(share.outcome.facts)
                health.append(share.outcome.health)
            elif share.outcome is None:
                health.append(self._account_for(share, start_ns))
            else:
                continue
            ends.append(health[-1].end_ns)
        order = shares[0].order
        window = PhaseWindow(
            target=order.target,
            phase=order.phase,
            start_ns=start_ns,
            end_ns=max(ends),
            block=order.block,
            level=order.level,
        )
        return BlockResult(window, health)

    def _account_for(self, share: _Share, start_ns: int) -> WorkerHealth:
        """Writes a LOST record for each slot of a dead worker's share that left none, and says what happened."""
        worker, order = share.worker, share.order
        found, _ = read_lines(worker.records, RequestRecord)
        known = {(record.phase, record.index) for record in found if record.target == order.target}
        missing = [slot for slot in _slots_of(order) if (slot.phase, slot.index) not in known]
        if order.schedule.duration_ns is not None or self._aborted:
            # How far it would have come is not known: only what may have been in flight is lost.
            own = share_schedule(order.schedule, order.k, order.n)
            missing = missing[: own.concurrency or 0]
        lost = JsonLines(self._folder / "requests-lost.jsonl")
        for slot in missing:
            record = _lost_record(slot, worker, order, start_ns)
            lost.append(record)
            self._see(record)
        lost.close()
        return WorkerHealth(
            worker=worker.k,
            target=order.target,
            phase=order.phase,
            start_ns=start_ns,
            end_ns=max(start_ns, worker.lost_ns),
            block=order.block,
            level=order.level,
            requests=sum((slot.phase, slot.index) in known for slot in _slots_of(order)),
            lost=True,
            note=f"load worker {worker.k} (process {worker.pid}) died: {worker.end()}; {len(missing)} requests of its share are lost",
        )


class _Share:
    """One worker's part in a block. `outcome` None with `ended`: the worker died."""

    def __init__(self, worker: WorkerProcess, order: Prepare) -> None:
        self.worker = worker
        self.order = order
        self.outcome: Finished | Failed | None = None
        self.ended = False


def _slots_of(order: Prepare) -> Schedule:
    return share_schedule(order.schedule, order.k, order.n)


def _lost_record(slot: Slot, worker: WorkerProcess, order: Prepare, start_ns: int) -> RequestRecord:
    """An open-loop slot keeps its intended time; one of a closed loop would have followed at an unknown moment."""
    return RequestRecord(
        target=order.target,
        phase=slot.phase,
        index=slot.index,
        image_id=f"#{slot.image}",
        outcome=Outcome.LOST,
        intended_ns=max(start_ns, worker.lost_ns) if slot.offset_ns is None else start_ns + slot.offset_ns,
        block=order.block,
        level=order.level,
        worker=worker.k,
        error=f"load worker {worker.k} died",
    )
