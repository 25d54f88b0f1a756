"""The sentences in which vLLM 0.6 to 0.33 tells where memory and time went.

A wording is how a message must begin, and the pattern to search in it; the names of its groups are fields of `TargetFacts`.
Patterns start with literal text and repeat only bounded classes: their cost is linear in the line. "GB" is GiB in all of them: vLLM
divides by 2**30 (model_runner.py of 0.6, "Loading model weights took %.4f GB").
"""

from __future__ import annotations

import re
from typing import NamedTuple

NUMBER = r"-?\d{1,12}(?:\.\d{1,9})?"
COUNT = r"\d[\d,]{0,15}"


class Wording(NamedTuple):
    starts: tuple[str, ...]
    pattern: re.Pattern[str]


def _wording(*starts: str, then: str) -> Wording:
    return Wording(starts, re.compile(then.replace("NUM", NUMBER).replace("INT", COUNT)))


_PROFILE = (
    "Memory profiling takes",
    "Memory profiling results",
    "the current vLLM instance",
    "model weights take",
    "non_torch_memory",
    "PyTorch activation",
    "the rest of the memory",
    "initial_memory_usage",
    "peak_torch_memory",
    "memory_usage_post_profile",
    "gpu_memory_utilization=",
)
_USAGE = ("Free memory on device", "Actual usage is")
_COMPILE = ("torch.compile ", "[backbone] torch.compile ")

WORDINGS: tuple[Wording, ...] = (
    # Weights. 0.6-0.7: "Loading model weights took 15.5083 GB"; 0.8-0.11: "Model loading took 15.5271 GiB and 9.1 seconds"; then "15.53 GiB memory and".
    _wording(
        "Model loading took",
        "Loading model weights took",
        then=r"took (?P<weights_gib>NUM) Gi?B(?: memory)?(?: and (?P<load_s>NUM) seconds?)?",
    ),
    _wording("Loading weights took", then=r"took (?P<read_s>NUM) s"),
    _wording("Online quantization as part of model loading", then=r"took (?P<quantize_s>NUM) s"),
    # KV cache, in bytes.
    _wording("Available KV cache memory", then=r": (?P<kv_cache_gib>NUM) Gi?B"),
    _wording("Initial free memory", "reserved ", then=r"reserved (?P<kv_cache_gib>NUM) GiB memory for KV Cache"),
    _wording("Explicitly set (", then=r"set \((?P<kv_cache_gib>NUM)/NUM\) GiB for KV cache"),
    # KV cache, in tokens: two lines until 0.28, one from 0.29.
    _wording(
        "GPU KV cache size:",
        "CPU KV cache size:",
        "XPU KV cache size:",
        then=r"(?P<device>[A-Z]{3}) KV cache size: (?P<kv_cache_tokens>INT) tokens"
        r"(?:, Maximum concurrency for (?P<max_model_len>INT) tokens per request: (?P<max_concurrency>NUM)x)?",
    ),
    _wording(
        "Maximum concurrency for ",
        then=r"for (?P<max_model_len>INT) tokens per request: (?P<max_concurrency>NUM)x",
    ),
    _wording("# GPU blocks:", "# cuda blocks:", "# CUDA blocks:", then=r"blocks: (?P<num_gpu_blocks>INT)"),
    # The memory profile of 0.6 to 0.9 (INFO) and of later versions (DEBUG), one line or several.
    _wording(*_PROFILE, then=r"total_gpu_memory \((?P<total_gib>NUM)GiB\)"),
    _wording(
        *_PROFILE,
        then=r"x gpu_memory_utilization \((?P<utilization>NUM)\) = (?P<budget_gib>NUM)GiB",
    ),
    _wording(*_PROFILE, then=r"model weights take (?P<profiled_weights_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"non_torch_memory takes (?P<non_torch_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"PyTorch activation peak memory takes (?P<activations_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"reserved for KV Cache is (?P<kv_cache_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"torch peak memory increase: (?P<activations_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"non-torch forward increase memory: (?P<non_torch_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"weights memory: (?P<profiled_weights_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"total_gpu_memory=(?P<total_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"non_torch_memory=(?P<non_torch_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"kv_cache_size=(?P<kv_cache_gib>NUM)GiB"),
    _wording(*_PROFILE, then=r"gpu_memory_utilization=(?P<utilization>NUM)"),
    _wording("Initial free memory", then=r"Requested memory: (?P<utilization>NUM) \(util\), (?P<budget_gib>NUM) GiB"),
    _wording("Initial free memory", then=r"requested GPU memory: (?P<budget_gib>NUM) GiB"),
    # The whole breakdown: DEBUG from 0.11, INFO from 0.27 (there weights and non-torch are one number).
    _wording(*_USAGE, then=r"Free memory on device[\w: ]{0,20} \(NUM/(?P<total_gib>NUM) GiB\)"),
    _wording(*_USAGE, then=r"tilization is \((?P<utilization>NUM), (?P<budget_gib>NUM) GiB\)"),
    _wording(*_USAGE, then=r"Actual usage is (?P<profiled_weights_gib>NUM) GiB for weight,"),
    _wording(*_USAGE, then=r"Actual usage is (?P<consumed_gib>NUM) GiB for consumed memory"),
    _wording(*_USAGE, then=r", (?P<activations_gib>NUM) GiB for peak activation"),
    _wording(*_USAGE, then=r", (?P<non_torch_gib>NUM) GiB for non-torch memory"),
    _wording(*_USAGE, then=r" (?P<graphs_gib>NUM) GiB for CUDAGraph memory"),
    _wording(*_USAGE, then=r"Current kv cache memory in use is (?P<kv_cache_gib>NUM) GiB"),
    # CUDA graphs.
    _wording(
        "Graph capturing finished",
        then=r"finished in (?P<graphs_s>NUM) secs?, took (?P<graphs_gib>NUM) GiB",
    ),
    _wording("Estimated CUDA graph memory:", then=r": (?P<graphs_estimated_gib>NUM) GiB"),
    _wording(
        "CUDA graph pool memory:",
        then=r": (?P<graphs_gib>NUM) GiB \(actual\), (?P<graphs_estimated_gib>NUM) GiB \(estimated\)",
    ),
    # Time.
    _wording(*_COMPILE, then=r"torch\.compile (?:takes|took) (?P<compile_s>NUM) s"),
    _wording("init engine (", then=r"\) took (?P<engine_s>NUM) s"),
    _wording("init engine (", then=r"\(compilation: (?P<compile_s>NUM) s"),
    # What it is.
    _wording("vLLM API server version", then=r"version (?P<version>\d[\w.+-]{2,40})"),
    _wording("Initializing a", then=r"LLM engine \(v(?P<version>\d[\w.+-]{2,40})\)"),
    _wording("Using max model len", then=r"len (?P<max_model_len>INT)"),
    _wording("Chunked prefill is enabled", then=r"max_num_batched_tokens=(?P<batched_tokens>INT)"),
    _wording("Initializing a", then=r"\bdtype=(?:torch\.)?(?P<dtype>\w{4,10})"),
    _wording("Initializing a", then=r"\bmax_seq_len=(?P<max_model_len>INT)"),
    _wording("Initializing a", then=r"\btensor_parallel_size=(?P<tensor_parallel>INT)"),
    _wording("Initializing a", then=r"\bmodel='(?P<model>[^']{1,300})'"),
    _wording("Initializing a", then=r"\bquantization=(?P<quantization>[\w-]{1,60})"),
    _wording("Initializing a", then=r"\bkv_cache_dtype=(?P<cache_dtype>[\w.-]{1,40})"),
    _wording("Initializing a", then=r"\benable_prefix_caching=(?P<prefix_caching>True|False)"),
    _wording("Initializing a", then=r"\bdevice_config=(?P<device>\w{2,10})"),
    _wording("Quantizing ", then=r"(?P<quantized_layers>Quantizing \d{1,6} layers of types: .{1,2000})"),
    _wording("Encoder cache will be", then=r"(?P<encoder_profile>budget of \d{1,9} tokens.{0,120})"),
    _wording("Your GPU does not have native support for FP8", then=r"(?P<marlin_warning>Your GPU .{1,300})"),
)

STARTS = tuple(dict.fromkeys(start for wording in WORDINGS for start in wording.starts))

BANNER = re.compile(r"[█▄▀] {1,4}version (\d[\w.+-]{2,40})")
BANNER_MODEL = re.compile(r"[█▄▀] {1,4}model {1,4}(\S{1,300})")
KERNEL = re.compile(r"(?:Selected|Using) (\w{0,80}Kernel\w{0,80}) for (\w{1,120})")
GRAPHS_IN_BUDGET = "CUDA graph memory profiling is enabled"
GRAPHS_OUTSIDE = ("CUDA graph memory profiling is disabled", "In v0.19, CUDA graph memory profiling will be enabled")
SECRET = re.compile(
    r"(['\"]?\w{0,30}(?:api_key|token|secret|password)['\"]?(?:: |=))(\[[^\]]{0,500}\]?|'[^']{0,500}'?|[^,})\s]{1,500})"
)
ROOT_CAUSE = re.compile(r"(?:[\w.]{1,120}\.)?[A-Z]\w{0,80}(?:Error|Exception|Exit)(?:: |$)")
USAGE_MISTAKE = re.compile(r"[\w./-]{1,80}: error: ")
SECOND_HAND = (
    "WorkerProc initialization failed",
    "Engine core initialization failed",
    "Engine process failed to start",
    "Timed out waiting for engine",
    "EngineCore encountered an issue",
    "Engine loop is not running",
)
"""Exceptions that only say that another process failed: never the root cause while another is there."""
