"""The /metrics page under the names of vLLM 0.20 and later, fed by the engine."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from server.simulator.engine import Engine, Observer, Request, Step

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LONG = [
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
    1920.0,
    7680.0,
]
_TTFT = [
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
    2560.0,
]
_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0]
_STEP = [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0]
_LENGTH = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]

_COUNTERS = {
    "estimated_flops_per_gpu": "Estimated number of floating point operations per GPU (for Model Flops Utilization calculations).",
    "estimated_read_bytes_per_gpu": "Estimated number of bytes read from memory per GPU (for Model Flops Utilization calculations).",
    "estimated_write_bytes_per_gpu": "Estimated number of bytes written to memory per GPU (for Model Flops Utilization calculations).",
    "prefix_cache_queries": "Prefix cache queries, in terms of number of queried tokens.",
    "prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "external_prefix_cache_queries": "External prefix cache queries, in terms of number of queried tokens.",
    "external_prefix_cache_hits": "External prefix cache hits, in terms of number of cached tokens.",
    "mm_cache_queries": "Multi-modal cache queries, in terms of number of queried items.",
    "mm_cache_hits": "Multi-modal cache hits, in terms of number of cached items.",
    "num_preemptions": "Cumulative number of preemption from the engine.",
    "prompt_tokens": "Number of prefill tokens processed.",
    "prompt_tokens_cached": "Number of cached prompt tokens (local + external).",
    "generation_tokens": "Number of generation tokens processed.",
}
_HISTOGRAMS = {
    "request_prompt_tokens": (_LENGTH, "Number of prefill tokens processed."),
    "request_generation_tokens": (_LENGTH, "Number of generation tokens processed."),
    "iteration_tokens_total": (_STEP, "Histogram of number of tokens per engine_step."),
    "request_max_num_generation_tokens": (_LENGTH, "Histogram of maximum number of requested generation tokens."),
    "request_params_n": ([1.0, 2.0, 5.0, 10.0, 20.0], "Histogram of the n request parameter."),
    "request_params_max_tokens": (_LENGTH, "Histogram of the max_tokens request parameter."),
    "time_to_first_token_seconds": (_TTFT, "Histogram of time to first token in seconds."),
    "inter_token_latency_seconds": (_TOKEN, "Histogram of inter-token latency in seconds."),
    "request_time_per_output_token_seconds": (_TOKEN, "Histogram of time_per_output_token_seconds per request."),
    "e2e_request_latency_seconds": (_LONG, "Histogram of e2e request latency in seconds."),
    "request_queue_time_seconds": (_LONG, "Histogram of time spent in WAITING phase for request."),
    "request_inference_time_seconds": (_LONG, "Histogram of time spent in RUNNING phase for request."),
    "request_prefill_time_seconds": (_LONG, "Histogram of time spent in PREFILL phase for request."),
    "request_decode_time_seconds": (_LONG, "Histogram of time spent in DECODE phase for request."),
    "request_prefill_kv_computed_tokens": (
        _LENGTH,
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
    ),
}
RATES = ("prefix_cache_queries", "prefix_cache_hits", "mm_cache_queries", "mm_cache_hits")
REASONS = ("stop", "length", "abort", "error", "repetition")


Totals = dict[str, int]
"""Counters that the periodic line of the log needs, by their names here."""


class Metrics(Observer):
    """One set of series; a restarted server begins with a new one."""

    def __init__(self, model: str, cache_config: dict[str, str]) -> None:
        self._registry = CollectorRegistry()
        self._total = dict.fromkeys(("prompt_tokens", "generation_tokens", *RATES), 0)
        GCCollector(self._registry)
        PlatformCollector(self._registry)
        ProcessCollector(registry=self._registry)
        labels = {"model_name": model, "engine": "0"}
        names = list(labels)
        self._counter = {
            name: Counter(f"vllm:{name}", text, names, registry=self._registry).labels(**labels)
            for name, text in _COUNTERS.items()
        }
        self._histogram = {
            name: Histogram(f"vllm:{name}", text, names, buckets=buckets, registry=self._registry).labels(**labels)
            for name, (buckets, text) in _HISTOGRAMS.items()
        }
        self._success = self._by(
            "vllm:request_success", "Count of successfully processed requests.", "finished_reason", REASONS, labels
        )
        sources = ("local_compute", "local_cache_hit", "external_kv_transfer")
        self._source = self._by(
            "vllm:prompt_tokens_by_source", "Number of prompt tokens by source.", "source", sources, labels
        )
        self._gauges(names, labels)
        info = Gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            [*cache_config, "engine"],
            registry=self._registry,
        )
        info.labels(**cache_config, engine="0").set(1)
        self._http = Counter(
            "http_requests",
            "Total number of requests by method, status and handler.",
            ["handler", "method", "status"],
            registry=self._registry,
        )

    def _by(
        self, name: str, text: str, label: str, values: tuple[str, ...], labels: dict[str, str]
    ) -> dict[str, Counter]:
        counter = Counter(name, text, [*labels, label], registry=self._registry)
        return {value: counter.labels(**labels, **{label: value}) for value in values}

    def _gauges(self, names: list[str], labels: dict[str, str]) -> None:
        def gauge(name: str, text: str, **extra: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, [*names, *extra], registry=self._registry).labels(**labels, **extra)

        self._running = gauge("num_requests_running", "Number of requests in model execution batches.")
        self._waiting = gauge("num_requests_waiting", "Number of requests waiting to be processed.")
        self._usage = gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.")
        reasons = Gauge(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason.",
            [*names, "reason"],
            registry=self._registry,
        )
        self._capacity = reasons.labels(**labels, reason="capacity")
        reasons.labels(**labels, reason="deferred").set(0)
        sleep = Gauge(
            "vllm:engine_sleep_state", "Engine sleep state.", [*names, "sleep_state"], registry=self._registry
        )
        for state in ("awake", "weights_offloaded", "discard_all"):
            sleep.labels(**labels, sleep_state=state).set(1 if state == "awake" else 0)

    def totals(self) -> Totals:
        return dict(self._total)

    # --- what happens ---
    def _count(self, name: str, by: int = 1) -> None:
        self._counter[name].inc(by)
        if name in self._total:
            self._total[name] += by

    def prefix(self, queried: int, hit: int) -> None:
        self._count("prefix_cache_queries", queried)
        self._count("prefix_cache_hits", hit)

    def pictures(self, queried: int, hit: int) -> None:
        self._count("mm_cache_queries", queried)
        self._count("mm_cache_hits", hit)

    def step(self, step: Step, seconds: float) -> None:
        self._histogram["iteration_tokens_total"].observe(step.tokens)

    def first_token(self, request: Request) -> None:
        self._count("prompt_tokens", request.prompt_tokens)
        self._count("prompt_tokens_cached", request.cached)
        self._source["local_cache_hit"].inc(request.cached)
        self._source["local_compute"].inc(request.prompt_tokens - request.cached)
        self._count("generation_tokens")
        self._histogram["time_to_first_token_seconds"].observe((request.first_token or 0) - request.arrived)

    def token(self, request: Request, gap: float) -> None:
        self._count("generation_tokens")
        self._histogram["inter_token_latency_seconds"].observe(gap)

    def preempted(self) -> None:
        self._count("num_preemptions")

    def ended(self, request: Request, reason: str, max_tokens: int) -> None:
        """A finished or aborted request; times that never came to be are left out."""
        self._success[reason].inc()
        observe = {name: histogram.observe for name, histogram in self._histogram.items()}
        observe["request_prompt_tokens"](request.prompt_tokens)
        observe["request_generation_tokens"](request.generated)
        observe["request_max_num_generation_tokens"](request.generated)
        observe["request_params_n"](1)
        observe["request_params_max_tokens"](max_tokens)
        first, last, scheduled = request.first_token, request.last_token, request.scheduled
        if first is None or last is None or scheduled is None or request.queued is None:
            return
        observe["e2e_request_latency_seconds"](last - request.arrived)
        observe["request_queue_time_seconds"](scheduled - request.queued)
        observe["request_prefill_time_seconds"](first - scheduled)
        observe["request_decode_time_seconds"](last - first)
        observe["request_inference_time_seconds"](last - scheduled)
        observe["request_prefill_kv_computed_tokens"](request.prompt_tokens - request.cached)
        if request.generated > 1:
            observe["request_time_per_output_token_seconds"]((last - first) / (request.generated - 1))

    def http(self, handler: str, method: str, status: int) -> None:
        self._http.labels(handler, method, f"{status // 100}xx").inc()

    def page(self, engine: Engine) -> bytes:
        self._running.set(len(engine.running))
        self._waiting.set(len(engine.waiting))
        self._capacity.set(len(engine.waiting))
        self._usage.set(engine.pool.usage)
        return generate_latest(self._registry)


def cache_config(
    blocks: int, block_size: int, utilization: float, prefix_caching: bool, max_model_len: int
) -> dict[str, str]:
    """The labels of `vllm:cache_config_info`: those of 0.20.2, and the two sizes that came with 0.24."""
    tokens = blocks * block_size
    return {
        "_block_size_resolved": "True",
        "block_size": str(block_size),
        "cache_dtype": "auto",
        "calculate_kv_scales": "False",
        "enable_prefix_caching": str(prefix_caching),
        "gpu_memory_utilization": str(utilization),
        "hash_block_size": "None",
        "is_attention_free": "False",
        "kv_cache_dtype_skip_layers": "[]",
        "kv_cache_max_concurrency": f"{tokens / max_model_len:.2f}",
        "kv_cache_memory_bytes": "None",
        "kv_cache_size_tokens": str(tokens),
        "kv_offloading_backend": "native",
        "kv_offloading_size": "None",
        "kv_sharing_fast_prefill": "False",
        "mamba_block_size": "None",
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "mamba_page_size_padded": "None",
        "mamba_ssm_cache_dtype": "auto",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(blocks),
        "num_gpu_blocks_override": "None",
        "prefix_caching_hash_algo": "sha256",
        "sliding_window": "None",
        "user_specified_block_size": "False",
        "user_specified_mamba_block_size": "False",
    }
