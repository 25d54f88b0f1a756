"""What an H100 did, phase by phase, and the simulator's answer to the same requests in virtual time.

Two sources: the medians of the recording by hand (tests/golden/h100/phases.json, made by `benchmarks/sim_fit --write`) and the product's
own run directories in docs/results/h100. Of the sweep, the levels at 4 and 16 in flight are void (see that page) and left out.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

from replay import Bodies, Timed, closed_loop, replay, settings, timed, with_service

from client.core.records import Phase, RequestRecord
from client.rundir import read_lines
from server.simulator.service import Service

ROOT = Path(__file__).parents[2]
PHASES = ROOT / "tests" / "golden" / "h100" / "phases.json"
RUNS = ROOT / "docs" / "results" / "h100"
FIGURES = ("e2e", "ttft", "tpot")
OWN = {
    "different": (1024, 759), "repeated": (1024, 759), "sweep": (1024, 759), "size-256": (256, 256), "size-512": (512, 512),
    "size-1024": (1024, 759), "size-2048": (2048, 1536), "tokens-200": (1024, 759), "sweep-64": (1024, 759),
}  # fmt: skip
"""Run directory -> size of its pictures. `sweep` is its first level, one in flight; `sweep-64` its last, 64."""
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Seen:
    """A median in ms with its 95 % interval over n requests; the interval is None where n is under 6."""

    median: float
    interval: tuple[float, float] | None
    n: int

    def agrees(self, value: float, share: float) -> bool:
        """Within `share` of the median, or inside its interval where that is wider: nothing can be held to more than is known."""
        inside = self.interval is not None and self.interval[0] <= value <= self.interval[1]
        return inside or abs(value / self.median - 1) <= share


def seen(values: Sequence[float]) -> Seen:
    """The interval is distribution-free: the order statistics that hold the median with 95 % (binomial)."""
    ordered, n, interval = sorted(values), len(values), None
    for k in range(n // 2):
        if 1 - 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n >= 0.95:
            interval = (ordered[k], ordered[n - 1 - k])
    return Seen(statistics.median(values), interval, n)


def recorded(precision: str) -> dict[str, dict[str, Seen]]:
    """Phase -> figure -> what was seen, of both sources."""
    by_hand = json.loads(PHASES.read_text())[precision]
    found = {
        phase: {
            name: Seen(median, None if low is None else (low, high), n) for name, (median, low, high, n) in figures.items()
        }
        for phase, figures in by_hand.items()
    }  # fmt: skip
    return found | {
        run: _figures([r for r in _sent(run, precision) if r.phase is Phase.MEASURE]) for run in OWN
    }  # fmt: skip


def simulated(precision: str) -> dict[str, dict[str, float]]:
    """Phase -> figure -> the simulator's median in ms, over the requests of several seeds together."""
    pooled: dict[str, list[Timed]] = {}
    for seed in SEEDS:
        for phase, results in (replay(precision, seed) | _replay_runs(precision, seed)).items():
            pooled.setdefault(phase, []).extend(results)
    return {
        phase: {name: statistics.median(getattr(r, name) for r in results) for name in FIGURES}
        for phase, results in pooled.items()
    }


@cache
def _sent(run: str, precision: str) -> tuple[RequestRecord, ...]:
    """The measured requests of a run and the edges around them, block by block in order of sending."""
    level = 3 if run == "sweep-64" else 0
    records, _ = read_lines(RUNS / run.removesuffix("-64") / "requests.jsonl", RequestRecord)
    mine = [r for r in records if r.target == precision and r.level == level and r.phase in (Phase.MEASURE, Phase.EDGE)]
    return tuple(sorted(mine, key=lambda r: (r.block or 0, r.intended_ns)))


def _figures(records: Iterable[RequestRecord]) -> dict[str, Seen]:
    times: dict[str, list[float]] = {name: [] for name in FIGURES}
    for r in records:
        assert r.sent_ns is not None
        assert r.first_token_ns is not None
        assert r.done_ns is not None
        assert r.completion_tokens is not None
        times["e2e"].append((r.done_ns - r.sent_ns) / 1e6)
        times["ttft"].append((r.first_token_ns - r.sent_ns) / 1e6)
        times["tpot"].append((r.done_ns - r.first_token_ns) / 1e6 / (r.completion_tokens - 1))
    return {name: seen(values) for name, values in times.items()}


def _replay_runs(precision: str, seed: int) -> dict[str, list[Timed]]:
    bodies = Bodies()

    async def campaign(service: Service) -> dict[str, list[Timed]]:
        await closed_loop(service, [bodies.picture((1024, 759), max_tokens=20, ignore_eos=True)], 1)  # cold
        return {run: await _replay_run(service, bodies, run, precision) for run in OWN}

    return with_service(settings("h100", precision, seed=seed), campaign)


async def _replay_run(service: Service, bodies: Bodies, run: str, precision: str) -> list[Timed]:
    records = _sent(run, precision)
    fields: dict[str, Any] = {"max_tokens": records[0].completion_tokens, "ignore_eos": True}

    def picture(record: RequestRecord) -> bytes:
        return bodies.picture(
            OWN[run], (record.body_bytes - 340) * 3 // 4, **fields
        )  # base64 in some 340 bytes of JSON

    same = picture(records[0]) if run == "repeated" else None
    if same is not None:
        await closed_loop(service, [same], 1)  # its warm-up
    measured: list[Timed] = []
    for block in sorted({r.block or 0 for r in records}):
        mine = [r for r in records if (r.block or 0) == block]
        await _block(
            service,
            [(same or picture(r), r.phase is Phase.MEASURE) for r in mine],
            64 if run == "sweep-64" else 1,
            measured,
        )
    return measured


async def _block(service: Service, requests: list[tuple[bytes, bool]], lanes: int, measured: list[Timed]) -> None:
    left = iter(requests)

    async def lane() -> None:
        for data, counts in left:
            result = await timed(service, data)
            if counts:
                measured.append(result)

    await asyncio.gather(*(lane() for _ in range(lanes)))
