"""Facts from logs: our own recordings, one line of each wording in each wrapping, and lines that must tell nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.facts import TargetFacts, read_cache_config, read_lines, read_log
from client.core.wordings import WORDINGS

LOGS = Path(__file__).parent.parent / "golden" / "logs"

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


def recorded(name: str) -> str:
    return (LOGS / f"{name}.log").read_text()


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


# message -> fields that it must give, alone
WORDED: list[tuple[str, dict[str, object]]] = [
    ("Loading model weights took 15.5083 GB", {"weights_gib": 15.5083}),
    ("Model loading took 8.6253 GB and 7.670299 seconds", {"weights_gib": 8.6253, "load_s": 7.670299}),
    ("Model loading took 15.5271 GiB and 9.123456 seconds", {"weights_gib": 15.5271, "load_s": 9.123456}),
    ("Model loading took 15.53 GiB memory and 0.904997 seconds", {"weights_gib": 15.53, "load_s": 0.904997}),
    ("Model loading took 8.8 GiB memory and 61 seconds", {"weights_gib": 8.8, "load_s": 61.0}),
    ("Loading weights took 2.41 seconds", {"read_s": 2.41}),
    ("Online quantization as part of model loading took 1.25 seconds", {"quantize_s": 1.25}),
    ("Available KV cache memory: 4.87 GiB", {"kv_cache_gib": 4.87}),
    ("Available KV cache memory: -2.81 GiB", {"kv_cache_gib": -2.81}),
    ("Initial free memory 93.95 GiB, reserved 4.0 GiB memory for KV Cache as specified by kv_cache_memory_bytes config and skipped memory profiling.", {"kv_cache_gib": 4.0}),
    ("Explicitly set (1.0/9.21) GiB for KV cache on node 0.", {"kv_cache_gib": 1.0}),
    ("GPU KV cache size: 91,189 tokens", {"kv_cache_tokens": 91_189, "device": "gpu"}),
    ("GPU KV cache size: 70,240 tokens, Maximum concurrency for 2,048 tokens per request: 34.30x", {"kv_cache_tokens": 70_240, "max_model_len": 2048, "max_concurrency": 34.3, "device": "gpu"}),
    ("CPU KV cache size: 1,048,576 tokens, Maximum concurrency for 4,096 tokens per request: 256.00x", {"kv_cache_tokens": 1_048_576, "max_model_len": 4096, "max_concurrency": 256.0, "device": "cpu"}),
    ("Maximum concurrency for 4,096 tokens per request: 22.26x", {"max_model_len": 4096, "max_concurrency": 22.26}),
    ("Maximum concurrency for 2048 tokens per request: 5.59x", {"max_model_len": 2048, "max_concurrency": 5.59}),
    ("# GPU blocks: 715, # CPU blocks: 1310", {"num_gpu_blocks": 715}),
    ("# cuda blocks: 14815, # CPU blocks: 1966", {"num_gpu_blocks": 14_815}),
    ("# GPU blocks: 33660", {"num_gpu_blocks": 33_660}),
    ("the current vLLM instance can use total_gpu_memory (79.25GiB) x gpu_memory_utilization (0.15) = 11.89GiB", {"total_gib": 79.25, "utilization": 0.15, "budget_gib": 11.89}),
    (
        "model weights take 8.51GiB; non_torch_memory takes 0.26GiB; PyTorch activation peak memory takes 0.94GiB; the rest of the memory reserved for KV Cache is 2.18GiB.",
        {"weights_gib": 8.51, "non_torch_gib": 0.26, "activations_gib": 0.94, "kv_cache_gib": 2.18},
    ),
    (
        "Memory profiling takes 3.20 seconds. the current vLLM instance can use total_gpu_memory (23.57GiB) x gpu_memory_utilization (0.90) = 21.21GiB; "
        "model weights take 7.63GiB; non_torch_memory takes -0.08GiB; PyTorch activation peak memory takes 1.40GiB; the rest of the memory reserved for KV Cache is 12.10GiB.",
        {"total_gib": 23.57, "utilization": 0.9, "budget_gib": 21.21, "weights_gib": 7.63, "non_torch_gib": -0.08, "activations_gib": 1.4, "kv_cache_gib": 12.1},
    ),
    ("Initial free memory: 46.40 GiB; Requested memory: 0.500000 (util), 23.75 GiB", {"utilization": 0.5, "budget_gib": 23.75}),
    ("Initial free memory: 47.02 GiB, free memory: 28.10 GiB, requested GPU memory: 42.75 GiB", {"budget_gib": 42.75}),
    ("Chunked prefill is enabled with max_num_batched_tokens=8192.", {"batched_tokens": 8192}),
    (
        "Memory profiling takes 11.20 seconds. Total non KV cache memory: 20.19GiB; torch peak memory increase: 1.42GiB; non-torch forward increase memory: 0.51GiB; weights memory: 18.26GiB.",
        {"activations_gib": 1.42, "non_torch_gib": 0.51, "weights_gib": 18.26},
    ),
    ("Memory profiling results: total_gpu_memory=79.10GiB", {"total_gib": 79.1}),
    ("non_torch_memory=0.18GiB kv_cache_size=54.93GiB", {"non_torch_gib": 0.18, "kv_cache_gib": 54.93}),
    ("gpu_memory_utilization=0.90", {"utilization": 0.9}),
    (
        "Free memory on device (78.6/79.2 GiB) on startup. Desired GPU memory utilization is (0.9, 71.28 GiB). Actual usage is 37.99 GiB for weight, 4.71 GiB for peak activation, "
        "1.84 GiB for non-torch memory, and 0.3 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=1` (2.2 GiB) to fit into requested memory. Current kv cache memory in use is 26.5 GiB.",
        {"total_gib": 79.2, "utilization": 0.9, "budget_gib": 71.28, "weights_gib": 37.99, "activations_gib": 4.71, "non_torch_gib": 1.84, "graphs_gib": 0.3, "kv_cache_gib": 26.5},
    ),
    (
        "Free memory on device (4.95/6.0 GiB) on startup. Desired GPU memory utilization is (0.79, 4.74 GiB). Actual usage is 2.1 GiB for consumed memory (weights + non-torch), "
        "0.22 GiB for peak activation, and 0.07 GiB for CUDAGraph memory.",
        {"total_gib": 6.0, "utilization": 0.79, "budget_gib": 4.74, "activations_gib": 0.22, "graphs_gib": 0.07},
    ),
    ("Graph capturing finished in 13 secs, took 0.27 GiB", {"graphs_s": 13.0, "graphs_gib": 0.27}),
    ("Estimated CUDA graph memory: 0.46 GiB total", {"graphs_estimated_gib": 0.46}),
    ("CUDA graph pool memory: 0.61 GiB (actual), 0.46 GiB (estimated), difference: 0.14 GiB (23.5%).", {"graphs_gib": 0.61, "graphs_estimated_gib": 0.46}),
    ("torch.compile takes 30.03 s in total", {"compile_s": 30.03}),
    ("torch.compile took 33.41 s in total", {"compile_s": 33.41}),
    ("[backbone] torch.compile took 12 s in total", {"compile_s": 12.0}),
    ("init engine (profile, create kv cache, warmup model) took 17.27 seconds", {"engine_s": 17.27}),
    ("init engine (profile, create kv cache, warmup model) took 76.66 s (compilation: 47.30 s)", {"engine_s": 76.66, "compile_s": 47.3}),
    ("init engine (profile, create kv cache, warmup model) took 9 s (compilation: 4.5 s — language_model: 3.0, encoder: 1.5)", {"engine_s": 9.0, "compile_s": 4.5}),
    ("vLLM API server version 0.6.3.post1", {"version": "0.6.3.post1"}),
    ("Using max model len 4096", {"max_model_len": 4096}),
    ("Encoder cache will be initialized with a budget of 16384 tokens, and profiled with 1 image items of the maximum feature size.", {"encoder_profile": "budget of 16384 tokens, and profiled with 1 image items of the maximum feature size."}),
    ("Quantizing 18 layers of types: attn.qkv: 2 (from linear: fp8_per_tensor_static)", {"quantized_layers": "Quantizing 18 layers of types: attn.qkv: 2 (from linear: fp8_per_tensor_static)"}),
    ("Selected MarlinFP8ScaledMMLinearKernel for Fp8LinearMethod", {"kernels": ("MarlinFP8ScaledMMLinearKernel for Fp8LinearMethod",)}),
    ("Using MarlinLinearKernel for GPTQMarlinLinearMethod", {"kernels": ("MarlinLinearKernel for GPTQMarlinLinearMethod",)}),
    (
        "Initializing an LLM engine (v0.6.3) with config: model='Qwen/Qwen2-VL-7B-Instruct', speculative_config=None, dtype=torch.bfloat16, max_seq_len=4096, "
        "tensor_parallel_size=1, quantization=fp8, enforce_eager=False, kv_cache_dtype=auto, device_config=cuda, enable_prefix_caching=False",
        {"version": "0.6.3", "model": "Qwen/Qwen2-VL-7B-Instruct", "max_model_len": 4096, "dtype": "bfloat16", "tensor_parallel": 1, "quantization": "fp8", "cache_dtype": "auto", "device": "cuda", "prefix_caching": False},
    ),
    (
        "Your GPU does not have native support for FP8 computation but FP8 quantization is being used. Weight-only FP8 compression will be used leveraging the Marlin kernel.",
        {"marlin_warning": "Your GPU does not have native support for FP8 computation but FP8 quantization is being used. Weight-only FP8 compression will be used leveraging the Marlin kernel."},
    ),
    ("non-default args: {'model': 'm', 'quantization': 'fp8', 'gpu_memory_utilization': 0.5}", {"model": "m", "quantization": "fp8", "utilization": 0.5}),
    ("args: Namespace(host=None, port=8000, model='m', quantization='fp8', gpu_memory_utilization=0.5, api_key=None)", {"model": "m", "quantization": "fp8", "utilization": 0.5}),
    ("non-default args: {'model': 'm', 'compilation_config': <CompilationMode.NONE: 0>, 'gpu_memory_utilization': 0.5}", {"model": "m", "utilization": 0.5}),
]  # fmt: skip

WRAPPED = {
    "bare": "{}",
    "0.6": "INFO 12-22 10:55:34 model_runner.py:1097] {}",
    "0.8": "INFO 07-02 17:08:12 [worker.py:267] {}",
    "0.11, always coloured": "\x1b[1;36m(EngineCore_DP0 pid=11)\x1b[0;0m INFO 09-28 21:12:51 [v1/worker/gpu_worker.py:391] {}",
    "pasted colours": "[1;36m(EngineCore_DP0 pid=11)[0;0m INFO 09-28 21:12:51 [gpu_worker.py:391] {}",
    "coloured level": "(EngineCore pid=7) \x1b[32mINFO\x1b[0m 11-25 00:41:57 [gpu_worker.py:440] {}",
    "0.20": "(EngineCore pid=1253) INFO 11-25 00:41:51 [gpu_worker.py:440] {}",
    "tensor parallel": "(Worker_TP0 pid=3) INFO 11-25 00:41:51 [gpu_worker.py:440] {}",
    "tensor parallel, 0.10": "(VllmWorker TP0 pid=3) INFO 08-25 00:41:51 [gpu_worker.py:440] {}",
    "no bracket, no date": "(EngineCore pid=258) INFO gpu_worker.py:440 {}",
    "quoted in an issue": "> INFO 03-17 16:21:39 model_runner.py:1115] {}",
    "ray": "(RayWorkerWrapper pid=391, ip=10.0.0.3) INFO 03-29 01:24:36 worker.py:272] {}",
    "debug": "(EngineCore pid=9) DEBUG 11-25 00:41:51 [gpu_worker.py:440] {}",
    "user's prefix": "[bf16 arm] INFO 11-25 00:41:51 [gpu_worker.py:440] {}",
    "docker timestamps": "2026-11-25T00:41:51.123456789Z (EngineCore pid=1) INFO 11-25 00:41:51 [gpu_worker.py:440] {}",
    "compose": "vllm-fp8-1  | (EngineCore pid=1) INFO 11-25 00:41:51 [gpu_worker.py:440] {}",
    "kubernetes": "2026-11-25T00:41:51.123456789+00:00 stdout F (EngineCore pid=1) INFO 11-25 00:41:51 [gpu_worker.py:440] {}",
    "windows line end": "INFO 11-25 00:41:51 [gpu_worker.py:440] {}\r",
    "after a progress bar": "Capturing CUDA graphs: 100%|█████| 51/51 [00:02<00:00]\rINFO 11-25 00:41:51 [gpu_worker.py:440] {}",
}


def told(text: str) -> dict[str, object]:
    """Fields that are set, without the book-keeping."""
    facts = msgspec.structs.asdict(read_log(text))
    own = {"engine_args", "lines", "starts", "complete", "notes", "errors", "graphs_in_budget"}
    return {field: value for field, value in facts.items() if field not in own and value not in (None, ())}


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


def start(weights: float, *, ends: bool = True) -> str:
    text = "INFO 11-25 00:00:00 [u.py:1] vLLM API server version 0.11.0\nINFO 11-25 00:00:00 [c.py:1] Initializing a V1 LLM engine (v0.11.0) with config: model='m', quantization=None\n"
    text += f"INFO 11-25 00:00:01 [r.py:1] Model loading took {weights} GiB and 1 seconds\n"
    return text + ("INFO:     Application startup complete.\nINFO: 1.2.3.4 - GET /health\n" if ends else "")


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


def test_the_exact_utilization_is_the_one_that_was_asked_for() -> None:
    log = "non-default args: {'gpu_memory_utilization': 0.456}\nthe current vLLM instance can use total_gpu_memory (40.00GiB) x gpu_memory_utilization (0.46) = 18.24GiB\n"
    assert read_log(log).utilization == 0.456


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


def test_a_negative_cache_is_kept_and_said() -> None:
    facts = read_log("Available KV cache memory: -2.81 GiB\n")
    assert facts.kv_cache_gib == -2.81
    assert any("-2.81 GiB" in note for note in facts.notes)


def test_impossible_figures_are_left_out_and_said() -> None:
    facts = read_log(
        "Model loading took -3.0 GiB and 1 seconds\nGPU KV cache size: 999,999,999,999,999 tokens\ngpu_memory_utilization=7.5\n"
    )
    assert (facts.weights_gib, facts.kv_cache_tokens, facts.utilization) == (None, None, None)
    assert len(facts.notes) >= 3


def test_merged_weights_and_non_torch_are_taken_apart() -> None:
    facts = read_log(
        "Model loading took 1.9 GiB memory and 1 seconds\n"
        + next(message for message, _ in WORDED if "consumed memory" in message)
    )
    assert (facts.weights_gib, facts.non_torch_gib) == (1.9, 0.2)


def test_secrets_never_leave_the_log() -> None:
    line = "non-default args: {'model': 'm', 'api_key': ['sk-hush'], 'hf_token': 'hf_hush', 'max_num_batched_tokens': 8192}\n"
    facts = read_log(line)
    assert "hush" not in msgspec.json.encode(facts).decode()
    assert facts.engine_args["max_num_batched_tokens"] == 8192


def test_nothing_that_a_terminal_obeys_comes_out() -> None:
    log = (
        "non-default args: {'model': 'a\\x1b]0;owned\\x07\\u202eb', '\\x9b1m': 1}\n"
        "INFO 11-25 00:00:00 [a.py:1] Initializing an LLM engine (v0.6.3) with config: model='m\x1b[2Jx\x07y'\n"
        "ERROR 11-25 00:00:00 [a.py:1] ValueError: \x1b]0;owned\x07 bad\n"
    )
    text = msgspec.json.encode(read_log(log)).decode()
    assert not any(sign in text for sign in ("\\u001b", "\\u0007", "\x9b", "\u202e"))
    assert read_log(log).model == "mxy"


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


@given(st.text(max_size=2000))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_facts(text: str) -> None:
    assert isinstance(read_log(text), TargetFacts)
    read_cache_config(text)
    read_cache_config("vllm:cache_config_info{" + text)


NUMBERISH = st.from_regex(r"-?[0-9.,e+]{1,24}", fullmatch=True)


@given(
    st.sampled_from([message for message, _ in WORDED]),
    st.lists(NUMBERISH, min_size=8, max_size=8),
    st.integers(0, 400),
)
@settings(max_examples=400, deadline=None)
def test_no_wording_gives_an_absurd_figure_silently(message: str, numbers: list[str], cut: int) -> None:
    """Every number of a real line is replaced by nonsense, and the line is cut anywhere."""
    parts = iter(numbers * 20)
    mangled = "".join(next(parts) if piece.isdigit() else piece for piece in _split_digits(message))[: cut or None]
    facts = read_log(mangled)
    for field, value in msgspec.structs.asdict(facts).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if field in ("kv_cache_gib", "non_torch_gib"):
            assert value >= 0 or field != "kv_cache_gib" or facts.notes
            assert abs(value) <= 1e5
        else:
            assert 0 <= value <= 1e12


def _split_digits(text: str) -> list[str]:
    pieces: list[str] = []
    for character in text:
        if pieces and pieces[-1].isdigit() and character.isdigit():
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


HOSTILE = [
    "(" * 60_000, "[" * 60_000, "{" * 60_000, " " * 60_000, "\x1b[" * 30_000, "a" * 60_000 + "Error: ", "non-default args: " + "{'a': " * 10_000,
    "non-default args: " + "[" * 60_000, "args: Namespace(" + "a=" * 30_000, "args: Namespace(" + "a='" * 20_000, "Selected " + "Kernel" * 10_000 + " for x",
    "init engine (" + ") took " * 8_000, "Free memory on device " + "(" * 60_000, "Quantizing 1 layers of types: " + "x" * 60_000,
    "Memory profiling takes " + "1" * 60_000, "█ version " + "1." * 30_000, "INFO " * 12_000, "Initializing an LLM engine (v0.6.3) " + "model='" * 8_000,
    "{\"message\": \"" + "\\u0000" * 9_000 + "\"}", "{\"message\": " * 5_000, "api_key" * 8_000 + " took GiB non-default args: ", "token: " * 8_000 + "GiB",
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_lines_cost_no_more_than_their_length(line: str) -> None:
    """60 kB each, ten times: well under the second even on a slow machine; a quadratic pattern would take minutes."""
    begin = time.process_time()
    read_log("\n".join([line] * 10))
    assert time.process_time() - begin < 3.0


def test_a_huge_line_is_cut() -> None:
    begin = time.process_time()
    assert told("Model loading took 5.0 GiB and 1 seconds " + "x" * 20_000_000) == {"weights_gib": 5.0, "load_s": 1.0}
    assert time.process_time() - begin < 2.0


def test_a_long_log_is_read_in_linear_time_and_flat_memory() -> None:
    """20 MB of what a busy server writes, as a stream."""
    access = '(APIServer pid=1) INFO:     127.0.0.1:51236 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
    begin = time.process_time()
    facts = read_lines(
        line
        for text in (recorded("vllm-0.20.2-h100-fp8").splitlines(), (access for _ in range(220_000)))
        for line in text
    )
    assert facts.weights_gib == 8.79
    assert time.process_time() - begin < 5.0


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
