"""The client's side of one measurement, in a process of its own: the product's endpoint, generator and record file.

    python -m benchmarks.job --url URL --bodies FOLDER --out FOLDER --requests N (--concurrency N | --rate R)

Bodies are files made ahead, as the peers' are. Everything else is what `python -m client.bench` uses. Prints one JSON line: what the
process cost. The records lie in FOLDER/requests.jsonl.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

from client.core.arrivals import by_count
from client.core.cases import PreparedRequest
from client.core.plan import Arrival, Target, Timeouts
from client.core.records import Phase, WorkerHealth
from client.core.schedule import Schedule, closed_loop, open_loop
from client.endpoint import Endpoint
from client.generator import LocalFleet
from client.loop import run_loaded
from client.rundir import JsonLines
from client.transport import new_client


class FileBodies:
    """The bodies of a folder, in turn."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("*.json"))
        self._all = [PreparedRequest(path.stem, number, path.read_bytes()) for number, path in enumerate(paths)]

    async def get(self, number: int) -> PreparedRequest:
        return self._all[number % len(self._all)]


def schedule(requests: int, concurrency: int | None, rate: float | None) -> Schedule:
    """Constant arrivals: their intended times are known without a draw, so that a lost one would show."""
    if rate is not None:
        return open_loop(by_count(Arrival.CONSTANT, rate, requests, seed=(0,), burstiness=1.0))
    return closed_loop(requests, concurrency or 1)


async def run(arguments: argparse.Namespace) -> WorkerHealth:
    client = new_client()
    target = Target(name="truth", base_url=arguments.url, model="tiny")
    lines = JsonLines(arguments.out / "requests.jsonl")
    fleet = LocalFleet(
        {"truth": Endpoint(client, target, Timeouts())}, {"truth": FileBodies(arguments.bodies)}, lines.append
    )
    try:
        plan = schedule(arguments.requests, arguments.concurrency, arguments.rate)
        if not arguments.cold:
            await client.transport.warm(arguments.url, arguments.concurrency or 128)
            warmup = closed_loop(2 * (arguments.concurrency or 64), arguments.concurrency or 64, phase=Phase.WARMUP)
            await fleet.run("truth", warmup, phase=Phase.WARMUP)
        return (await fleet.run("truth", plan, phase=Phase.MEASURE)).health[0]
    finally:
        await fleet.stop()
        await client.aclose()
        lines.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--cold", action="store_true", help="no warm-up and no connection opened ahead, as peers start")
    health = run_loaded(run(parser.parse_args()))
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    json.dump(
        {
            "requests": health.requests,
            "wall_s": (health.end_ns - health.start_ns) / 1e9,
            "cpu_s": (health.cpu_ns or 0) / 1e9,
            "rss_mb": rss_mb,
            "send_lag_p99_ns": health.send_lag_p99_ns,
            "loop_lag_p99_ns": health.loop_lag_p99_ns,
            "gc_pauses": health.gc_pauses,
        },
        sys.stdout,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
