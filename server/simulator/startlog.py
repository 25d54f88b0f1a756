"""The start-up log in the wording of vLLM 0.20.2, and its periodic line. The first line says what this really is."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, TextIO

from server.simulator.engine import Engine
from server.simulator.profile import Profile

VERSION = "0.20.2+simulated"


_copies: list[TextIO] = []


def copy_to(path: Path) -> None:
    """From now on what is said goes to the end of this file too, as a vLLM with a logging configuration of its own does it."""
    _copies.append(path.open("a", buffering=1))


def say(process: str, place: str, text: str, level: str = "INFO") -> None:
    pid = os.getpid() if process == "APIServer" else os.getpid() + 1
    line = f"({process} pid={pid}) {level} {time.strftime('%m-%d %H:%M:%S')} [{place}] {text}"
    print(line, flush=True)
    for copy in _copies:
        print(line, file=copy)


def start_lines(
    profile: Profile, utilization: float, max_model_len: int, served: str, caching: bool
) -> Iterator[tuple[float, tuple[str, ...]]]:
    """(share of the start-up time that has passed, arguments of `say`), in the order of the recorded server."""
    arm = profile.arm
    fp8 = profile.precision == "fp8"
    tokens = profile.kv_blocks(utilization) * profile.model.block_size
    api, core = "APIServer", "EngineCore"
    yield (
        0.0,
        (
            api,
            "sim.py:1",
            f"SIMULATED server: no GPU, no model, no vLLM; profile {profile.name}, precision {profile.precision}.",
        ),
    )
    quant = ", 'quantization': 'fp8'" if fp8 else ""
    prefix = "" if caching else ", 'enable_prefix_caching': False"
    args = f"'model': '{served}', 'dtype': 'bfloat16', 'max_model_len': {max_model_len}{quant}{prefix}, 'gpu_memory_utilization': {utilization}"
    yield 0.0, (api, "utils.py:299", f"version {VERSION} model {served}")
    yield 0.0, (api, "utils.py:233", f"non-default args: {{{args}}}")
    yield 0.02, (api, "model.py:555", "Resolved architecture: Qwen2VLForConditionalGeneration")
    yield 0.02, (api, "model.py:1680", f"Using max model len {max_model_len}")
    batched = profile.model.max_batched_tokens
    yield 0.02, (api, "scheduler.py:239", f"Chunked prefill is enabled with max_num_batched_tokens={batched}.")
    yield 0.05, (api, "vllm.py:840", "Asynchronous scheduling is enabled.")
    config = f"model='{served}', dtype=torch.bfloat16, max_seq_len={max_model_len}, quantization={'fp8' if fp8 else None}, enable_prefix_caching={caching}"
    yield 0.10, (core, "core.py:109", f"Initializing a V1 LLM engine (v{VERSION}) with config: {config}")
    yield 0.12, (core, "gpu_model_runner.py:4777", f"Starting to load model {served}...")
    if fp8:
        yield 0.13, (core, "__init__.py:420", "Selected CutlassFP8ScaledMMLinearKernel for Fp8OnlineLinearMethod")
    yield (
        0.15,
        (
            core,
            "cuda.py:368",
            "Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', 'TRITON_ATTN', 'FLEX_ATTENTION'].",
        ),
    )
    yield (
        0.30,
        (
            core,
            "gpu_model_runner.py:4879",
            f"Model loading took {_gib(arm.weights_gib)} GiB memory and {arm.load_s:.6f} seconds",
        ),
    )
    budget = profile.model.encoder_cache_tokens
    yield (
        0.32,
        (
            core,
            "gpu_model_runner.py:5820",
            f"Encoder cache will be initialized with a budget of {budget} tokens, and profiled with 1 video items of the maximum feature size.",
        ),
    )
    yield 0.70, (core, "monitor.py:53", f"torch.compile took {arm.compile_s:.2f} s in total")
    yield 0.72, (core, "monitor.py:81", "Initial profiling/warmup run took 0.74 s")
    yield (
        0.75,
        (
            core,
            "gpu_model_runner.py:5963",
            "Profiling CUDA graph memory: PIECEWISE=51 (largest=512), FULL=51 (largest=512)",
        ),
    )
    yield (
        0.80,
        (core, "gpu_model_runner.py:6042", f"Estimated CUDA graph memory: {arm.graphs_estimate_gib:.2f} GiB total"),
    )
    yield (
        0.82,
        (core, "gpu_worker.py:440", f"Available KV cache memory: {_gib(profile.kv_bytes(utilization) / 2**30)} GiB"),
    )
    yield 0.82, (core, "kv_cache_utils.py:1708", f"GPU KV cache size: {tokens:,} tokens")
    concurrency = f"Maximum concurrency for {max_model_len:,} tokens per request: {tokens / max_model_len:.2f}x"
    yield 0.82, (core, "kv_cache_utils.py:1709", concurrency)
    yield 0.95, (core, "gpu_model_runner.py:6133", f"Graph capturing finished in 6 secs, took {arm.graphs_gib:.2f} GiB")
    off = arm.graphs_gib - arm.graphs_estimate_gib
    pool = f"CUDA graph pool memory: {arm.graphs_gib:.2f} GiB (actual), {arm.graphs_estimate_gib:.2f} GiB (estimated), difference: {off:.2f} GiB ({off / arm.graphs_gib:.1%})."
    yield 0.95, (core, "gpu_worker.py:599", pool)
    took = f"init engine (profile, create kv cache, warmup model) took {arm.init_s:.2f} s (compilation: {arm.compile_s:.2f} s)"
    yield 0.96, (core, "core.py:299", took)
    yield 0.98, (api, "api_server.py:598", "Supported tasks: ['generate']")


def stats_line(engine: Engine, before: dict[str, int], now: dict[str, int], seconds: float) -> str:
    """Rates over the last period, cache hit rates since the start."""

    def per_second(name: str) -> float:
        return max(0, now[name] - before[name]) / seconds

    def hit_rate(cache: str) -> float:
        return 100 * now[f"{cache}_hits"] / max(1, now[f"{cache}_queries"])

    return (
        f"Engine 000: Avg prompt throughput: {per_second('prompt_tokens'):.1f} tokens/s, "
        f"Avg generation throughput: {per_second('generation_tokens'):.1f} tokens/s, "
        f"Running: {len(engine.running)} reqs, Waiting: {len(engine.waiting)} reqs, "
        f"GPU KV cache usage: {100 * engine.pool.usage:.1f}%, "
        f"Prefix cache hit rate: {hit_rate('prefix_cache'):.1f}%, MM cache hit rate: {hit_rate('mm_cache'):.1f}%"
    )


def _gib(value: float) -> str:
    """Two decimals without trailing zeros, as vLLM 0.20 prints memory."""
    return f"{round(value, 2):g}"


class _Prefixed(logging.Formatter):
    def __init__(self) -> None:
        super().__init__(f"(APIServer pid={os.getpid()}) %(levelname)s:     %(message)s")


class _Access(_Prefixed):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the name is logging's)
        client, method, path, http, status = record.args  # type: ignore[misc]  # uvicorn's five
        phrase = HTTPStatus(int(str(status))).phrase
        record.message = f'{client} - "{method} {path} HTTP/{http}" {status} {phrase}'
        return super().formatMessage(record)


def uvicorn_log_config() -> dict[str, Any]:
    """Uvicorn's own lines on stdout, behind the prefix of the API process."""
    out = {"class": "logging.StreamHandler", "stream": sys.stdout}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"prefixed": {"()": _Prefixed}, "access": {"()": _Access}},
        "handlers": {"out": out | {"formatter": "prefixed"}, "access": out | {"formatter": "access"}},
        "loggers": {
            "uvicorn": {"handlers": ["out"], "level": "INFO", "propagate": False},
            "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        },
    }
