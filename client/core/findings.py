"""Everything that a report may print. `client.core.analysis.analyse` makes it; reports only read it.

Written as `findings.json`. A number never travels alone: it is an `Estimate` with its interval and n, or it is None with a note.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
import numpy as np

SCHEMA_VERSION = 1


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """`value` with its interval [`low`, `high`] at the plan's confidence, over `n` observations.

    All three are None when the data cannot support the number; `note` then says why or what it would take
    (``needs n ≥ 299``, ``not measured``). A count that is exact has low == high == value.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = ""
    note: str | None = None


class Word(StrEnum):
    FASTER = "faster"
    SLOWER = "slower"
    HIGHER = "higher"
    LOWER = "lower"
    EQUIVALENT = "equivalent"
    """The whole interval lies inside ± the smallest effect worth having."""
    NO_DIFFERENCE = "no difference"
    """Not told apart from zero, or inside the noise floor of this run's own A/A data."""
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    """The evidence for this metric is spoiled; a gate says how."""
    NON_INFERIOR = "non-inferior"
    WORSE = "worse"
    """Of accuracy: a loss of the margin or more is shown."""
    LESS_ACCURATE = "less accurate"
    """A loss is shown, but whether it is as large as the margin is not settled."""
    BETTER = "better"
    NOT_MEASURED = "not measured"


class Severity(StrEnum):
    INVALID = "invalid"
    """The run (or the listed metrics) must not be believed."""
    FLAG = "flag"
    """Worth knowing; the numbers stand."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One validity check that fired. `metrics` empty means the whole run."""

    code: str
    severity: Severity
    fact: str
    next_step: str
    metrics: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Where the GPU memory of one server went. Every part carries its source, or None when unknown. GiB unless the name says otherwise."""

    total_gib: float | None = None
    budget_gib: float | None = None
    weights_gib: float | None = None
    kv_cache_gib: float | None = None
    kv_cache_tokens: int | None = None
    kv_bytes_per_token: int | None = None
    requests_at_once: float | None = None
    """How many requests of the baseline's mean length the KV cache holds at once. `max_num_seqs` may let fewer run."""
    max_num_seqs: int | None = None
    """Most requests that the server runs at once, whatever its KV cache holds."""
    graphs_gib: float | None = None
    """What the CUDA graphs took."""
    graphs_in_budget_gib: float | None = None
    """What was set aside for them inside the budget: 0 where the version counts none. Weights + KV cache + this + activations + rest = budget."""
    activations_gib: float | None = None
    rest_gib: float | None = None
    whole_gpu_idle_gib: float | None = None
    whole_gpu_peak_gib: float | None = None
    process_gib: float | None = None
    utilization: float | None = None
    max_model_len: int | None = None
    source: dict[str, str] = {}
    """Field name -> where it was read: `log`, `metrics`, `nvml v2`, `config arithmetic`, ..."""
    notes: tuple[str, ...] = ()


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """How the quantised weights are really multiplied, and how we know."""

    kind: str = "unknown"
    """`native fp8`, `marlin weight-only`, `none (bf16)` (or its other dtype) or `unknown`."""
    evidence: tuple[str, ...] = ()
    contradiction: str | None = None
    capability: str | None = None
    quantization: str | None = None
    quantized_layers: str | None = None


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How right the boxes are, over answers with a known truth. `scores`: mean_iou, precision, recall, f1, hit_rate_50, ap_50_95, ..."""

    scores: dict[str, Estimate] = {}
    answers: int = 0
    truths: int = 0
    unreadable: int = 0
    frame: str = "unit"
    frame_note: str | None = None
    notes: tuple[str, ...] = ()


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of a candidate against the baseline, paired by image."""

    word: Word = Word.NOT_MEASURED
    sentence: str = ""
    iou_difference: Estimate = Estimate(note="not measured")
    iou_between: Estimate = Estimate(note="not measured")
    same_text: Estimate = Estimate(note="not measured")
    same_text_noise: Estimate = Estimate(note="not measured")
    """The same server asked twice."""
    mcnemar_p: float | None = None
    unreadable_difference: Estimate = Estimate(note="not measured")
    margin: float = 0.01
    iou_difference_noise: Estimate = Estimate(note="not measured")
    iou_between_noise: Estimate = Estimate(note="not measured")
    hits_lost: int | None = None
    """Images whose true boxes the baseline all finds at IoU 0.5 and the candidate does not; `hits_gained` the other way round."""
    hits_gained: int | None = None
    needs_images: int | None = None
    """Inconclusive, or less accurate: images that would probably settle whether there is a loss of the margin."""
    top1_agreement: Estimate = Estimate(note="not measured")
    """Share of token positions, after the same text, at which both prefer the same token (--logprobs)."""
    mean_kl_nats: Estimate = Estimate(note="not measured")
    """Kullback-Leibler divergence of the candidate's next token from the baseline's, per position, from below (--logprobs)."""
    token_positions: int = 0
    """Positions compared for the two above."""
    top1_agreement_noise: Estimate = Estimate(note="not measured")
    """Of the baseline asked twice, one at a time."""
    mean_kl_nats_noise: Estimate = Estimate(note="not measured")
    iou_difference_noise_load: Estimate = Estimate(note="not measured")
    """The baseline at the load against itself one at a time: other requests in the batch may change an answer."""
    iou_between_noise_load: Estimate = Estimate(note="not measured")
    same_text_noise_load: Estimate = Estimate(note="not measured")
    pairs: int = 0
    """Pairs of answers that were compared."""
    failed: int = 0
    """Pairs left out, as a request of either failed: that says nothing of what the model would have answered."""
    nothing_to_lose: bool = False
    """The baseline finds next to nothing itself: no difference from it says anything about accuracy."""
    notes: tuple[str, ...] = ()


class TargetFindings(msgspec.Struct, frozen=True, kw_only=True):
    """One arm. `metrics` keys: <ttft|tpot|itl|e2e|response>_ms_<p50|p95|p99|mean>, requests_per_s, output_tokens_per_s, goodput_per_s, ..."""

    name: str
    precision: str
    model: str | None = None
    server_version: str | None = None
    simulated: bool = False
    requests_sent: int = 0
    requests_ok: int = 0
    errors: dict[str, int] = {}
    """Outcome -> count, over measured requests; `http_error` is split as `http_429` and so on."""
    cold_start: dict[str, Estimate] = {}
    """e2e_ms and ttft_ms of the very first request; start_<weights_loaded|engine_ready|serving|healthy|first_token>_s since the
    container's process started, where its start was watched (`n` starts, their median)."""
    warm_up: dict[str, Estimate] = {}
    warm_up_end: int | None = None
    """Requests until steady state, as detected; None when the series never settled, or is too short to say."""
    warm_up_note: str | None = None
    """Why `warm_up_end` is None."""
    warm_up_left_out: int = 0
    """Measured requests that belong to the warm-up of some target: in no latency, throughput, energy or cost below."""
    metrics: dict[str, Estimate] = {}
    caches: dict[str, Estimate] = {}
    """prefix_hit_rate, image_hit_rate over the measured phase; value None means unknown, not zero."""
    memory: Memory = Memory()
    kernel: Kernel = Kernel()
    quality: Quality | None = None
    energy: dict[str, Estimate] = {}
    """joules_per_request, kj_per_1000_images, mean_power_w, ..."""
    cost: dict[str, Estimate] = {}
    """usd_per_1000_images, ..."""
    distinct_images: int = 0
    image_tokens: float | None = None
    gpu_name: str | None = None
    """As the sidecar told; None without one."""
    notes: tuple[str, ...] = ()


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One metric, candidate against baseline. `ratio` is candidate / baseline; `word` is what a person may say of it."""

    metric: str
    baseline: Estimate
    candidate: Estimate
    ratio: Estimate
    difference: Estimate
    word: Word
    sentence: str
    noise_floor: float | None = None
    """Half-width of same-against-same in this run, as a ratio minus 1; None when it could not be made."""
    noise_note: str | None = None
    """Why `noise_floor` is None where the metric is a sample."""
    needs_requests: int | None = None
    """Inconclusive only: requests for each arm that would probably settle it."""
    primary: bool = False
    """Named before the run, at its first load. Everything else is secondary."""
    adjusted_p: float | None = None
    """Secondary metrics that are samples: p-value of 'no effect' after Holm's correction among all of them."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    baseline: str
    candidate: str
    design: str
    effects: dict[str, Effect] = {}
    corrected_among: int = 0
    """How many secondary metrics are samples: Holm's correction is over them."""
    parity: Parity = Parity()
    memory_story: tuple[str, ...] = ()
    """Sentences made from the numbers: why the total did not fall, and where the saved memory went."""
    notes: tuple[str, ...] = ()


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a sweep. `metrics`: target -> metric -> estimate; `effects`: candidate -> short name -> effect."""

    number: int
    knob: str
    value: float
    label: str
    metrics: dict[str, dict[str, Estimate]] = {}
    effects: dict[str, dict[str, Effect]] = {}
    gates: tuple[Gate, ...] = ()
    """Raised by what was measured at this load alone."""
    cut_short: dict[str, int] = {}
    """Target -> requests measured at this load, where the run ended in it or before it; empty where it was measured as planned."""
    planned: int | None = None
    """Requests that were to be measured at this load for each target; None for a load by time."""


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    result: str
    """pass, fail or cannot tell."""
    sentence: str


class Action(StrEnum):
    USE = "use"
    KEEP = "keep"
    DEPENDS = "depends"
    NONE = "none"


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    action: Action
    sentence: str
    load: str = ""
    reasons: tuple[str, ...] = ()
    would_change: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = ()


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """`valid` is False when any gate of severity INVALID covers the whole run or the primary metric."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    started_utc: str
    simulated: bool
    simulated_note: str | None = None
    valid: bool
    invalid_reasons: tuple[str, ...] = ()
    interrupted: bool = False
    question: str = ""
    headline: str = ""
    """The verdict in one sentence, with its load; or INVALID and why."""
    load: str = ""
    workload: str = ""
    confidence: float = 0.95
    primary: str = "e2e_p50"
    min_effect: float = 0.03
    targets: dict[str, TargetFindings] = {}
    comparison: Comparison | None = None
    """The first candidate against the baseline; the only one of a pair."""
    comparisons: tuple[Comparison, ...] = ()
    """Every candidate against the baseline."""
    levels: tuple[Level, ...] = ()
    """Of a sweep, in its order. The first level carries the verdict above."""
    knees: dict[str, str | None] = {}
    """Of a sweep: target -> label of the level after which throughput stops growing; None: it grew to the end."""
    gates: tuple[Gate, ...] = ()
    recommendation: Recommendation = Recommendation(action=Action.NONE, sentence="Nothing was compared.")
    thresholds: tuple[Threshold, ...] = ()
    not_measured: tuple[str, ...] = ()
    torn_lines: int = 0
    host: dict[str, str] = {}
    versions: dict[str, str] = {}


def to_json(findings: Findings) -> bytes:
    """The bytes of `findings.json`: one number a line, so that two runs can be compared with diff."""
    return msgspec.json.format(msgspec.json.encode(findings, enc_hook=_plain), indent=1) + b"\n"


def _plain(value: object) -> object:
    """numpy's scalars are numbers too; anything else does not belong into findings."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"findings hold a {type(value).__name__}, which is no JSON value")
