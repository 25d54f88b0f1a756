"""Log lines of a vLLM server: our own recordings, each wording with the fields that it gives, each way to wrap a line."""

from __future__ import annotations

from pathlib import Path

import msgspec

from client.core.facts import read_log

LOGS = Path(__file__).parent.parent / "golden" / "logs"


def recorded(name: str) -> str:
    return (LOGS / f"{name}.log").read_text()


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


def start(weights: float, *, ends: bool = True) -> str:
    text = "INFO 11-25 00:00:00 [u.py:1] vLLM API server version 0.11.0\nINFO 11-25 00:00:00 [c.py:1] Initializing a V1 LLM engine (v0.11.0) with config: model='m', quantization=None\n"
    text += f"INFO 11-25 00:00:01 [r.py:1] Model loading took {weights} GiB and 1 seconds\n"
    return text + ("INFO:     Application startup complete.\nINFO: 1.2.3.4 - GET /health\n" if ends else "")
