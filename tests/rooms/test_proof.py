"""The tools of the proof: cross-checks of a run against the server's own counters, the rate of an open loop, trimming."""

from __future__ import annotations

import json
import re
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks.proof.checks import Check, between, counted, of_run, server_checks
from benchmarks.proof.rate import rate
from benchmarks.proof.trim import trim, trimmed
from client.core.records import RequestRecord
from client.rundir import read_lines, read_run

RESULTS = Path(__file__).parents[2] / "docs" / "results"
RUNS = sorted(path.parent for path in RESULTS.glob("*/*/manifest.json"))


def checks_of(run: Path, target: str) -> dict[str, Check]:
    server = read_run(run).servers[target]
    gained = counted(server)
    assert gained is not None
    records, torn = read_lines(run / "requests.jsonl", RequestRecord)
    assert torn == 0
    return {check.what: check for check in server_checks(between(list(records), server), gained)}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.parent.name}-{run.name}")
def test_every_kept_run_agrees_with_its_servers_counters(run: Path) -> None:
    """Counts exactly; times within what lies between the two clocks: upload, parsing and the way back, more of them under load."""
    for target in read_run(run).plan.targets:
        found = checks_of(run, target.name)
        for what in ("requests", "output tokens", "prompt tokens"):
            assert found[what].ours == found[what].theirs, (target.name, what)
        for what in ("E2E, mean", "TTFT, mean"):
            theirs = found[what].theirs
            assert theirs is not None
            assert 0 < found[what].ours - theirs < 5 + 0.05 * found[what].ours, (target.name, found[what])


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*/README.md")), ids=lambda page: page.parent.name)
def test_every_interval_on_a_page_of_results_stands_in_a_report_beside_it(page: Path) -> None:
    """The statistics change, reports are made again, and a page written by hand must not keep the old ends."""
    reports = [*page.parent.glob("*/report.md"), *page.parent.glob("*.txt")]
    told = [found for report in reports for found in _intervals(report.read_text())]
    quoted = _intervals(page.read_text())
    assert len(quoted) >= 10
    assert [ends for ends in quoted if not any(all(map(_rounds_to, exact, ends)) for exact in told)] == []


def _intervals(text: str) -> list[tuple[str, str]]:
    """Of a change in percent: both ends signed or zero."""
    return re.findall(r"(?:&#91;|\[)([+−][\d.]+|0)(?: %)?, ([+−][\d.]+|0)(?: %)?(?:&#93;|\])", text)


def _rounds_to(exact: str, shown: str) -> bool:
    """With the digits that are shown."""
    step = Decimal(1).scaleb(-len(shown.partition(".")[2]))
    return Decimal(exact.replace("−", "-")).quantize(step) == Decimal(shown.replace("−", "-"))


def test_a_request_that_was_never_sent_would_be_seen(tmp_path: Path) -> None:
    run = shutil.copytree(RESULTS / "h100" / "repeated", tmp_path / "run")
    lines = (run / "requests.jsonl").read_bytes().splitlines(keepends=True)
    (run / "requests.jsonl").write_bytes(b"".join(lines[:-1]))
    target = json.loads(lines[-1])["target"]
    found = checks_of(run, target)
    assert found["requests"].theirs == found["requests"].ours + 1
    assert f"| {target} | requests | 11 | 12 | -1 |" in "\n".join(of_run(run))


def test_the_rate_is_a_share_of_the_slower_arms_best() -> None:
    def level(a: float | None, b: float | None) -> dict[str, object]:
        return {"metrics": {"a": {"requests_per_s": {"value": a}}, "b": {"requests_per_s": {"value": b}}}}

    found = {"targets": {"a": {}, "b": {}}, "levels": [level(4.0, 1.4), level(5.6, 2.63), level(None, 2.5)]}
    assert rate(found, 0.6) == 1.6
    with pytest.raises(ValueError, match="every arm"):
        rate({"targets": {"a": {}, "b": {}}, "levels": [level(4.0, None)]}, 0.6)


def test_trimming_keeps_what_the_report_is_made_of(tmp_path: Path) -> None:
    run = shutil.copytree(RESULTS / "h100" / "repeated", tmp_path / "from" / "repeated")
    (run / "answers.jsonl").write_text("{}\n")
    log = run / "servers" / "bf16" / "server.log"
    log.write_text(log.read_text() + 'INFO:     127.0.0.1:1 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n')
    kept = tmp_path / "kept" / "repeated"
    trim(run, kept, {b"/tmp/": b"/hidden/"})
    assert not (kept / "answers.jsonl").exists()
    assert not (kept / "report.html").exists()
    assert "POST /v1" not in (kept / "servers" / "bf16" / "server.log").read_text()
    assert "/hidden/bf16.log" in (kept / "manifest.json").read_text()
    ours, theirs = (
        json.loads((folder / "findings.json").read_text()) for folder in (kept, RESULTS / "h100" / "repeated")
    )
    numbers = (
        [est[key] for est in found["targets"]["bf16"]["metrics"].values() for key in sorted(est)]
        for found in (ours, theirs)
    )
    assert next(numbers) == approximately(next(numbers))  # the last bits of a sum are the CPU's own
    assert ours["targets"]["bf16"]["memory"] == theirs["targets"]["bf16"]["memory"]
    assert ours["targets"]["bf16"]["caches"] == theirs["targets"]["bf16"]["caches"]


def approximately(values: list[object]) -> list[object]:
    return [pytest.approx(value, rel=1e-12) if isinstance(value, float) else value for value in values]


def test_a_page_keeps_its_counters_and_loses_its_buckets() -> None:
    page = b'# HELP vllm:x y\nvllm:x_bucket{le="1"} 2\nvllm:x_sum{engine="0"} 3\npython_gc 4\nprocess_start_time_seconds 5\n'
    kept = trimmed(Path("metrics-after.txt"), page, {})
    assert re.findall(rb"^[a-z]\S*", kept, re.M) == [b'vllm:x_sum{engine="0"}', b"process_start_time_seconds"]
