"""The command as a user runs it: real processes, real sockets, the simulated pair."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from client.core.records import Outcome, Phase, RequestRecord
from client.rundir import read_lines

ROOT = Path(__file__).parent.parent.parent
FAST = ["--warmup", "2", "--image-size", "320x240"]
MEASURED = {0, 4}
"""A busy machine may rightly make a run INVALID: these tests are about what is written, not about the machine."""


def bench(
    *argv: str, out: Path, env: dict[str, str] | None = None, limit_s: float = 90
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client.bench", "--out", str(out), *argv],
        cwd=ROOT, capture_output=True, text=True, timeout=limit_s, env={**os.environ, **(env or {})},
    )  # fmt: skip


def the_run(out: Path) -> Path:
    (run,) = out.iterdir()
    return run


def findings_of(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "findings.json").read_text())
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Two simulated servers that live as long as the tests of this file."""
    scratch = tmp_path_factory.mktemp("pair")
    children = []
    for precision in ("bf16", "fp8"):
        command = [sys.executable, "-m", "server.sim", "--profile", "h100", "--precision", precision, "--port", "0"]
        command += [
            "--port-file",
            str(scratch / precision),
            "--start-seconds",
            "0.1",
            "--seed",
            "1",
            "--model",
            "m",
            "--die-with-parent",
        ]
        children.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    urls = {}
    deadline = time.monotonic() + 30
    for precision in ("bf16", "fp8"):
        file = scratch / precision
        while not file.exists() or not file.read_text().strip():
            assert time.monotonic() < deadline, "the simulated server did not start"
            time.sleep(0.05)
        urls[precision] = f"http://127.0.0.1:{file.read_text().strip()}"
    yield urls
    for child in children:
        child.terminate()
        child.wait(10)


def at(pair: dict[str, str]) -> list[str]:
    return ["--url", f"bf16={pair['bf16']}", "--url", f"fp8={pair['fp8']}", "--sidecar", "none"]


def test_the_simulated_pair_ends_in_a_verdict_and_a_run_directory(tmp_path: Path) -> None:
    done = bench("--simulate", "h100", "--requests", "8", *FAST, out=tmp_path)
    assert done.returncode in MEASURED, done.stderr
    run = the_run(tmp_path)
    found = findings_of(run)
    assert found["simulated"] is True
    assert "SIMULATED" in done.stdout
    assert "SIMULATED" in (run / "report.md").read_text()
    assert "measuring bf16" in done.stderr, "a log must show progress"
    for name in ("manifest.json", "requests.jsonl", "images.jsonl", "phases.jsonl", "health.jsonl"):
        assert (run / name).exists(), name
    for target in ("bf16", "fp8"):
        for name in ("server.log", "metrics-before.txt", "metrics-after.txt", "server.json"):
            assert (run / "servers" / target / name).stat().st_size > 0, name
    records, torn = read_lines(run / "requests.jsonl", RequestRecord)
    assert torn == 0
    for target in ("bf16", "fp8"):
        mine = [r for r in records if r.target == target]
        assert [sum(r.phase is phase for r in mine) for phase in (Phase.COLD, Phase.WARMUP, Phase.MEASURE)] == [1, 2, 8]
        assert len({r.image_id for r in mine}) == 11, "each request has a picture of its own"
        assert all(r.outcome is Outcome.OK for r in mine)
    measured = [{r.image_id for r in records if r.target == t and r.phase is Phase.MEASURE} for t in ("bf16", "fp8")]
    assert measured[0] == measured[1], "the arms are paired by picture"


def test_reports_of_a_saved_run_are_the_same_bytes(pair: dict[str, str], tmp_path: Path) -> None:
    done = bench(*at(pair), "--requests", "6", *FAST, out=tmp_path)
    assert done.returncode in MEASURED, done.stderr
    run = the_run(tmp_path)
    before = {name: (run / name).read_bytes() for name in ("findings.json", "report.md")}
    again = subprocess.run([sys.executable, "-m", "client.report", str(run)], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert {name: (run / name).read_bytes() for name in before} == before
    assert again.stdout.splitlines()[:5] == done.stdout.splitlines()[:5]


def test_a_server_that_says_it_is_simulated_is_marked_without_being_asked(pair: dict[str, str], tmp_path: Path) -> None:
    done = bench("--target", "fp8", "--url", pair["fp8"], "--sidecar", "none", "--requests", "4", *FAST, out=tmp_path)
    assert done.returncode in MEASURED, done.stderr
    found = findings_of(the_run(tmp_path))
    assert found["simulated"] is True
    assert found["comparison"] is None
    assert list(found["targets"]) == ["fp8"]  # type: ignore[call-overload]


def test_one_picture_again_and_again_is_not_believed(pair: dict[str, str], tmp_path: Path) -> None:
    done = bench(*at(pair), "--requests", "8", "--repeat-image", *FAST, out=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    found = findings_of(the_run(tmp_path))
    assert found["valid"] is False
    assert any("cache" in reason for reason in found["invalid_reasons"])  # type: ignore[attr-defined]
    records, _ = read_lines(the_run(tmp_path) / "requests.jsonl", RequestRecord)
    assert len({r.image_id for r in records}) == 1


def wait_for_records(out: Path, phase: str, count: int, child: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert child.poll() is None, child.communicate()
        files = list(out.glob("*/requests.jsonl"))
        if files and files[0].read_text().count(f'"phase":"{phase}"') >= count:
            return files[0].parent
        time.sleep(0.02)
    raise AssertionError("the run did not get that far")


def started(pair: dict[str, str], out: Path, requests: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "client.bench", "--out", str(out), *at(pair), "--requests", requests, *FAST]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_keeps_and_reports_what_was_measured(pair: dict[str, str], tmp_path: Path) -> None:
    child = started(pair, tmp_path, "400")
    run = wait_for_records(tmp_path, "measure", 6, child)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    assert "INTERRUPTED" in out
    found = findings_of(run)
    assert found["interrupted"] is True
    records, torn = read_lines(run / "requests.jsonl", RequestRecord)
    assert torn == 0
    assert sum(r.phase is Phase.MEASURE and r.outcome is Outcome.OK for r in records) >= 6


def test_a_run_killed_at_once_can_still_be_reported(pair: dict[str, str], tmp_path: Path) -> None:
    child = started(pair, tmp_path, "400")
    run = wait_for_records(tmp_path, "measure", 6, child)
    child.kill()
    child.communicate()
    with (run / "requests.jsonl").open("ab") as file:
        file.write(b'{"target":"bf16","phase":"mea')
    done = subprocess.run([sys.executable, "-m", "client.report", str(run)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = findings_of(run)
    assert found["torn_lines"] == 1
    assert found["targets"]["bf16"]["requests_sent"] >= 1  # type: ignore[index]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("halfweight:")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_bad_input_is_one_line_with_a_next_step_and_leaves_nothing(pair: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-image.jpg").write_text("this is no picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "fine.png")
    fp8 = ["--target", "fp8", "--url", pair["fp8"], "--sidecar", "none"]
    nobody = f"http://127.0.0.1:{free_port()}"
    cases = [
        (["--requests", "0"], 2, "--requests 0"),
        (["--requests", "many"], 2, "invalid int value"),
        (["--target", "nope"], 2, "no such target"),
        (["--target", "fp8", "--url", nobody], 3, "nothing serves at"),
        ([*fp8, "--model", "other"], 3, "Served there: m"),
        ([*fp8, "--images", str(tmp_path / "empty")], 2, "empty"),
        ([*fp8, "--images", str(tmp_path / "no-image.jpg")], 2, "no-image.jpg"),
        ([*fp8, "--images", str(tmp_path / "missing")], 2, "missing"),
        (["--url", f"bf16={pair['fp8']}", "--url", f"fp8={pair['fp8'].replace('127.0.0.1', '127.1')}"], 3, "one and the same server"),
        ([*fp8, "--image-size", "4000x3000", "--max-side", "4000", "--requests", "1"], 3, "--max-side"),
        ([*fp8, "--server-log", f"fp8={tmp_path}/no.log"], 2, "no.log"),
        ([*fp8, "--fail-if", "fp8.speed > 3"], 2, "speed"),
    ]  # fmt: skip
    out = tmp_path / "out"
    for argv, code, text in cases:
        done = bench(*argv, out=out, limit_s=30)
        assert done.returncode == code, (argv, done.stderr)
        assert text in done.stderr, (argv, done.stderr)
        if "--fail-if" not in argv:  # that one draws a caret below
            one_line(done)
    left = [run for run in out.iterdir() if not (run / "requests.jsonl").exists()] if out.exists() else []
    assert left == []


def test_an_unwritable_output_folder_is_told_before_load_is_sent(pair: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = bench("--target", "fp8", "--url", pair["fp8"], out=tmp_path / "file")
    assert done.returncode == 6
    assert "--out" in one_line(done)


def test_preflight_tells_who_is_there(pair: dict[str, str], tmp_path: Path) -> None:
    done = bench(*at(pair), "--preflight-only", out=tmp_path / "none")
    assert done.returncode == 0, done.stderr
    assert "model m" in done.stdout
    assert "round trip" in done.stdout
    assert not (tmp_path / "none").exists()


def test_help_shows_examples_and_exit_codes() -> None:
    done = subprocess.run([sys.executable, "-m", "client.bench", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "examples:" in done.stdout
    for code in ("130", "INVALID"):
        assert code in done.stdout


def test_findings_hold_the_promised_shape(pair: dict[str, str], tmp_path: Path) -> None:
    done = bench(
        *at(pair), "--requests", "60", "--warmup", "1", "--image-size", "112x112", "--max-tokens", "8", out=tmp_path
    )
    assert done.returncode in MEASURED, done.stderr
    found = findings_of(the_run(tmp_path))
    assert found["schema_version"] == 1
    for target in found["targets"].values():  # type: ignore[attr-defined]
        for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
            for quantile in ("p50", "p95", "p99"):
                estimate = target["metrics"][f"{metric}_{quantile}"]
                assert set(estimate) >= {"value", "low", "high", "n", "unit"}
        assert target["metrics"]["e2e_ms_p50"]["value"] > 0
        assert target["metrics"]["e2e_ms_p99"]["value"] is None, "60 requests cannot support a p99"
        assert target["metrics"]["requests_per_s"]["value"] > 0
        assert set(target["caches"]) >= {"prefix_hit_rate", "image_hit_rate"}
        assert target["quality"]["scores"]["mean_iou"]["value"] is not None
        assert target["memory"]["weights_gib"] is None, "nobody gave a log: unknown, not zero"
        assert target["cold_start"]["e2e_ms"]["n"] == 1
    assert found["comparison"]["effects"]["e2e_p50"]["word"]  # type: ignore[index]
    assert "not_measured" in found
    assert msgspec.json.decode((the_run(tmp_path) / "manifest.json").read_bytes())["complete"] is True


def test_tokens_come_from_quality_passes_alone_and_reach_the_findings(pair: dict[str, str], tmp_path: Path) -> None:
    argv = ["--requests", "8", "--warmup", "1", "--image-size", "112x112", "--quality", "10", "--logprobs", "3"]
    done = bench(*at(pair), *argv, "--workers", "2", "--concurrency", "2", out=tmp_path)
    assert done.returncode in MEASURED, done.stderr
    run = the_run(tmp_path)
    answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 2 * 3 * 10
    for answer in answers:
        assert answer["text"].startswith("[0.")
        assert all(len(step["top"]) == 3 and step["token"] in step["top"] for step in answer["tokens"])
        assert answer["tokens"][-1]["token"] == "token_id:151645"
    assert all('"tokens"' not in file.read_text() for file in run.glob("requests*.jsonl"))
    parity = findings_of(run)["comparison"]["parity"]  # type: ignore[index]
    assert 0.8 < parity["top1_agreement"]["value"] < 1
    assert parity["mean_kl_nats"]["value"] > 0
    assert parity["top1_agreement_noise"]["value"] == 1.0
    assert parity["same_text_noise"]["value"] == parity["same_text_noise_load"]["value"] == 1.0
    for page in ("report.md", "report.html"):
        assert "like the same next token best" in (run / page).read_text()
