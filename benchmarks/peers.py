"""Other load generators against the same truth server, in the same run, held against what the server logged.

Each tool, ours among them, is run three times by the same procedure: few requests paced (start, and what starting costs), many paced, and
many in a burst. A figure that cannot be had is a dash, and a line below the table says why.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median

from benchmarks import figures, peer_table
from benchmarks.figures import Lab
from benchmarks.peer_install import NotInstalled, install
from benchmarks.peer_tools import CONCURRENCY, OWN, PEERS, Case, Peer, Ttft, tokenizer
from benchmarks.peer_watch import Watched, watch
from benchmarks.truth_server import Answer, Truth, build, pinned, serving

FEW = 2 * CONCURRENCY
TIMEOUT_S = 180.0
PROBE_BYTES = 10_000
"""What a tool sends to see whether the server lives is shorter than this."""
LOST = 0.05
"""Share of the requests asked for that a tool may leave out and still have its figures told (with a remark)."""


@dataclass(slots=True)
class Row:
    """None: not measured, and `remarks` says why. Times in the unit of the name; `ttft_off_*` is reported minus true."""

    title: str
    burst_rps: float | None = None
    paced_rps: float | None = None
    cpu_ms: float | None = None
    ttft_off_p50_ms: float | None = None
    ttft_off_p99_ms: float | None = None
    start_s: float | None = None
    memory_mb: float | None = None
    body_kb: float | None = None
    remarks: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float | None]:
        return {f.name: getattr(self, f.name) for f in fields(self)[1:-1]}


@dataclass(frozen=True, slots=True)
class Run:
    """One tool, one load. `log` is the server's, of the load's requests alone."""

    log: list[Answer]
    watched: Watched
    reported: Ttft | None

    @property
    def rps(self) -> float:
        seconds = (max(a.last_token_ns for a in self.log) - min(a.first_read_ns for a in self.log)) / 1e9
        return len(self.log) / seconds

    @property
    def truth(self) -> Ttft:
        taken = [a.first_token_ns - a.body_done_ns for a in self.log]
        return Ttft(median(taken) / 1e6, figures.p99_ms(taken))


def compare(lab: Lab, names: list[str], say: Callable[[str], None]) -> list[Row]:
    """Print the table, our own row first. Ratios are to that row."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        sys.exit(f"benchmarks: no peer is called {', '.join(unknown)}. There are: {', '.join(PEERS)}")
    chosen = [OWN, *(name for name in names if name != OWN)]
    pythons = {name: _python(lab, name, say) for name in chosen}
    server = build("server", lab.cache)
    rows = []
    with serving(server, "burst", lab.server_cpu) as burst, serving(server, "paced", lab.server_cpu) as paced:
        for name in chosen:
            say(f"measuring {PEERS[name].name_and_version}")
            rows.append(measure(lab, name, pythons[name], burst, paced))
            say(peer_table.one_line(rows[-1]))
    print("\n" + peer_table.text(rows))
    return rows


def _python(lab: Lab, name: str, say: Callable[[str], None]) -> Path | NotInstalled:
    try:
        return install(lab.cache, name, PEERS[name], say)
    except NotInstalled as why:
        say(f"{name}: {why}")
        return why


def measure(lab: Lab, name: str, python: Path | NotInstalled, burst: Truth, paced: Truth) -> Row:
    """The row of one tool. What one of its runs does not give is missing there alone."""
    peer = PEERS[name]
    row = Row(peer.name_and_version, remarks=[peer.remark] if peer.remark else [])
    if isinstance(python, NotInstalled):
        row.remarks.append(str(python))
        return row
    bench = _Bench(lab, name, peer, python, row)
    few = bench.run("few", paced, FEW)
    if few is None:  # the others would fail alike
        return row
    many = bench.run("paced", paced, peer.requests)
    fast = bench.run("burst", burst, peer.burst_requests)
    row.start_s = (min(a.first_read_ns for a in few.log) - few.watched.started_ns) / 1e9
    if name == OWN:  # the whole command, which reads its pictures, and not the job alone
        row.start_s = figures.start_to_first_request(lab, burst)
    if many is not None:
        row.paced_rps, row.memory_mb = many.rps, many.watched.pss_mb or None
        row.body_kb = median(a.body_bytes for a in many.log) / 1e3
        if many.reported is not None:
            row.ttft_off_p50_ms = many.reported.p50_ms - many.truth.p50_ms
            row.ttft_off_p99_ms = many.reported.p99_ms - many.truth.p99_ms
    if many is not None and not few.watched.code and not many.watched.code:
        row.cpu_ms = 1e3 * (many.watched.cpu_s - few.watched.cpu_s) / (len(many.log) - len(few.log))
    if fast is not None:
        row.burst_rps = fast.rps
    return row


@dataclass(frozen=True, slots=True)
class _Bench:
    """Runs one tool, and puts into the row's remarks what went wrong."""

    lab: Lab
    name: str
    peer: Peer
    python: Path
    row: Row

    def run(self, load: str, truth: Truth, requests: int) -> Run | None:
        truth.take_log()
        output = self.lab.cache / "peers" / "logs" / f"{self.name}.{load}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as name:
            case = Case(self.lab, self.python, truth.url, requests, Path(name), tokenizer(self.lab.cache))
            command, told = self.peer.command(case)
            environment = environment_for(case, told)
            watched = watch(pinned(command, self.lab.client_cpu), case.folder, environment, output, TIMEOUT_S)
            log = [answer for answer in truth.take_log() if answer.body_bytes > PROBE_BYTES]
            wrong = _wrong(watched, len(log), requests)
            if wrong:
                self.row.remarks.append(f"{load}: {wrong}; see {output}")
            if watched.timed_out or len(log) < (1 - LOST) * requests:
                return None
            return Run(log, watched, self._reported(case, output) if load == "paced" else None)

    def _reported(self, case: Case, output: Path) -> Ttft | None:
        try:
            return self.peer.ttft(case)
        except (OSError, LookupError, TypeError, ValueError) as error:
            self.row.remarks.append(f"paced: its report gives no time to first token ({error!r}); see {output}")
            return None


def _wrong(watched: Watched, answered: int, requests: int) -> str:
    """Empty when the run went well. Some tools send more requests than they were asked for."""
    if watched.timed_out:
        return f"stopped after {TIMEOUT_S:g} s, {answered:,} of {requests:,} requests answered"
    if watched.code:
        return f"exit code {watched.code}, {answered:,} of {requests:,} requests answered"
    return f"{answered:,} of {requests:,} requests answered" if answered < requests else ""


def environment_for(case: Case, told: dict[str, str]) -> dict[str, str]:
    """Nothing is reported home, no proxy stands between, and what a tool caches goes with its folder."""
    common = {"TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    common |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HOME": str(case.folder / "hf")}
    return {**os.environ, **common, **told}
