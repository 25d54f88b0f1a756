"""What can break on our own side: the disk, the results folder, file descriptors, a body that is not taken, the clock of the wall."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from peer import Talk
from rig import FINE, RSS_LIMIT_MIB, analysed, at, bench, byzantine, classes, fine, holds, start, the_run

from client.core.records import Outcome

SAME = ("--repeat-image",)


def slowly(talk: Talk, number: int, request: bytes) -> None:
    time.sleep(0.01)
    fine(talk, number, request)


def test_a_file_that_may_grow_no_more_ends_the_run_and_keeps_what_it_has(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a full disk where none can be made: the same write fails in the same way, with another number."""
    with byzantine(slowly) as (_, url):
        argv = [*at(url), *SAME, "--requests", "200"]
        done = bench(*argv, out=tmp_path, before=("prlimit", "--fsize=20000:20000"))
    assert done.code == 6
    assert "requests.jsonl" in done.line
    assert "--out" in done.line
    run = the_run(tmp_path)
    assert len(holds(done, run)) > 10
    assert "cut_short" in {gate.code for gate in analysed(run).gates}


def can_mount() -> bool:
    return subprocess.run(["unshare", "--mount", "--map-root-user", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(
    not can_mount(), reason="mount namespaces are not allowed here; RLIMIT_FSIZE plays this fault above"
)
def test_a_full_disk_ends_the_run_and_keeps_what_it_has(tmp_path: Path) -> None:
    """A tmpfs of 64 KiB in a mount namespace of its own; what is left on it is copied out before it goes."""
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    kept.mkdir()
    script = f'mount -t tmpfs -o size=64k none {small} && "$@"; code=$?; cp -r {small}/. {kept}/; exit $code'
    before = ("unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh")
    with byzantine(slowly) as (_, url):
        done = bench(*at(url), *SAME, "--requests", "300", out=small, before=before)
    assert done.code == 6
    assert "No space left on device" in done.line
    run = the_run(kept)
    assert len(holds(done, run)) > 10
    shutil.rmtree(small, ignore_errors=True)
    analysed(run)


@pytest.mark.skipif(not can_mount(), reason="mount namespaces are not allowed here")
def test_read_only_results_are_told_before_a_request_is_sent(tmp_path: Path) -> None:
    """A mount that is read-only, because rights do not bind root."""
    script = f'mount -t tmpfs -o ro none {tmp_path} && "$@"'
    before = ("unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh")
    with byzantine(fine) as (server, url):
        done = bench(*at(url), out=tmp_path, before=before)
    assert done.code == 6
    assert "Read-only file system" in done.line
    assert server.asked == 0


def test_a_results_folder_that_is_removed_in_mid_run_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with byzantine(slowly) as (server, url):
        running = start(*at(url), *SAME, "--requests", "500", out=out)
        running.wait_for_lines(10)
        asked = server.asked
        while out.exists():  # the run may make a file while its folder is emptied
            shutil.rmtree(out, ignore_errors=True)
        done = running.end()
    assert done.code == 6, done.all
    assert "Traceback" not in done.all
    assert str(out) in done.line
    assert server.asked < asked + 100, "the first record that cannot be kept ends the run"


def test_more_sockets_than_this_machine_allows_are_our_fault_and_said_so(tmp_path: Path) -> None:
    """Ten thousand at once, with 256 descriptors: each request that found none is `client_limit`, and nothing is booked on the server."""

    def held(talk: Talk, number: int, request: bytes) -> None:
        if number > 1:
            time.sleep(2.0)
        fine(talk, number, request)

    with byzantine(held) as (_, url):
        argv = [*at(url), *SAME, "--requests", "1", "--concurrency", "10000", "--timeout", "connect=5"]
        done = bench(*argv, out=tmp_path, before=("prlimit", "--nofile=256:256"), limit_s=200)
    run = the_run(tmp_path)
    holds(done, run)
    kinds = classes(run)
    assert kinds["client_limit"] >= 5_000
    assert set(kinds) <= {"ok", "client_limit", "timeout_connect", "timeout_first_byte"}, kinds
    assert done.code == 4
    assert "ulimit -n" in (run / "requests.jsonl").read_text()
    assert "client_limit" in done.out


def test_an_answer_much_larger_than_memory_allows_is_given_up(tmp_path: Path) -> None:
    """Four at once, each a line without end: the reader may not keep them."""
    piece = b"data: " + b"x" * 500_000

    def chat(talk: Talk, number: int, request: bytes) -> None:
        if number == 1:
            talk.send(FINE)
            return
        talk.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        try:
            for _ in range(1000):
                talk.send(piece)
        except OSError:
            talk.sock.close()

    with byzantine(chat) as (_, url):
        done = bench(*at(url), *SAME, "--requests", "8", "--concurrency", "4", "--timeout", "total=20", out=tmp_path)
    records = holds(done, the_run(tmp_path))
    assert {r.outcome for r in records[1:]} == {Outcome.BAD_ANSWER}
    assert done.rss_mib < RSS_LIMIT_MIB


def test_a_wall_clock_that_is_set_back_and_forth_bends_no_latency(tmp_path: Path) -> None:
    """By an hour, between a kernel stamp and its reading, at every fifth read (`wall_clock.c`). Every answer takes 50 ms at the server."""

    def chat(talk: Talk, number: int, request: bytes) -> None:
        time.sleep(0.05)
        fine(talk, number, request)

    shim = tmp_path / "wall_clock.so"
    source = Path(__file__).with_name("wall_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    out = tmp_path / "out"
    with byzantine(chat) as (_, url):
        done = bench(*at(url), *SAME, "--requests", "60", "--concurrency", "4", out=out, env={"LD_PRELOAD": str(shim)})
    records = holds(done, the_run(out))
    assert {r.outcome for r in records} == {Outcome.OK}
    assert {r.stamps for r in records} == {"kernel"}
    took = [((r.first_token_ns or 0) - (r.sent_ns or 0)) / 1e6 for r in records]
    assert min(took) > 49.5, took
    assert max(took) < 5_000, took
    assert all((r.sent_ns or 0) <= (r.headers_ns or 0) <= (r.first_token_ns or 0) <= (r.done_ns or 0) for r in records)
