"""Replays the phases of the H100 recording against the simulator's own engine, in virtual time: no socket, no thread, no waiting."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import selectors
import statistics
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image
from simulated import body

from server.simulator.answer import Box
from server.simulator.profile import Profile, load_profile
from server.simulator.service import Service, Settings

RECORDED_JPEG_BYTES = {
    (256, 190): 21_600,
    (512, 380): 80_300,
    (1024, 759): 309_500,
    (1536, 1140): 694_000,
    (2048, 1518): 1_225_000,
}
"""About what the recording's pictures weigh (they were noise)."""


Result = TypeVar("Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next deadline instead of waiting for it."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing is left to happen"
        self._loop.now += max(0.0, timeout)
        return super().select(0)


async def blind(data: bytes) -> Box | None:
    return None


@dataclass(frozen=True)
class Timed:
    """One replayed request, in ms: as the recording's client would have stamped it."""

    header: float
    ttft: float
    e2e: float
    tokens: int

    @property
    def tpot(self) -> float:
        return (self.e2e - self.ttft) / max(1, self.tokens - 1)


async def timed(service: Service, data: bytes) -> Timed:
    loop = asyncio.get_running_loop()
    sent = loop.time()
    service.chats += 1
    talk = await service.begin(data, "application/json")
    header, first, tokens = loop.time(), 0.0, 0
    while not talk.over:
        tokens += (await talk.next())[1]
        first = first or loop.time()
    return Timed((header - sent) * 1e3, (first - sent) * 1e3, (loop.time() - sent) * 1e3, tokens)


async def closed_loop(service: Service, bodies: Iterable[bytes], concurrency: int) -> list[Timed]:
    left = iter(bodies)
    results: list[Timed] = []

    async def worker() -> None:
        results.extend([await timed(service, data) for data in left])

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return results


def flat(size: tuple[int, int]) -> bytes:
    """A picture without anything on it: small, so that it can be filled up to any size."""
    out = io.BytesIO()
    Image.new("RGB", size, (95, 95, 95)).save(out, "JPEG", quality=85)
    return out.getvalue()


class Bodies:
    """Request bodies like the recording's: every picture different in its digest, all of one size equal in cost."""

    def __init__(self) -> None:
        self._jpegs: dict[tuple[int, int], bytes] = {}
        self._number = 0

    def picture(self, size: tuple[int, int], jpeg_bytes: int | None = None, **fields: Any) -> bytes:
        """A picture of so many bytes; without a number, as many as the recording's of that size."""
        if size not in self._jpegs:
            self._jpegs[size] = flat(size)
        jpeg = self._jpegs[size]
        self._number += 1
        filler = (jpeg_bytes or RECORDED_JPEG_BYTES[size]) - len(jpeg) - 8
        return body(jpeg + bytes(max(0, filler)) + self._number.to_bytes(8, "big"), **fields)

    def text(self, **fields: Any) -> bytes:
        self._number += 1
        return body(
            None,
            text=f"Count to {self._number} slowly and tell me about each number that you pass on the way.",
            **fields,
        )


def phases(bodies: Bodies) -> list[tuple[str, Iterable[bytes], int]]:
    """(phase, bodies made one by one, in flight), in the recording's order."""
    short: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True}
    usual = (1024, 759)
    first = bodies.picture(usual, **short)

    def unique(count: int, size: tuple[int, int] = usual) -> Iterable[bytes]:
        return (bodies.picture(size, **short) for _ in range(count))

    def text(count: int, tokens: int) -> Iterable[bytes]:
        return (bodies.text(max_tokens=tokens, ignore_eos=True) for _ in range(count))

    return [
        ("cold", [first], 1),
        ("same_image", [first] * 12, 1),
        ("warmup_unique", unique(8), 1),
        ("unique_a", unique(50), 1),
        ("unique_a2", unique(50), 1),
        *((f"size_{w}x{h}", unique(8, (w, h)), 1) for w, h in RECORDED_JPEG_BYTES if (w, h) != usual),
        ("decode_200", text(4, 200), 1),
        ("text_c8", text(16, 100), 8),
        ("text_c64", text(128, 100), 64),
        ("unique_c4", unique(40), 4),
        ("unique_c16", unique(96), 16),
        ("unique_c64", unique(192), 64),
    ]


def with_service(settings: Settings, work: Callable[[Service], Coroutine[Any, Any, Result]]) -> Result:
    """Runs `work` against a service whose clock is virtual and whose eye is shut."""

    async def run() -> Result:
        service = Service(settings, eye=blind)
        service.start()
        try:
            return await work(service)
        finally:
            service.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


def settings(profile: str, precision: str, **more: Any) -> Settings:
    data = load_profile(profile, precision)
    return Settings(**{"profile": data, "served": "m", "utilization": data.card.utilization} | more)


SLOWER_HOST = 1.23
"""The recording's host against that of the product's own runs: its API server and its kernel launches took so much longer (median of
headers and of the eager encoder, both precisions), while decoding, which is the GPU's alone, took the same."""


def on_slower_host(profile: Profile, factor: float) -> Profile:
    """The same card in a host whose CPU takes `factor` times as long for what it does: the API server, and launching eager kernels."""
    front, arm = profile.frontend, profile.arm
    return dataclasses.replace(
        profile,
        frontend=dataclasses.replace(
            front,
            parse_ms=front.parse_ms * factor,
            parse_ms_per_mb=front.parse_ms_per_mb * factor,
            text_ms=front.text_ms * factor,
            decode_ms_per_megapixel=front.decode_ms_per_megapixel * factor,
            process_ms=tuple((size, ms * factor) for size, ms in front.process_ms),
            ingest_ms=front.ingest_ms * factor,
        ),
        arm=dataclasses.replace(
            arm, encoder_floor_ms=arm.encoder_floor_ms * factor, prompt_launch_ms=arm.prompt_launch_ms * factor
        ),
    )


def replay(precision: str, seed: int = 0, only: Sequence[str] = ()) -> dict[str, list[Timed]]:
    """The phases of the recording (or `only` some), one after the other against one service, on the recording's host."""

    async def campaign(service: Service) -> dict[str, list[Timed]]:
        return {
            name: await closed_loop(service, bodies, n)
            for name, bodies, n in phases(Bodies())
            if not only or name in only
        }

    host = on_slower_host(load_profile("h100", precision), SLOWER_HOST)
    return with_service(dataclasses.replace(settings("h100", precision, seed=seed), profile=host), campaign)


def medians(results: list[Timed]) -> dict[str, float]:
    return {
        "e2e": statistics.median(r.e2e for r in results),
        "ttft": statistics.median(r.ttft for r in results),
        "tpot": statistics.median(r.tpot for r in results),
        "header": statistics.median(r.header for r in results),
    }
