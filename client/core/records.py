"""What was seen, as values, and their one-line JSON form.

The time line of a request. All stamps are CLOCK_MONOTONIC nanoseconds of the client's host; None means that it never happened.

    intended ─ sent ───── headers ─ first byte ─ role chunk ─ first token ─ first text ─ … ─ last token ─ done
       │        │                                                │                              │
       │        ├── TTFT ────────────────────────────────────────┤                              │
       │        ├── E2E ─────────────────────────────────────────┼──────────────────────────────┤
       │        │                                                └── TPOT × (output tokens − 1) ┤
       └── response time (open loop: a late generator cannot hide queueing) ────────────────────┤

`sent` is taken just before the first byte of the request is handed to the kernel, on a connection that may have had to be opened
(`connected_ns` then lies before it: connecting is never part of TTFT; it is its own number). Receive stamps are the kernel's where it gives
them (`stamps == "kernel"`), else the event loop's. The role chunk carries no token: TTFT ends at the first chunk that does,
whether or not its text is empty (special tokens are stripped by the server).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

SCHEMA_VERSION = 1


class Phase(StrEnum):
    """Where in a campaign a request belongs. Only MEASURE enters steady-state numbers."""

    COLD = "cold"
    WARMUP = "warmup"
    EDGE = "edge"
    """Lead-in and lead-out of a measured block: keeps the load constant around it, and is not counted."""
    MEASURE = "measure"
    QUALITY = "quality"


class Outcome(StrEnum):
    """How a request ended: a closed list (docs/reliability.md says what each means for the numbers)."""

    OK = "ok"
    HTTP_ERROR = "http_error"
    STREAM_ERROR = "stream_error"
    """HTTP 200, then an error object inside the stream or the body."""
    TRUNCATED = "truncated"
    """The answer ended without a finish_reason."""
    EMPTY = "empty"
    """A proper end, but not one token."""
    BAD_ANSWER = "bad_answer"
    """Not HTTP, not SSE, not JSON, or over a size limit."""
    REFUSED = "refused"
    RESET = "reset"
    DNS = "dns"
    TLS = "tls"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_WRITE = "timeout_write"
    TIMEOUT_FIRST_BYTE = "timeout_first_byte"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_TOTAL = "timeout_total"
    CLIENT_LIMIT = "client_limit"
    """Our own side could not send: no file descriptors, in-flight cap with no room in time."""
    CANCELLED = "cancelled"
    """Ctrl-C or the end of the campaign; says nothing about the server."""
    LOST = "lost"
    """Belonged to a worker process that died."""

    @property
    def censored(self) -> bool:
        """A time-out is not a missing latency: it is known to be at least its limit."""
        return self.name.startswith("TIMEOUT")


class TokenStep(msgspec.Struct, frozen=True):
    """One generated token, and the likeliest tokens at its position with their natural-log probabilities."""

    token: str
    top: dict[str, float]


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, whatever became of it. Token counts are the server's own (`usage`), None when it gave none."""

    target: str
    phase: Phase
    index: int
    """Position in the schedule of this target and phase, from 0 and without gaps over blocks."""
    image_id: str
    outcome: Outcome
    intended_ns: int
    block: int | None = None
    """Number of the measured block within this arm."""
    level: int = 0
    """Number of the step in a sweep; 0 when there is none."""
    worker: int = 0
    attempt: int = 0
    """0 for the first try; more only with --retry-safe."""
    connect_start_ns: int | None = None
    """Set, with `connected_ns`, only when this request had to open its connection."""
    connected_ns: int | None = None
    sent_ns: int | None = None
    uploaded_ns: int | None = None
    """When the kernel had taken the whole body."""
    headers_ns: int | None = None
    first_byte_ns: int | None = None
    """First byte of the body."""
    role_ns: int | None = None
    first_token_ns: int | None = None
    first_text_ns: int | None = None
    last_token_ns: int | None = None
    done_ns: int | None = None
    chunk_ns: tuple[int, ...] = ()
    """Arrival of each chunk that carries a token, in order. A chunk may hold several tokens: never count chunks as tokens."""
    stamps: str = "kernel"
    recv_lag_ns: int | None = None
    """The largest delay between the kernel's stamp and our event loop's on this request's chunks; None without kernel stamps."""
    status: int | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    text: str | None = None
    """The answer, only where a box is to be read from it; None otherwise."""
    error: str | None = None
    """What was wrong, in one short line (secrets masked)."""
    body_bytes: int = 0
    answer_bytes: int = 0
    retry_after_s: float | None = None
    tokens: tuple[TokenStep, ...] = ()
    """Quality passes with --logprobs only. Kept in answers.jsonl, not in requests.jsonl."""


def without_tokens(record: RequestRecord) -> RequestRecord:
    return msgspec.structs.replace(record, tokens=()) if record.tokens else record


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What answers.jsonl keeps of the tokens of one answer. `number`: its quality pass, from 0."""

    target: str
    number: int = msgspec.field(name="pass")
    image_id: str
    tokens: tuple[TokenStep, ...] = ()


class ImageFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a sent picture is. `boxes` are the truth, (x_min, y_min, x_max, y_max) in 0..1 of the sent picture; None: not known."""

    image_id: str
    width: int
    height: int
    sent_bytes: int
    sha256: str
    source: str = "synthetic"
    boxes: tuple[tuple[float, float, float, float], ...] | None = None


class PhaseWindow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stretch of a campaign in which exactly one kind of load ran. Energy is read at its borders where a sidecar is."""

    target: str
    phase: Phase
    start_ns: int
    end_ns: int
    block: int | None = None
    level: int = 0
    energy_start_mj: int | None = None
    energy_end_mj: int | None = None


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the load generator says of itself for one phase window and one process."""

    worker: int
    target: str
    phase: Phase
    start_ns: int
    end_ns: int
    block: int | None = None
    level: int = 0
    requests: int = 0
    cpu_ns: int | None = None
    send_lag_p50_ns: int | None = None
    send_lag_p99_ns: int | None = None
    send_lag_max_ns: int | None = None
    recv_lag_p99_ns: int | None = None
    loop_lag_p99_ns: int | None = None
    loop_lag_max_ns: int | None = None
    gc_pauses: int | None = None
    gc_pause_ns: int | None = None
    held_back: int = 0
    """Arrivals that had to wait for a client-side cap."""
    held_p99_ns: int | None = None
    """How long they waited for it. Waiting that was asked for is no lateness: it is in no send lag."""
    lost: bool = False
    """The process died: its share of the schedule is missing."""
    note: str | None = None


class GpuSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reading of one GPU, as the sidecar writes it. Any field is None when it cannot be read; `absent` says why."""

    mono_ns: int
    wall_ns: int
    gpu: int = 0
    uuid: str | None = None
    used_v1: int | None = None
    """NVML memory API v1, bytes: includes what the driver reserves."""
    used_v2: int | None = None
    """NVML memory API v2, bytes: without the reserve. This is what nvidia-smi shows."""
    reserved: int | None = None
    total: int | None = None
    gpu_util: int | None = None
    mem_util: int | None = None
    power_mw: int | None = None
    power_instant_mw: int | None = None
    energy_mj: int | None = None
    sm_mhz: int | None = None
    mem_mhz: int | None = None
    temp_c: int | None = None
    reasons: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    absent: dict[str, str] = {}
    fake: bool = False


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pid: int
    used_bytes: int | None = None
    container: str | None = None
    name: str | None = None


class ServerSnapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The /metrics page of a target at one moment; `text` is None when there was none, and `why` says so."""

    target: str
    mono_ns: int
    wall_ns: int
    text: str | None = None
    why: str | None = None


class ClockAnchor(msgspec.Struct, frozen=True, kw_only=True):
    """Both clocks of one process at one moment, to line up files of several hosts."""

    mono_ns: int
    wall_ns: int
