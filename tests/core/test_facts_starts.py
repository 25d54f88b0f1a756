"""Which start of which process a log tells of, and what ended it."""

from __future__ import annotations

import json

from serverlog import recorded, start, told

from client.core.facts import read_lines, read_log


def test_an_exception_printed_loose_is_no_root_cause_while_a_logged_one_is_there() -> None:
    log = start(1.0, ends=False) + (
        "Traceback (most recent call last):\nImportError: no module named optional\n"
        "[rank0]: RuntimeError: from a rank\n"
        "(EngineCore pid=2) ERROR 11-25 00:00:02 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    )
    assert read_log(log).errors == (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "ImportError: no module named optional",
        "RuntimeError: from a rank",
    )


def test_a_mistake_in_the_arguments_is_a_failed_start() -> None:
    assert read_log("usage: api_server.py [-h]\napi_server.py: error: unrecognized arguments: --no-such\n").errors == (
        "api_server.py: error: unrecognized arguments: --no-such",
    )


def test_what_users_write_is_not_read_once_the_server_serves() -> None:
    log = recorded("vllm-0.20.2-h100-bf16")
    serving = (
        log
        + "(APIServer pid=1) INFO 11-25 01:00:00 [x.py:1] Available KV cache memory: 99 GiB\nModel loading took 1.0 GiB\nValueError: no\n"
    )
    assert read_log(serving) == read_log(log)


def test_the_first_line_of_a_process_counts() -> None:
    assert told("Available KV cache memory: 4.87 GiB\nAvailable KV cache memory: 9.99 GiB\n") == {"kv_cache_gib": 4.87}


def test_tensor_parallel_takes_the_largest_weights_and_the_smallest_cache() -> None:
    lines = [
        f"(Worker_TP{rank} pid={rank}) INFO 11-25 00:41:51 [x.py:1] {text}"
        for rank, weights, cache in ((0, 7.9, 10.5), (1, 8.1, 10.2))
        for text in (f"Model loading took {weights} GiB and 1 seconds", f"Available KV cache memory: {cache} GiB")
    ]
    facts = read_lines(lines)
    assert (facts.weights_gib, facts.kv_cache_gib) == (8.1, 10.2)
    assert "2 processes" in facts.notes[0]


def test_the_last_complete_start_wins() -> None:
    facts = read_log(start(1.0) + start(2.0) + start(3.0, ends=False))
    assert (facts.weights_gib, facts.starts, facts.complete) == (2.0, 3, True)
    assert any("3 start-ups" in note for note in facts.notes)


def test_a_failed_restart_is_told() -> None:
    failing = (
        start(3.0, ends=False)
        + "ERROR 11-25 00:00:02 [core.py:1] ValueError: No available memory for the cache blocks.\n"
    )
    facts = read_log(start(2.0) + failing)
    assert (facts.weights_gib, facts.starts) == (2.0, 2)
    assert facts.errors == ("ValueError: No available memory for the cache blocks.",)
    assert any("last start-up in the log failed" in note for note in facts.notes)


def test_only_failures_tell_the_last_one() -> None:
    bad = "ERROR 11-25 00:00:02 [core.py:1] ValueError: number {}.\n"
    facts = read_log(start(1.0, ends=False) + bad.format(1) + start(2.0, ends=False) + bad.format(2))
    assert (facts.weights_gib, facts.starts, facts.complete, facts.errors) == (
        2.0,
        2,
        False,
        ("ValueError: number 2.",),
    )


def test_a_log_that_stops_early_says_so() -> None:
    assert "ends before the start-up was complete" in read_log(start(1.0, ends=False)).notes[0]


def test_two_engines_of_one_server_are_one_start() -> None:
    lines = [
        f"(EngineCore_DP{n} pid={n}) INFO 11-25 00:00:00 [c.py:1] {text}"
        for n in (0, 1)
        for text in (
            "Initializing a V1 LLM engine (v0.20.2) with config: model='m'",
            "Model loading took 1.5 GiB memory and 1 seconds",
        )
    ]
    assert read_lines([*lines, "INFO:     Application startup complete."]).starts == 1


ENGINE = "({} pid=1) INFO 11-25 00:00:00 [core.py:1] Initializing a V1 LLM engine (v0.20.2) with config: model='m'\n"


def test_engine_lines_alone_tell_starts_apart() -> None:
    """Offline use prints no server lines: a repeated line is one start, a line after figures or after the end another."""
    weights = "(EngineCore pid=1) INFO 11-25 00:00:01 [r.py:1] Model loading took {} GiB memory and 1 seconds\n"
    end = "(EngineCore pid=1) INFO 11-25 00:00:02 [core.py:1] init engine (profile, create kv cache, warmup model) took 7 s\n"
    engine = ENGINE.format("EngineCore")
    assert read_log(engine + engine + weights.format(1)).starts == 1
    assert read_log(engine + weights.format(1) + engine + weights.format(2)).starts == 2
    other = read_log(engine + weights.format(1) + end + ENGINE.format("EngineCore_DP0"))
    assert (other.starts, other.weights_gib, other.complete) == (2, 1.0, True)


def test_an_error_of_several_lines_is_joined_whatever_they_say() -> None:
    head = "(Worker pid=1) ERROR 11-25 00:00:02 [core.py:1] "
    log = (
        start(1.0, ends=False)
        + f"{head}ValueError: No plan. Reasons:\n{head}because of the weather\n{head}Traceback (most recent call last):\n{head}lost\n"
    )
    assert read_log(log).errors == ("ValueError: No plan. Reasons: because of the weather",)


def test_the_same_error_of_many_workers_is_told_once() -> None:
    lines = "".join(
        f"(Worker_TP{rank} pid=1) ERROR 11-25 00:00:02 [core.py:1] ValueError: no room\n" for rank in range(8)
    )
    assert read_log(start(1.0, ends=False) + lines).errors == ("ValueError: no room",)


def test_json_records_tell_their_process() -> None:
    lines = [
        json.dumps(
            {
                "levelname": "INFO",
                "message": f"Model loading took {gib} GiB memory and 1 seconds",
                "vllm_process_name": f"Worker_TP{rank}",
            }
        )
        for rank, gib in ((0, 7.9), (1, 8.1))
    ]
    assert read_lines(lines).weights_gib == 8.1
