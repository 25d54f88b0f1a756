"""Memory of a Qwen2-VL-like model from its config.json alone: weights in bf16 and online FP8, KV cache for each token, requests that fit.

Parameter counts are exact. They follow the modules of transformers' modeling_qwen2_vl.py and modeling_qwen2_5_vl.py:
a decoder layer has q, k, v (with biases), o, and a gated MLP of three matrices, with two RMSNorms; a vision block of Qwen2-VL has qkv, proj,
fc1, fc2 with biases and two LayerNorms, one of Qwen2.5-VL a gated MLP with biases and two RMSNorms; the merger has two linear layers.
Online FP8 makes one byte of each weight of a linear layer and leaves embedding, lm_head, norms, biases and the patch convolution in bf16.
Scales (4 bytes for each tensor or output channel, under 0.1 %) are not counted.
"""

from __future__ import annotations

import math

import msgspec

from client.core.model_config import ModelConfig

GIB = 1 << 30
BLOCK = 16
"""Tokens in one KV cache block of vLLM on a GPU, unless its `/metrics` say otherwise."""

LOADED_EXTRA_GIB = {"bf16": 0.09, "fp8": 0.05}
"""vLLM's own "Model loading took" stands above the exact count: 15.53 GiB against 15.44 (bf16), 8.79 against 8.74 (fp8), with 0.20.2."""

OVERHEAD_GIB = 3.2
"""What is neither weights nor KV cache inside the budget: peak activations, CUDA graphs, CUDA context. Measured 3.23 (bf16) and 3.22 GiB (fp8)
with vLLM 0.20.2 on an H100, --max-model-len 4096 and the default image limits. An assumption for any other set-up: take it from a log instead."""


class Part(msgspec.Struct, frozen=True):
    """`in_fp8`: online FP8 quantises it. `vision`: belongs to the vision tower."""

    name: str
    parameters: int
    in_fp8: bool
    vision: bool = False

    def bytes_as(self, precision: str, vision_in_fp8: bool = True, dtype: str | None = None) -> int:
        small = precision == "fp8" and self.in_fp8 and (vision_in_fp8 or not self.vision)
        return self.parameters * (1 if small else value_bytes(dtype))


class Fit(msgspec.Struct, frozen=True):
    """`kv_cache_gib`, tokens and requests are 0 when the weights leave nothing, and `missing_gib` then says how much is missing.
    `requests` have room in the KV cache; --max-num-seqs may let fewer run."""

    precision: str
    budget_gib: float
    weights_gib: float
    overhead_gib: float
    kv_cache_gib: float
    kv_cache_tokens: int
    requests: int
    missing_gib: float | None = None


def value_bytes(dtype: str | None) -> int:
    """Bytes of one unquantised number: 4 with `--dtype float32`, else 2 (`auto` loads a float32 checkpoint in 16 bits as well)."""
    return 4 if dtype in ("float32", "float") else 2


def parts(config: ModelConfig) -> tuple[Part, ...]:
    """Parameters by part. Their sum is the number of parameters of the checkpoint."""
    return (*_decoder(config), *_vision(config))


def _decoder(config: ModelConfig) -> tuple[Part, ...]:
    hidden, layers = config.hidden, config.layers
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = hidden * (q + 2 * kv) + q * hidden
    biases = q + 2 * kv if config.attention_bias else 0
    return (
        Part(
            "embedding" if config.tied else "embedding + lm_head",
            config.vocab * hidden * (1 if config.tied else 2),
            False,
        ),
        Part("decoder layers, linear", layers * (attention + 3 * hidden * config.intermediate), True),
        Part("decoder biases, norms", layers * (biases + 2 * hidden) + hidden, False),
    )


def _vision(config: ModelConfig) -> tuple[Part, ...]:
    vision = config.vision
    if vision is None:
        return ()
    width, inner = vision.width, vision.intermediate
    merged = width * vision.merge**2
    matrices = 3 if vision.gated else 2
    linear = vision.depth * (4 * width * width + matrices * width * inner) + merged * merged + merged * vision.out
    norm = width if vision.gated else 2 * width
    biases = 3 * width + width + (matrices - 1) * inner + width
    rest = vision.depth * (biases + 2 * norm) + norm + merged + vision.out
    patch = width * vision.channels * vision.temporal_patch * vision.patch**2
    return (
        Part("vision linear + merger", linear, True, vision=True),
        Part("vision conv, biases, norms", patch + rest, False, vision=True),
    )


def parameters(config: ModelConfig) -> int:
    return sum(part.parameters for part in parts(config))


def weight_bytes(
    config: ModelConfig, precision: str = "bf16", *, vision_in_fp8: bool = True, dtype: str | None = None
) -> int:
    """Bytes of all weights, unquantised (`bf16`, or whatever `dtype` says) or as online `fp8`. vLLM's online FP8 takes the vision tower too;
    FP8 checkpoints often leave it out."""
    return sum(part.bytes_as(precision, vision_in_fp8, dtype) for part in parts(config))


def kv_bytes_per_token(config: ModelConfig, cache_dtype: str | None = "auto", dtype: str | None = None) -> int:
    """2 (key, value) x layers x KV heads x head size x bytes of a value: 1 with an fp8 cache, else those of `dtype`."""
    cache = cache_dtype or "auto"
    size = 1 if cache.startswith("fp8") else value_bytes(dtype if cache == "auto" else cache)
    return 2 * config.layers * config.kv_heads * config.head_dim * size


def requests_that_fit(kv_cache_tokens: int, request_tokens: float, block: int = BLOCK) -> int:
    """Requests of that many tokens at once: each takes whole blocks."""
    blocks = math.ceil(request_tokens / block)
    return kv_cache_tokens // block // blocks if blocks > 0 else 0


def fit(
    config: ModelConfig,
    *,
    total_gib: float,
    utilization: float,
    request_tokens: float,
    precision: str,
    vision_in_fp8: bool = True,
    cache_dtype: str | None = "auto",
    dtype: str | None = None,
    overhead_gib: float = OVERHEAD_GIB,
) -> Fit:
    """What a card whose torch total is `total_gib` holds: budget - weights - overhead = KV cache, in whole blocks."""
    budget = utilization * total_gib
    weights = (
        weight_bytes(config, precision, vision_in_fp8=vision_in_fp8, dtype=dtype) / GIB + LOADED_EXTRA_GIB[precision]
    )
    left = budget - weights - overhead_gib
    per_block = kv_bytes_per_token(config, cache_dtype, dtype) * BLOCK
    tokens = max(0, int(left * GIB) // per_block) * BLOCK
    return Fit(
        precision=precision,
        budget_gib=budget,
        weights_gib=weights,
        overhead_gib=overhead_gib,
        kv_cache_gib=max(0.0, left),
        kv_cache_tokens=tokens,
        requests=requests_that_fit(tokens, request_tokens),
        missing_gib=-left if left < 0 else None,
    )
