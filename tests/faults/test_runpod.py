"""The command against a fake RunPod: a pod behind its proxy, and a serverless endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_runpod import ENDPOINT, KEY, WORKER_ERROR, Pod, Serverless
from peer import peer
from rig import SMALL, Done, base_of, bench, holds, json_answer, the_run

ENV = {"RUNPOD_KEY": KEY}
MODEL = ["--model", "t=Qwen/Qwen2-VL-7B-Instruct"]


@contextmanager
def serverless(played: Serverless) -> Iterator[str]:
    with peer(played) as served:
        yield f"{base_of(served)}/v2/{ENDPOINT}/openai/v1"


def asked(url: str, *argv: str, out: Path, kind: str = "runpod-serverless", **more: str) -> Done:
    env = ENV | {"HALFWEIGHT_T_KIND": kind} | more
    return bench("--target", "t", "--url", f"t={url}", "--api-key-env", "RUNPOD_KEY", *SMALL, *argv, out=out, env=env)


def findings(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "findings.json").read_text())
    return found


def test_a_pods_proxy_gives_up_and_says_so_in_html(tmp_path: Path) -> None:
    pod = Pod(slow=frozenset({3}), down=frozenset({6}))
    with peer(pod) as served:
        done = asked(f"{base_of(served)}/v1", "--requests", "8", out=tmp_path, kind="runpod-pod")
    records = holds(done, the_run(tmp_path))
    told = [(str(r.outcome), r.status) for r in records]
    assert told[:6] == [
        ("ok", 200),
        ("ok", 200),
        ("http_error", 524),
        ("truncated", 200),
        ("ok", 200),
        ("http_error", 502),
    ]
    assert records[2].error == "HTTP 524: HTML page: runpod.net | 524: A timeout occurred"
    assert "100 s" in done.err, "the proxy's limit is told before the run"
    assert done.err.index("100 s") < done.err.index("first request to t")
    assert "http_524" in done.out


def test_serverless_keeps_the_cold_worker_out_of_the_measured_phase(tmp_path: Path) -> None:
    """No question of ours may start the worker: the first request pays for it, alone, and is counted as the cold start."""
    played = Serverless(start_s=1.2)
    with serverless(played) as url:
        done = asked(url, *MODEL, "--requests", "6", out=tmp_path)
    run = the_run(tmp_path)
    records = holds(done, run)
    took = [(r.done_ns or 0) - (r.sent_ns or 0) for r in records]
    assert {str(r.outcome) for r in records} == {"ok"}
    assert took[0] > 1.0e9 > max(took[1:])
    assert played.paths[0] == f"/v2/{ENDPOINT}/health"
    assert not [p for p in played.paths if p.endswith(("/models", "/metrics", "/version"))], (
        "these would wake a worker or do not exist"
    )
    assert played.polls >= 3, "before the run, before and after the measured blocks"
    assert "no worker is ready" in done.err
    server = json.loads((run / "servers/t/server.json").read_text())
    assert server["workers"][-1]["ready"] == 1
    assert KEY not in done.all


def test_serverless_without_a_model_name_is_not_woken_to_be_asked(tmp_path: Path) -> None:
    played = Serverless()
    with serverless(played) as url:
        done = asked(url, out=tmp_path)
        assert done.code == 3
        assert "--model t=MODEL" in done.line
        assert played.paths == [f"/v2/{ENDPOINT}/health"]
        asked_for_it = asked(url, "--preflight-only", out=tmp_path)
    assert asked_for_it.code == 0, asked_for_it.all
    assert "served: Qwen/Qwen2-VL-7B-Instruct" in asked_for_it.out
    assert "a tiny image request: answered" in asked_for_it.out
    assert "RunPod serverless passes no /metrics on" in asked_for_it.out


def test_what_the_queue_and_the_worker_answer_has_a_class(tmp_path: Path) -> None:
    answers = {
        2: json_answer({"id": "sync-1", "status": "IN_QUEUE"}),
        3: json_answer(WORKER_ERROR),
        4: json_answer({"error": "rate limit"}, "429 Too Many Requests", "retry-after: 10"),
        5: json_answer({"error": "payload too large"}, "413 Payload Too Large"),
    }
    with serverless(Serverless(start_s=0.0, answers=answers)) as url:
        done = asked(url, *MODEL, "--requests", "5", out=tmp_path)
    records = holds(done, the_run(tmp_path))
    assert [str(r.outcome) for r in records[:6]] == [
        "ok",
        "bad_answer",
        "stream_error",
        "http_error",
        "http_error",
        "ok",
    ]
    assert "vLLM returned HTTP 400" in (records[2].error or "")
    assert records[3].retry_after_s == 10.0


def test_a_wrong_key_and_a_wrong_id_are_told_apart(tmp_path: Path) -> None:
    with serverless(Serverless()) as url:
        refused = asked(url, *MODEL, out=tmp_path, RUNPOD_KEY="rpa_another_one_0000")
        nowhere = asked(url.replace(ENDPOINT, "nobody"), *MODEL, out=tmp_path)
    assert (refused.code, nowhere.code) == (3, 3)
    assert "refuses the key that was given (HTTP 401: unauthorized)" in refused.line
    assert "rpa_another" not in refused.all
    assert "knows no endpoint" in nowhere.line


def test_limits_of_a_worker_are_told_and_a_worker_that_comes_late_is_seen(tmp_path: Path) -> None:
    with serverless(Serverless(start_s=0.0, late_worker_at=40)) as url:
        done = asked(url, *MODEL, "--repeat-image", "--requests", "80", "--concurrency", "31", out=tmp_path)
    run = the_run(tmp_path)
    assert {str(r.outcome) for r in holds(done, run)} == {"ok"}
    assert "MAX_CONCURRENCY" in done.err
    gates = {gate["code"]: gate for gate in findings(run)["gates"]}  # type: ignore[attr-defined]
    assert "1 to 2" in gates["workers_changed"]["fact"]
    assert "MAX_CONCURRENCY" in gates["endpoint_limits"]["fact"]
