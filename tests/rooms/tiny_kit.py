"""A kit without a network: what a worker process needs, small enough to start ten of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from client.core.cases import PreparedRequest
from client.core.records import ImageFact, Outcome, Phase, RequestRecord, TokenStep
from client.core.schedule import Slot
from client.errors import UsageError
from client.workers import Kit


@dataclass(frozen=True)
class TinyKit:
    """Each answer takes `takes_s`. `trouble`: recipe, picture, bug, deaf (blocks its event loop for good at slot 5)."""

    takes_s: float = 0.005
    trouble: str = ""

    def __call__(self) -> Kit:
        if self.trouble == "recipe":
            raise UsageError("The certificate file x cannot be used.", "Give a PEM file.")

        async def close() -> None:
            pass

        return Kit({"t": SleepyDoor(self)}, {"t": TinyBodies(self)}, close)


@dataclass(frozen=True)
class TinyBodies:
    kit: TinyKit

    taken: list[int] = field(default_factory=list)

    async def prepare(self, numbers: Iterable[int], likely: int | None = None, last: Iterable[int] = ()) -> None:
        if self.kit.trouble == "picture":
            raise UsageError("img.jpg is no picture.", "Take it out.")
        if self.kit.trouble == "slow pictures":
            await asyncio.sleep(60)

    async def get(self, number: int, /) -> PreparedRequest:
        self.taken.append(number)
        return PreparedRequest(f"image-{number}", number, b"{}")

    def drain(self) -> Iterable[ImageFact]:
        for number in self.taken:
            yield ImageFact(image_id=f"image-{number}", width=1, height=1, sent_bytes=2, sha256="")
        self.taken.clear()


@dataclass(frozen=True)
class SleepyDoor:
    kit: TinyKit

    async def send(
        self,
        prepared: PreparedRequest,
        slot: Slot,
        *,
        phase: Phase,
        block: int | None,
        level: int,
        worker: int,
        intended_ns: int,
        sink: Callable[[RequestRecord], None],
        attempt: int = 0,
    ) -> RequestRecord:
        sent_ns = time.monotonic_ns()
        if slot.index == 5 and self.kit.trouble == "bug":
            raise KeyError("a bug of ours")
        if slot.index == 5 and self.kit.trouble == "deaf":
            time.sleep(60)  # noqa: ASYNC251  # blocking is the trouble
        outcome = Outcome.CANCELLED
        try:
            await asyncio.sleep(self.kit.takes_s)
            outcome = Outcome.OK
        finally:
            record = RequestRecord(
                target="t",
                phase=phase,
                index=slot.index,
                image_id=prepared.image_id,
                outcome=outcome,
                intended_ns=intended_ns,
                sent_ns=sent_ns,
                done_ns=time.monotonic_ns(),
                block=block,
                level=level,
                worker=worker,
                attempt=attempt,
                text=f"pid {os.getpid()}",
                tokens=(TokenStep("a", {"a": -0.1}),) if phase is Phase.QUALITY else (),
            )
            sink(record)
        return record
