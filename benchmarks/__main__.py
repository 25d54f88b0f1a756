"""benchmarks/run: measures the load generator itself, and its peers beside it. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

from tabulate import tabulate

from benchmarks import bodies, figures, peers
from benchmarks.figures import GOALS, Lab
from benchmarks.peer_tools import OWN, PEERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--peers",
        nargs="?",
        const=",".join(name for name in PEERS if name != OWN),
        metavar="A,B",
        help="install and run other load generators too (all by default): "
        + ", ".join(name for name in PEERS if name != OWN),
    )
    parser.add_argument(
        "--only-peers", action="store_true", help="leave our own figures out, except the row to compare with"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and tools are ended too
    lab = make_lab()
    found = {} if arguments.only_peers else figures.all_figures(lab, say)
    written: dict[str, object] = {**found}
    if found:
        print_figures(found)
        keep(arguments.json, written)
    if arguments.peers:
        rows = peers.compare(lab, arguments.peers.split(","), say)
        written["peers"] = {row.title: {**row.figures(), "remarks": row.remarks} for row in rows}
        keep(arguments.json, written)
    return 0


def keep(path: Path | None, written: dict[str, object]) -> None:
    if path:
        path.write_text(json.dumps(written, indent=1) + "\n")


def make_lab() -> Lab:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "halfweight"
    cpus = sorted(os.sched_getaffinity(0))
    pin = len(cpus) > 1
    if not pin:
        say("one CPU only: client and server share it, and every figure is worse for it")
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"this machine is busy (load {load:.1f}): accuracy and CPU figures will be worse than they are")
    say(f"{platform.machine()}, {len(cpus)} CPUs, Linux {platform.release()}, Python {platform.python_version()}")
    return Lab(cache, bodies.ensure(cache), cpus[0] if pin else None, cpus[1] if pin else None)


def print_figures(found: dict[str, float | None]) -> None:
    rows = []
    for key, (goal, side) in GOALS.items():
        value = found[key]
        reached = "" if goal is None or value is None else "yes" if (value <= goal) == (side == "max") else "NO"
        wanted = "" if goal is None else f"{'≤' if side == 'max' else '≥'} {goal:,g}"
        rows.append(
            (
                key,
                "not measured" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}",
                wanted,
                reached,
            )
        )
    print(
        tabulate(
            rows,
            headers=("figure", "measured", "goal", "reached"),
            disable_numparse=True,
            colalign=("left", "right", "right", "left"),
        )
    )


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
