"""Facts from logs: our own recordings, one line of each wording in each wrapping, and lines that must tell nothing."""

from __future__ import annotations

import json

import pytest
from serverlog import LOGS, WORDED, WRAPPED, recorded, start, told

from client.core.facts import read_cache_config, read_log
from client.core.wordings import WORDINGS

RECORDED: dict[str, dict[str, object]] = {
    "vllm-0.20.2-h100-bf16": {
        "version": "0.20.2", "model": "qwen2-vl-7b-shape", "quantization": None, "weights_gib": 15.53, "load_s": 0.904997,
        "kv_cache_gib": 16.87, "kv_cache_tokens": 315_888, "max_concurrency": 77.12, "max_model_len": 4096, "graphs_gib": 0.61,
        "graphs_estimated_gib": 0.46, "graphs_in_budget": True, "utilization": 0.45, "prefix_caching": True, "device": "cuda",
        "compile_s": 33.41, "engine_s": 62.7, "kernels": (), "complete": True, "starts": 1, "errors": (), "notes": (),
    },
    "vllm-0.20.2-h100-fp8": {
        "version": "0.20.2", "quantization": "fp8", "weights_gib": 8.79, "load_s": 2.119273, "kv_cache_gib": 23.62, "kv_cache_tokens": 442_224,
        "max_concurrency": 107.96, "graphs_gib": 0.55, "compile_s": 47.3, "engine_s": 76.66, "marlin_warning": None,
        "kernels": ("CutlassFP8ScaledMMLinearKernel for Fp8OnlineLinearMethod",), "complete": True,
    },
    "vllm-0.32.0-cpu-bf16": {
        "version": "0.32.0", "weights_gib": None, "kv_cache_gib": 1.0, "kv_cache_tokens": 1_048_576, "max_concurrency": 256.0,
        "max_model_len": 4096, "device": "cpu", "engine_s": 86.76, "utilization": None, "complete": True, "starts": 1,
    },
    "vllm-0.32.0-cpu-fp8_per_channel": {
        "quantization": "fp8_per_channel", "kernels": ("ChannelWiseTorchFP8ScaledMMLinearKernel for Fp8PtpcOnlineLinearMethod",),
        "quantize_s": 0.0, "complete": True, "errors": (),
    },
    "vllm-0.32.0-cpu-fp8": {"complete": False, "starts": 1, "kv_cache_gib": None},
    "vllm-0.32.0-cpu-fp8_per_block": {"complete": False, "starts": 1, "kernels": ()},
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_logs(name: str) -> None:
    facts = read_log(recorded(name))
    assert {field: getattr(facts, field) for field in RECORDED[name]} == RECORDED[name]


def test_each_figure_carries_its_line() -> None:
    facts = read_log(recorded("vllm-0.20.2-h100-fp8"))
    assert facts.lines["weights_gib"] == "Model loading took 8.79 GiB memory and 2.119273 seconds"
    assert facts.lines["kv_cache_tokens"] == "GPU KV cache size: 442,224 tokens"
    assert facts.lines["version"].endswith("version 0.20.2")
    assert facts.engine_args["gpu_memory_utilization"] == 0.45


def test_the_quantised_layers_are_listed() -> None:
    told = read_log(recorded("vllm-0.32.0-cpu-fp8_per_channel")).quantized_layers
    assert told is not None
    assert told.startswith("Quantizing 18 layers of types: ")
    assert "self_attn.qkv_proj: 2 (from linear: fp8_per_channel_static)" in told


def test_a_failed_start_tells_its_root_cause_first() -> None:
    block = read_log(recorded("vllm-0.32.0-cpu-fp8_per_block"))
    assert block.errors[0].startswith(
        "ValueError: Failed to find a kernel that can implement the ScaledMM linear layer. Reasons:"
    )
    assert "CPUFp8BlockScaledMMKernel requires AMX tile support" in block.errors[0]
    plain = read_log(recorded("vllm-0.32.0-cpu-fp8"))
    assert plain.errors[0].startswith("RuntimeError: _C::static_scaled_fp8_quant() expected at most 0")


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_every_wording_in_every_wrapping(wrapping: str) -> None:
    for message, fields in WORDED:
        assert told(WRAPPED[wrapping].format(message) + "\n") == fields, message


def test_every_wording_as_json() -> None:
    for message, fields in WORDED:
        record = {
            "asctime": "2026-11-25 00:41:51",
            "levelname": "INFO",
            "name": "vllm",
            "processName": "MainProcess",
            "process": 7,
            "message": message,
            "vllm_process_name": "EngineCore",
        }
        assert told(json.dumps(record)) == fields
        docker = {"log": WRAPPED["0.20"].format(message) + "\n", "stream": "stdout", "time": "2026-11-25T00:41:51.1Z"}
        assert told(json.dumps(docker)) == fields


def test_every_pattern_is_needed_by_some_line() -> None:
    unused = [
        w.pattern.pattern
        for w in WORDINGS
        if not any(m.startswith(w.starts) and w.pattern.search(m) for m, _ in WORDED)
    ]
    assert unused == []


def test_a_json_message_of_several_lines_is_read_line_by_line() -> None:
    record = {
        "levelname": "INFO",
        "message": "Memory profiling takes 1.0 seconds\nmodel weights take 8.51GiB; non_torch_memory takes 0.26GiB;",
    }
    assert told(json.dumps(record)) == {"weights_gib": 8.51, "non_torch_gib": 0.26}


@pytest.mark.parametrize(
    "line",
    [
        "Loading weights took 2.5 GiB of download",
        "Loading model weights took 44.5s",
        "Model loading took a while",
        "I saw Available KV cache memory: 4.87 GiB in a blog",
        "prompt: 'Available KV cache memory: 99 GiB'",
        "INFO 11-25 00:41:57 [logger.py:39] Received request x: prompt: 'GPU KV cache size: 1 tokens'",
        "Available KV cache memory: lots GiB",
        "Available KV cache memory: 1e300 GiB",
        "GPU KV cache usage: 0.7%",
        "GPU KV cache size: none tokens",
        "Engine 000: Avg prompt throughput: 1230.9 tokens/s, GPU KV cache usage: 0.0%, Prefix cache hit rate: 47.1%",
        "Maximum concurrency for all tokens per request",
        "Using cache directory: /cache/torch_compile_cache for vLLM's torch.compile",
        "Dynamo bytecode transform time: 16.00 s",
        "Graph capturing finished, took no time",
        "Selected channel for output",
        "model version 0.99.9 loaded",
        "weights_gib=5",
        "",
        "\x00\x00\x00",
    ],
)
def test_lines_that_tell_nothing(line: str) -> None:
    assert told(line) == {}


def test_the_exact_utilization_is_the_one_that_was_asked_for() -> None:
    log = "non-default args: {'gpu_memory_utilization': 0.456}\nthe current vLLM instance can use total_gpu_memory (40.00GiB) x gpu_memory_utilization (0.46) = 18.24GiB\n"
    assert read_log(log).utilization == 0.456


def test_merged_weights_and_non_torch_are_taken_apart() -> None:
    facts = read_log(
        "Model loading took 1.9 GiB memory and 1 seconds\n"
        + next(message for message, _ in WORDED if "consumed memory" in message)
    )
    assert (facts.weights_gib, facts.non_torch_gib) == (1.9, 0.2)


def test_arguments_that_are_no_python_are_read_pair_by_pair() -> None:
    line = "non-default args: {'model': 'a\\xz', 'port': 007, 'served_model_name': ['x', 'y'], 'enforce_eager': True, 'ratio': 0.5, 'o': <X>}"
    assert read_log(line).engine_args == {
        "model": "a\\xz",
        "port": 7,
        "served_model_name": ["x", "y"],
        "enforce_eager": True,
        "ratio": 0.5,
    }


def test_cache_config() -> None:
    labels = read_cache_config((LOGS / "vllm-0.20.2-h100-bf16.metrics.txt").read_text())
    assert labels is not None
    assert (labels["block_size"], labels["num_gpu_blocks"], labels["gpu_memory_utilization"]) == ("16", "19743", "0.45")
    cpu = read_cache_config((LOGS / "vllm-0.32.0-cpu.metrics.txt").read_text())
    assert cpu is not None
    assert cpu["kv_cache_size_tokens"] == "1048576"


@pytest.mark.parametrize(
    "page", ["", "nothing", 'vllm:cache_config_info{a="b', "vllm:cache_config_info{} x", "vllm:cache_config_info{a=} 1"]
)
def test_pages_without_a_cache_config(page: str) -> None:
    assert read_cache_config(page) in (None, {})


def test_a_bare_line_after_a_progress_bar() -> None:
    assert told("Capturing: 100%|##| 51/51\rModel loading took 1.5 GiB memory and 1 seconds") == {
        "weights_gib": 1.5,
        "load_s": 1.0,
    }


@pytest.mark.parametrize(
    "stamp",
    [
        "2026-11-25T00:41:51.123456789Z ",
        "vllm-fp8-1  | ",
        "2026-11-25T00:41:51.1+01:00 stderr F ",
        "[rank0]: ",
    ],
)
def test_lines_without_a_head_lose_what_containers_put_before_them(stamp: str) -> None:
    log = "".join(stamp + line + "\n" for line in start(1.0).splitlines())
    assert read_log(log).complete
    failing = start(1.0, ends=False) + stamp + "ValueError: no room\n"
    assert read_log(failing).errors == ("ValueError: no room",)


def test_a_long_prefix_of_the_user_s_is_passed_over() -> None:
    assert told("x" * 300 + " INFO 11-25 00:00:00 [a.py:1] Available KV cache memory: 4.87 GiB") == {
        "kv_cache_gib": 4.87
    }
    assert told("x" * 500 + " INFO 11-25 00:00:00 [a.py:1] Available KV cache memory: 4.87 GiB") == {}
