"""A simulated GPU: memory, power, clocks and temperature that follow the engine's load, in the sidecar's JSON lines at 10 Hz."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from server.simulator.engine import Step
from server.simulator.profile import MIB, Profile

PERIOD_S = 0.1
KEPT = 36_000
"""One hour of samples."""
POWER_CAP_REASON = 0x4
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SimulatedGpu:
    def __init__(self, profile: Profile, utilization: float, seed: int) -> None:
        self._card = profile.card
        self._arm = profile.arm
        self._uuid = f"GPU-simulated-{profile.name}-{profile.precision}"
        self._profile = profile.name
        self._at_rest = profile.used_at_rest(utilization)
        self._random = random.Random(f"{seed}:gpu")
        self._busy_s = self._prefill_s = 0.0
        self._traffic = False
        self._energy_mj = 5_000_000.0
        self._temperature = float(self._card.idle_c)
        self._lines: deque[tuple[int, str]] = deque(maxlen=KEPT)
        self.clock_factor = 1.0

    def worked(self, step: Step, seconds: float) -> None:
        self._busy_s += seconds
        if step.prefills:
            self._prefill_s += seconds
            self._traffic = True

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._lines.append(self._sample())
            due += PERIOD_S
            await asyncio.sleep(max(0.0, due - loop.time()))

    def since(self, mono_ns: int, limit: int) -> str:
        """The first `limit` samples after a monotonic stamp, one a line."""
        return "".join(islice((line for stamp, line in self._lines if stamp > mono_ns), limit))

    def energy(self) -> str:
        """The energy counter alone, at this moment."""
        now = {"mono_ns": time.monotonic_ns(), "wall_ns": time.time_ns()}
        return _line(now | {"gpu": 0, "uuid": self._uuid, "energy_mj": round(self._energy_mj), "fake": True})

    def _sample(self) -> tuple[int, str]:
        mono, wall = time.monotonic_ns(), time.time_ns()
        busy = min(1.0, self._busy_s / PERIOD_S)
        prefill = min(busy, self._prefill_s / PERIOD_S)
        self._busy_s = max(0.0, self._busy_s - PERIOD_S)
        self._prefill_s = max(0.0, self._prefill_s - PERIOD_S)
        watts = self._watts(busy, prefill)
        self._energy_mj += watts * PERIOD_S * 1e3
        goal = self._card.idle_c + (self._card.full_c - self._card.idle_c) * watts / self._card.cap_watts
        self._temperature += (goal - self._temperature) * PERIOD_S / 20
        sample = self._fields(mono, wall, busy, watts)
        return mono, _line(sample)

    def _watts(self, busy: float, prefill: float) -> float:
        """Decode is bound by memory and draws less than prefill, which goes up to the cap."""
        card = self._card
        watts = card.idle_watts + (card.decode_watts - card.idle_watts) * (busy - prefill)
        watts += (card.cap_watts - card.idle_watts) * 0.95 * prefill
        return min(card.cap_watts, watts * self._random.gauss(1, 0.01))

    def _fields(self, mono: int, wall: int, busy: float, watts: float) -> dict[str, Any]:
        card = self._card
        capped = watts > 0.85 * card.cap_watts
        used = self._at_rest + (self._arm.traffic_mib * MIB if self._traffic else 0)
        sm = (card.low_sm_mhz if capped else card.sm_mhz) * self.clock_factor
        return {
            "mono_ns": mono,
            "wall_ns": wall,
            "gpu": 0,
            "uuid": self._uuid,
            "used_v1": used + card.reserved_mib * MIB,
            "used_v2": used,
            "reserved": card.reserved_mib * MIB,
            "total": card.total_mib * MIB,
            "gpu_util": round(100 * busy),
            "mem_util": round(60 * busy),
            "power_mw": round(watts * 1e3),
            "energy_mj": round(self._energy_mj),
            "sm_mhz": round(sm),
            "mem_mhz": card.mem_mhz,
            "temp_c": round(self._temperature),
            "reasons": POWER_CAP_REASON if capped or self.clock_factor < 1 else 0,
            "fake": True,
        }

    # --- the sidecar's routes ---
    def routes(self) -> list[Route]:
        return [
            Route("/samples", self._samples),
            Route("/energy", self._energy),
            Route("/clock", self._clock),
            Route("/gpu/health", self._health),
        ]

    async def _samples(self, request: HttpRequest) -> Response:
        try:
            since = int(request.query_params.get("since", "0"))
            limit = int(request.query_params.get("limit", str(KEPT)))
        except ValueError:
            return PlainTextResponse("since and limit are whole numbers\n", 400)
        return Response(self.since(since, max(0, limit)), media_type="application/jsonl")

    async def _energy(self, _: HttpRequest) -> Response:
        return Response(self.energy(), media_type="application/jsonl")

    async def _clock(self, _: HttpRequest) -> Response:
        boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else None
        return JSONResponse({"mono_ns": time.monotonic_ns(), "wall_ns": time.time_ns(), "boot_id": boot})

    async def _health(self, _: HttpRequest) -> Response:
        return JSONResponse({"status": "ok", "gpus": 1, "fake": True, "simulated": self._profile})


def _line(sample: dict[str, Any]) -> str:
    return json.dumps(sample, separators=(",", ":")) + "\n"
