"""Our own path against a server that says when it did what: endpoint, generator, transport and record file, as the benchmark runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.truth_server import build, serving
from client.core.body import chat_body
from client.core.pictures import synthetic
from client.core.plan import Workload

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> figures.Lab:
    cache = tmp_path_factory.mktemp("lab")
    for number in range(4):
        body = chat_body(Workload(max_tokens=16), "tiny", synthetic(0, number, 320, 240).jpeg)
        (cache / f"{number:03}.json").write_bytes(body)
    return figures.Lab(cache, cache, None, None)


@pytest.mark.parametrize(("mode", "options"), [("burst", {"concurrency": 8}), ("paced", {"rate": 100.0})])
def test_stamps_follow_the_servers_own(lab: figures.Lab, mode: str, options: dict[str, float]) -> None:
    with serving(build("server", lab.cache), mode, None) as truth:
        measured = figures.job(lab, truth, 60, **options)  # type: ignore[arg-type]  # stops on any lost or failed request
        log = truth.take_log()
    assert len(measured.stamp_lag_ns) == 60 * 16
    # A stamp is never earlier than the write, and mostly within a fraction of a millisecond of it, even on a busy machine.
    assert min(measured.stamp_lag_ns) >= 0
    assert sorted(measured.stamp_lag_ns)[len(measured.stamp_lag_ns) // 2] < 500_000
    assert min(measured.ttft_error_ns) > 0
    sizes = {path.stat().st_size for path in lab.bodies.glob("*.json")}
    assert {answer.body_bytes for answer in log} == sizes
    assert min(measured.send_lag_ns) >= 0


def test_the_server_paces(lab: figures.Lab) -> None:
    with serving(build("server", lab.cache), "paced", None) as truth:
        figures.job(lab, truth, 20, concurrency=4)
        log = truth.take_log()
    for answer in log:
        assert answer.first_token_ns - answer.body_done_ns >= 50_000_000
        assert answer.last_token_ns - answer.first_token_ns >= 15 * 5_000_000
        assert answer.tokens == 16


def test_a_compiled_program_is_kept(lab: figures.Lab, tmp_path: Path) -> None:
    first = build("ceiling", tmp_path)
    stamp = first.stat().st_mtime_ns
    assert build("ceiling", tmp_path) == first
    assert first.stat().st_mtime_ns == stamp


def test_p99_is_the_value_that_99_of_100_do_not_exceed() -> None:
    assert figures.p99_ms([n * 1_000_000 for n in range(1, 101)]) == 99
    assert figures.p99_ms([7_000_000]) == 7


def test_the_bare_client_says_what_it_cost(lab: figures.Lab) -> None:
    with serving(build("server", lab.cache), "burst", None) as truth:
        found = figures.bare_client(lab, truth, 2_000)
    busy = found["cpu_ms"] * found["rps"] / 1e3
    assert 0.01 < busy < 1.2, "one thread uses some of one core, and no more than that beside its start"
