"""A kit without a network: what a worker process needs, small enough to start ten of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from client.core.cases import PreparedRequest
from client.core.records import ImageFact, Outcome, Phase, RequestRecord, TokenStep
from client.core.schedule import Slot
from client.errors import UsageError
from client.workers import Kit


@dataclass(frozen=True)
class TinyKit:
    """Each answer takes `takes_s`; targets are t and u. `trouble`:

    recipe, slow recipe         the kit cannot be made; making it takes a minute
    exit, killed                the process ends while it makes the kit, by itself or by a signal
    picture, slow pictures      preparing fails, or takes `pictures_s`; with `at`, only where that picture is among those to prepare
    bug, deaf                   the door raises, or blocks its event loop for good, at slot 5
    busy                        the first try of each slot is told to come again at once
    slow close                  giving everything back takes a minute
    """

    takes_s: float = 0.005
    trouble: str = ""
    at: int | None = None
    pictures_s: float = 60.0
    marker: Path | None = None
    """Trouble with the recipe befalls only the process that creates this file."""

    def __call__(self) -> Kit:
        self._recipe()

        async def close() -> None:
            if self.trouble == "slow close":
                time.sleep(60)  # noqa: ASYNC251  # deaf to everything

        return Kit(
            {"t": SleepyDoor(self, "t"), "u": SleepyDoor(self, "u")},
            {"t": TinyBodies(self), "u": TinyBodies(self)},
            close,
        )

    def _recipe(self) -> None:
        if self.marker is not None:
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                return
        if self.trouble == "recipe":
            raise UsageError("The certificate file x cannot be used.", "Give a PEM file.")
        if self.trouble == "exit":
            os._exit(3)
        if self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "slow recipe":
            os.write(1, f"{os.getpid()}\n".encode())  # one write: its brother writes too
            time.sleep(60)


@dataclass(frozen=True)
class TinyBodies:
    """Tells of each picture that it is as wide as the number that was likely to be sent, and as high as the number to prepare."""

    kit: TinyKit

    taken: list[int] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def prepare(self, numbers: Iterable[int], likely: int | None = None, last: Iterable[int] = ()) -> None:
        listed = list(islice(numbers, 10_000))
        self.asked.append((likely or 0, len(listed) + len(list(last))))
        if self.kit.at is None or self.kit.at in listed:
            if self.kit.trouble == "picture":
                raise UsageError("img.jpg is no picture.", "Take it out.")
            if self.kit.trouble == "slow pictures":
                await asyncio.sleep(self.kit.pictures_s)

    async def get(self, number: int, /) -> PreparedRequest:
        self.taken.append(number)
        return PreparedRequest(f"image-{number}", number, b"{}")

    def drain(self) -> Iterable[ImageFact]:
        width, height = self.asked[-1]
        for number in self.taken:
            yield ImageFact(image_id=f"image-{number}", width=width, height=height, sent_bytes=2, sha256="")
        self.taken.clear()


@dataclass(frozen=True)
class SleepyDoor:
    kit: TinyKit
    target: str

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
            outcome = Outcome.HTTP_ERROR if self.kit.trouble == "busy" and not attempt else Outcome.OK
        finally:
            record = RequestRecord(
                target=self.target,
                phase=phase,
                index=slot.index,
                image_id=prepared.image_id,
                outcome=outcome,
                intended_ns=intended_ns,
                sent_ns=sent_ns,
                done_ns=time.monotonic_ns(),
                status=429 if outcome is Outcome.HTTP_ERROR else None,
                retry_after_s=0.0 if outcome is Outcome.HTTP_ERROR else None,
                block=block,
                level=level,
                worker=worker,
                attempt=attempt,
                chunk_ns=(1, 2),
                text=f"pid {os.getpid()}",
                tokens=(TokenStep("a", {"a": -0.1}),) if phase is Phase.QUALITY else (),
            )
            sink(record)
        return record
