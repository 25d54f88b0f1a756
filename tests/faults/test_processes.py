"""Processes that die, freeze, start again or are told to stop: the server, a worker, the sidecar, and the command itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from peer import Talk, peer
from rig import (
    ROOT,
    SMALL,
    Byzantine,
    analysed,
    at,
    base_of,
    bench,
    byzantine,
    classes,
    fine,
    holds,
    records_of,
    reported,
    start,
    the_run,
)
from simulated import simulated

from client.core.records import Outcome

QUICK = ("--time-scale", "0.05", "--profile", "h100", "--model", "m")
LIMITS = ("--timeout", "connect=1.5", "--timeout", "first-byte=1.5", "--timeout", "idle=1.5", "--timeout", "total=6")
SAME = ("--repeat-image",)
"""One picture for all requests: these runs need many requests and no numbers, and pictures take time to draw."""
KILLS = int(os.environ.get("HALFWEIGHT_KILLS", "6"))
SIGNALS = int(os.environ.get("HALFWEIGHT_SIGNALS", "6"))


def slowly(talk: Talk, number: int, request: bytes) -> None:
    """A good answer in some milliseconds, so that a run lasts."""
    time.sleep(0.01)
    fine(talk, number, request)


def test_a_server_that_is_killed_refuses_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with simulated(tmp_path, *QUICK) as server:
        running = start(*at(f"http://127.0.0.1:{server.port}"), *LIMITS, "--requests", "60", out=out)
        running.wait_for_lines(8)
        server.process.kill()
        server.process.wait()
        done = running.end()
    records = holds(done, the_run(out))
    assert done.code == 4
    kinds = [str(r.outcome) for r in records]
    assert len(records) == 61
    assert set(kinds) <= {"ok", "reset", "truncated", "refused"}
    assert kinds[-1] == "refused"
    assert "refused" in done.out


def test_a_server_that_is_frozen_times_out_by_stage(tmp_path: Path) -> None:
    """SIGSTOP: its kernel still takes connections and bytes, so nothing is refused. Every request must end by its limit."""
    out = tmp_path / "out"
    with simulated(tmp_path, *QUICK) as server:
        running = start(
            *at(f"http://127.0.0.1:{server.port}"), *LIMITS, *SAME, "--requests", "8", "--concurrency", "2", out=out
        )
        running.wait_for_lines(19)  # of 25: the last block has begun
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            done = running.end()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
    records = holds(done, the_run(out))
    late = [r for r in records if r.outcome is not Outcome.OK]
    assert late
    assert {str(r.outcome) for r in late} <= {"timeout_first_byte", "timeout_idle"}, classes(the_run(out))
    assert all(r.done_ns and r.sent_ns and r.done_ns - r.sent_ns >= 1.4e9 for r in late)
    assert done.code == 4


def test_a_server_that_starts_again_on_its_port_spoils_the_run_and_says_so(tmp_path: Path) -> None:
    """An open loop goes on through the gap: refused while nobody listens, answered again after it."""
    out = tmp_path / "out"
    with simulated(tmp_path, *QUICK) as first:
        port = str(first.port)
        load = ("--rate", "20", "--arrival", "constant", "--duration", "10")
        running = start(*at(f"http://127.0.0.1:{port}"), *LIMITS, *SAME, *load, out=out)
        running.wait_for_lines(20)
        first.process.kill()
        first.process.wait()
    command = [sys.executable, "-m", "server.sim", *QUICK, "--port", port, "--start-seconds", "0.05"]
    again = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        done = running.end()
    finally:
        again.terminate()
        again.wait(10)
    run = the_run(out)
    records = holds(done, run)
    assert done.code == 4
    assert classes(run)["refused"] >= 1
    assert records[-1].outcome is Outcome.OK
    assert "t was restarted while it was measured" in " ".join(done.out.split())


def test_a_server_without_file_descriptors_is_seen_as_such(tmp_path: Path) -> None:
    """It can accept no more: connections wait in its kernel until our limit. The ones it has go on."""
    out = tmp_path / "out"
    with simulated(tmp_path, *QUICK) as server:
        subprocess.run(["prlimit", "--pid", str(server.process.pid), "--nofile=14:14"], check=True)
        load = ("--requests", "4", "--concurrency", "8", "--timeout", "first-byte=0.7")
        done = bench(*at(f"http://127.0.0.1:{server.port}"), *LIMITS, *SAME, *load, out=out)
        server.process.kill()  # it has no descriptor left to end in order
    records = holds(done, the_run(out))
    kinds = classes(the_run(out))
    assert sum(r.phase == "measure" for r in records) == 4
    assert kinds.get("ok")
    assert set(kinds) <= {"ok", "timeout_first_byte", "timeout_connect", "reset"}, kinds
    assert sum(kinds.values()) > kinds["ok"], "the limit was met"


def children(pid: int) -> list[int]:
    text = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in text.split()]


def test_a_worker_process_that_is_killed_is_counted_and_named(tmp_path: Path) -> None:
    with byzantine(slowly) as (server, url):
        running = start(*at(url), *SAME, "--requests", "200", "--concurrency", "4", "--workers", "2", out=tmp_path)
        running.wait_for_lines(6)
        os.kill(children(running.process.pid)[0], signal.SIGKILL)
        done = running.end()
    run = the_run(tmp_path)
    records = holds(done, run)
    assert done.code == 4
    assert sum(r.phase == "measure" for r in records) == 200, "each slot of the plan has a record"
    lost = [r for r in records if r.outcome is Outcome.LOST]
    assert lost
    assert "lost" in done.out
    assert server.asked >= len(records) - len(lost)


def test_a_sidecar_that_dies_costs_the_gpu_numbers_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "gpu").mkdir()
    with simulated(tmp_path / "gpu", *QUICK) as gpu, byzantine(slowly) as (_, url):
        argv = [*at(url)[:4], "--warmup", "0", "--image-size", "64x64", "--sidecar", f"http://127.0.0.1:{gpu.port}"]
        running = start(*argv, *SAME, "--requests", "120", out=out)
        running.wait_for_lines(20)
        gpu.process.kill()
        done = running.end()
    run = the_run(out)
    assert {str(r.outcome) for r in holds(done, run)} == {"ok"}
    assert done.code in (0, 4)
    assert "failed_pulls" in (run / "gpu-0.json").read_text()


@pytest.mark.timeout(120 + 20 * SIGNALS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_soon_and_keeps_what_was_measured(number: signal.Signals, tmp_path: Path) -> None:
    """From before the first line of our code to after the last request: 130 with a report, or the end that was due anyway."""
    dice = random.Random(int(number))
    with byzantine(slowly) as (_, url):
        for trial, wait_s in enumerate([0.0, *(dice.uniform(0.2, 3.5) for _ in range(SIGNALS // 2 - 1))]):
            out = tmp_path / str(trial)
            running = start(*at(url), *SAME, "--requests", "150", "--concurrency", "2", out=out)
            time.sleep(wait_s)
            running.process.send_signal(number)
            done = running.end(30)
            assert done.code in (0, 4, 130, -number), done.all
            runs = list(out.iterdir()) if out.exists() else []
            for run in runs:
                if (run / "manifest.json").exists():
                    records = records_of(run)
                    analysed(run)
                    if done.code == 130 and records:
                        assert "Traceback" not in done.all, done.all


@pytest.mark.parametrize("wait_s", [0.05, 0.1, 0.2, 0.3])
def test_ctrl_c_before_anything_has_begun_ends_without_a_traceback(wait_s: float, tmp_path: Path) -> None:
    running = start(*at("http://127.0.0.1:9"), out=tmp_path)
    time.sleep(wait_s)
    running.process.send_signal(signal.SIGINT)
    done = running.end(20)
    assert "Traceback" not in done.all
    assert done.code in (-signal.SIGINT, 130, 3), done.all


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_targets_are_met_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    asked = threading.Event()

    class Silent(Byzantine):
        def page(self, path: str) -> bytes:
            asked.set()
            time.sleep(3)
            return super().page(path)

    with peer(Silent(fine)) as served:
        running = start(*at(base_of(served)), out=tmp_path)
        assert asked.wait(60)
        running.process.send_signal(number)
        done = running.end(20)
    assert done.code == 130
    assert done.line == "halfweight: interrupted."
    assert "Traceback" not in done.all
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_report_is_made_says_where_the_records_are(number: signal.Signals, tmp_path: Path) -> None:
    with byzantine(fine) as (_, url):
        running = start(*at(url), *SAME, "--requests", "8", out=tmp_path)
        deadline = time.monotonic() + 60
        while "analysing" not in running.said():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        running.process.send_signal(number)
        done = running.end(20)
    run = the_run(tmp_path)
    assert done.code == 130, done.all
    assert f"python -m client.report {run}" in done.line
    assert len(holds(done, run)) == 9
    assert reported(run).returncode in (0, 4)


SWALLOWING = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "client.report":
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), {number})
                "".join(map(str, range(100_000)))
            except BaseException:
                pass
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_swallows_is_not_lost(number: signal.Signals, tmp_path: Path) -> None:
    """The C side of one drops whatever is raised while it looks for an attribute: a finder of modules stands for it."""
    (tmp_path / "sitecustomize.py").write_text(SWALLOWING.format(number=int(number)))
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with byzantine(fine) as (_, url):
        done = bench(*at(url), *SAME, "--requests", "8", out=tmp_path / "out", env={"PYTHONPATH": path})
    assert done.code == 130, done.all
    assert "python -m client.report" in done.line


@pytest.mark.timeout(120 + 15 * KILLS)
def test_kill_9_at_random_moments_loses_no_finished_record(tmp_path: Path) -> None:
    """Each time: the lines are whole but for the last one, no request is there twice, the server saw every one of them, and a report
    can be made. Two hundred moments: `HALFWEIGHT_FAULTS=full scripts/test --stage faults`."""
    dice = random.Random(9)
    for trial in range(KILLS):
        out = tmp_path / str(trial)
        with byzantine(slowly) as (server, url):
            workers = "2" if trial % 4 == 3 else "1"
            running = start(*at(url), *SAME, "--requests", "4000", "--concurrency", "2", "--workers", workers, out=out)
            if trial % 2:
                running.wait_for_lines(dice.randrange(1, 60))
            else:
                time.sleep(dice.uniform(0.0, 3.5))
            running.process.kill()
            running.end()
            killed_runs_hold(out, server, trial)


def killed_runs_hold(out: Path, server: Byzantine, trial: int) -> None:
    for run in out.iterdir() if out.exists() else []:
        records = records_of(run)
        torn = 0
        for file in run.glob("requests*.jsonl"):
            _, _, rest = file.read_bytes().rpartition(b"\n")
            torn += bool(rest)
        assert len({(r.phase, r.index) for r in records}) == len(records)
        assert len(records) + torn <= server.asked
        if not (run / "manifest.json").exists():
            assert reported(run).returncode == 6
            continue
        found = analysed(run)
        assert "cut_short" in {gate.code for gate in found.gates}
        assert found.torn_lines == torn
        if trial == 1:
            assert reported(run).returncode == 0


def test_nothing_is_left_running_after_a_kill(tmp_path: Path) -> None:
    """Workers and simulated servers end with the process that started them."""
    running = start(
        "--simulate",
        "h100",
        "--requests",
        "400",
        *SMALL[:4],
        *SAME,
        "--concurrency",
        "2",
        "--workers",
        "2",
        out=tmp_path,
    )
    deadline = time.monotonic() + 60
    while len(found := children(running.process.pid)) < 4:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    running.process.kill()
    running.end()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in found):
        assert time.monotonic() < deadline, [
            Path(f"/proc/{p}/cmdline").read_bytes() for p in found if Path(f"/proc/{p}").exists()
        ]
        time.sleep(0.1)
