"""Other load generators against the same truth server, in the same run: installed apart, each run by its own command line.

What a tool reports is held against what the server logged. A tool that cannot be installed, or that fails, gets a row that says so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from benchmarks import figures
from benchmarks.figures import Lab
from benchmarks.peer_tools import CONCURRENCY, PEERS, Case, Peer
from benchmarks.truth_server import Answer, Truth, build, pinned, serving

REQUESTS = 2_000
FEW = 128
TIMEOUT_S = 90


class NotMeasured(Exception):
    """Why a row has no numbers."""


@dataclass(frozen=True, slots=True)
class Run:
    """One tool, one load. `log` is the server's; CPU is user and system time of all its processes."""

    log: list[Answer]
    cpu_s: float
    start_s: float
    pss_mb: float
    reported_p99_ms: float | None

    @property
    def rps(self) -> float:
        seconds = (max(a.last_token_ns for a in self.log) - min(a.first_read_ns for a in self.log)) / 1e9
        return len(self.log) / seconds

    @property
    def true_p99_ms(self) -> float:
        return figures.p99_ms([a.first_token_ns - a.body_done_ns for a in self.log])


def compare(lab: Lab, names: list[str], say: Callable[[str], None]) -> None:
    """Print the table, our own row first. Ratios are to that row."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        sys.exit(f"benchmarks: no peer is called {', '.join(unknown)}. There are: {', '.join(PEERS)}")
    pythons = {name: _install(lab, name, say) for name in names}
    server = build("server", lab.cache)
    with serving(server, "burst", lab.server_cpu) as burst, serving(server, "paced", lab.server_cpu) as paced:
        say("halfweight")
        fast, own = figures.job(lab, burst, 10_000, concurrency=64), figures.job(lab, paced, REQUESTS, concurrency=64)
        start_s = figures.start_to_first_request(lab, burst)
        burst.take_log()
        own_cells = [fast.rps, own.rps, own.cpu_ms, figures.p99_ms(own.ttft_error_ns), start_s, own.cost["rss_mb"]]
        rows = [["halfweight", *map(_number, own_cells)]]
        for name in names:
            say(PEERS[name].what)
            python = pythons[name]
            try:
                if isinstance(python, str):
                    raise NotMeasured(python)
                cells = _measure(lab, PEERS[name], python, burst, paced)
            except NotMeasured as why:
                rows.append([name, *["-"] * 6, str(why)])
                continue
            rows.append([name, *(f"{_number(c)} ({_ratio(c, o)})" for c, o in zip(cells, own_cells, strict=True))])
    headers = (
        "tool",
        "burst req/s",
        "paced req/s of 510",
        "CPU ms/request",
        "TTFT p99 off by ms",
        "start s",
        "memory MB",
        "",
    )
    print(f"\n{CONCURRENCY} in flight, {REQUESTS} requests of 147 KB with 16 tokens; in brackets: times our own value")
    print(tabulate(rows, headers=headers, disable_numparse=True))
    print("TTFT p99 off by: what the tool reports minus what the server did (ours: p99 of the error of each request).")
    print("CPU per request: of all the tool's processes, start-up taken off. Memory: peak PSS of all processes.")


def _measure(lab: Lab, peer: Peer, python: Path, burst: Truth, paced: Truth) -> list[float | None]:
    """In the order of the table's columns."""
    few = _run(lab, peer, python, paced, FEW)
    many = _run(lab, peer, python, paced, REQUESTS)
    fast = _run(lab, peer, python, burst, REQUESTS)
    cpu_ms = 1e3 * (many.cpu_s - few.cpu_s) / (len(many.log) - len(few.log))
    off = None if many.reported_p99_ms is None else many.reported_p99_ms - many.true_p99_ms
    return [fast.rps, many.rps, cpu_ms, off, few.start_s, many.pss_mb]


def _run(lab: Lab, peer: Peer, python: Path, truth: Truth, requests: int) -> Run:
    truth.take_log()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = Case(lab, python, truth.url, requests, folder, _tokenizer(lab))
        command, environment = peer.command(case)
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **environment}
        started_ns = time.monotonic_ns()
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                pinned(command, lab.client_cpu),
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            watch = _Watch(process)
            usage = watch.wait()
        log = [answer for answer in truth.take_log() if answer.body_bytes > 10_000]
        if watch.code != 0 or len(log) < requests:
            raise NotMeasured(_why(folder / "output", watch, len(log), requests))
        try:
            reported = peer.ttft_p99_ms(case)
        except (OSError, KeyError, ValueError, StopIteration) as error:
            raise NotMeasured(f"its report could not be read: {error!r}") from error
        start_s = (min(a.first_read_ns for a in log) - started_ns) / 1e9
        return Run(log, usage, start_s, watch.pss_mb, reported)


class _Watch:
    """Waits for a process, with the CPU time and the peak memory of its whole family."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pss_mb = 0.0
        self.code: int | None = None
        self.timed_out = False

    def wait(self) -> float:
        """CPU seconds."""
        over = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(over,))
        sampler.start()
        _, status, usage = os.wait4(self._process.pid, 0)
        over.set()
        sampler.join()
        self.code = self._process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime

    def _sample(self, over: threading.Event) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not over.wait(0.5):
            self.pss_mb = max(self.pss_mb, sum(map(_pss_kb, _family(self._process.pid))) * 1024 / 1e6)
            if time.monotonic() > deadline:
                self.timed_out = True
                os.killpg(self._process.pid, 9)
                return


def _family(session: int) -> list[int]:
    """The processes of a session: `start_new_session` made the tool the leader of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found.append(int(path.parent.name))
    return found


def _pss_kb(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0


def _why(output: Path, watch: _Watch, answered: int, requests: int) -> str:
    if watch.timed_out:
        return f"stopped after {TIMEOUT_S} s with {answered} of {requests} requests answered"
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {watch.code}, {answered} of {requests} answered: {lines[-1][:160] if lines else 'no output'}"


def _install(lab: Lab, name: str, say: Callable[[str], None]) -> Path | str:
    """Python of the peer's environment, or why there is none."""
    home = lab.cache / "peers" / name
    python = home / "bin" / "python"
    stamp = home / "installed"
    wanted = "\n".join(PEERS[name].requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"installing {wanted} into {home}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PEERS[name].requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        return f"could not be installed: {last[0][:160] if last else 'pip said nothing'}"
    stamp.write_text(wanted)
    return python


def _tokenizer(lab: Lab) -> Path:
    """A tokenizer of one word, for tools that will not start without."""
    folder = lab.cache / "tokenizer"
    if not folder.exists():
        folder.mkdir(parents=True)
        model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "</s>": 1}, "unk_token": "[UNK]"}
        tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "eos_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 2}))
    return folder


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(value: float | None, own: float | None) -> str:
    return "-" if value is None or not own else f"{value / own:.3g}x"
