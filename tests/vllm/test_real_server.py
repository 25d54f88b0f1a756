"""The product against a real vLLM on the CPU: bf16 and fp8_per_channel of the small trained model, as scripts/stage-vllm starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.core.records import Outcome, Phase, RequestRecord
from client.rundir import read_lines

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parent.parent.parent
MEASURED = {0, 4}


def servers() -> list[str]:
    """Asked for and not there is a failure: KeyError, never a skip."""
    logs = Path(os.environ["HALFWEIGHT_VLLM_LOGS"])
    return [
        "--url", f"bf16={os.environ['HALFWEIGHT_TEST_BF16']}", "--server-log", f"bf16={logs / 'bf16.log'}",
        "--url", f"fp8={os.environ['HALFWEIGHT_TEST_FP8']}", "--server-log", f"fp8={logs / 'fp8.log'}",
        "--sidecar", "none", "--model-config", str(ROOT / "server/tiny/model/config.json"),
    ]  # fmt: skip


def bench(out: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client.bench", "--out", str(out), *argv],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """One run of different pictures, at the size that the client sends."""
    out = tmp_path_factory.mktemp("real")
    done = bench(out, *servers(), "--requests", "32", "--warmup", "2", "--seed", "77")
    assert done.returncode in MEASURED, done.stdout + done.stderr
    print(done.stdout)
    (run,) = out.iterdir()
    return run, json.loads((run / "findings.json").read_text()), done.stdout


def test_nothing_is_called_simulated(pair: tuple[Path, dict[str, Any], str]) -> None:
    _, found, text = pair
    assert found["simulated"] is False
    assert "SIMULATED" not in text


def test_every_request_is_answered_and_timed(pair: tuple[Path, dict[str, Any], str]) -> None:
    run, _, _ = pair
    records, torn = read_lines(run / "requests.jsonl", RequestRecord)
    assert torn == 0
    for target in ("bf16", "fp8"):
        mine = [r for r in records if r.target == target and r.phase is Phase.MEASURE]
        assert len(mine) == 32
        for r in mine:
            assert r.outcome is Outcome.OK, r
            assert r.completion_tokens is not None
            assert len(r.chunk_ns) <= r.completion_tokens
            stamps = [r.sent_ns, r.headers_ns, r.first_byte_ns, r.role_ns, r.first_token_ns, r.last_token_ns, r.done_ns]
            assert stamps == sorted(stamps), "the time line of a request runs forward"  # type: ignore[type-var]


def test_the_servers_counters_agree_with_ours(pair: tuple[Path, dict[str, Any], str]) -> None:
    run, found, _ = pair
    for target in ("bf16", "fp8"):
        pages = [(run / "servers" / target / f"metrics-{when}.txt").read_text() for when in ("before", "after")]
        before, after = (_value(page, "vllm:e2e_request_latency_seconds_count") for page in pages)
        assert after - before == 32
        server_ms = (
            1000
            * (
                _value(pages[1], "vllm:e2e_request_latency_seconds_sum")
                - _value(pages[0], "vllm:e2e_request_latency_seconds_sum")
            )
            / 32
        )
        ours_ms = found["targets"][target]["metrics"]["e2e_ms_mean"]["value"]
        # The server's clock starts after the upload and stops before its last byte is on the wire: ours is never shorter.
        assert server_ms <= ours_ms <= server_ms + max(50.0, 0.15 * server_ms)
        assert found["targets"][target]["caches"]["image_hit_rate"]["value"] == 0


def _value(page: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name + "{"))


def test_the_model_finds_the_tables_in_both_precisions(pair: tuple[Path, dict[str, Any], str]) -> None:
    _, found, _ = pair
    for target in ("bf16", "fp8"):
        quality = found["targets"][target]["quality"]
        assert quality["unreadable"] == 0
        assert quality["scores"]["mean_iou"]["value"] >= 0.85
    parity = found["comparison"]["parity"]
    assert parity["word"] in ("non-inferior", "better", "inconclusive")
    assert abs(parity["iou_difference"]["value"]) < 0.02


def test_log_and_metrics_tell_who_the_servers_are(pair: tuple[Path, dict[str, Any], str]) -> None:
    _, found, _ = pair
    for target in ("bf16", "fp8"):
        mine = found["targets"][target]
        assert mine["server_version"] == "0.32.0"
        assert mine["memory"]["kv_cache_tokens"] > 1000
    assert found["targets"]["fp8"]["kernel"]["quantization"] == "fp8_per_channel"


def test_one_picture_again_and_again_is_told_from_different_ones(tmp_path: Path) -> None:
    done = bench(tmp_path, *servers(), "--requests", "8", "--warmup", "1", "--repeat-image", "--seed", "5")
    assert done.returncode == 4, done.stdout + done.stderr
    (run,) = tmp_path.iterdir()
    found = json.loads((run / "findings.json").read_text())
    assert any("cache" in reason for reason in found["invalid_reasons"])
    assert found["targets"]["bf16"]["caches"]["image_hit_rate"]["value"] > 0.9


def test_a_wrong_model_name_lists_what_is_served(tmp_path: Path) -> None:
    done = bench(tmp_path, *servers(), "--model", "fp8=nope")
    assert done.returncode == 3
    assert "Served there: model" in done.stderr
