"""What was asked, as values. A plan is made once, at the border (`client.config`), and never changes after."""

from __future__ import annotations

from enum import StrEnum

import msgspec

DEFAULT_PROMPT = "Detect the nutrition table. Provide bounding box in [x_min, y_min, x_max, y_max] format."


class Arrival(StrEnum):
    """When requests start. CLOSED keeps a fixed number in flight; the others are open loop at a rate."""

    CLOSED = "closed"
    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"
    REPLAY = "replay"


class Design(StrEnum):
    """INTERLEAVED: blocks in ABBA order on a live pair. SERIAL: A, B, A with one server at a time. SINGLE: one target."""

    INTERLEAVED = "interleaved"
    SERIAL = "serial"
    SINGLE = "single"


class BoxFrame(StrEnum):
    """In which coordinates a model writes its boxes (see `client.core.boxes`)."""

    UNIT = "unit"
    GRID1000 = "grid1000"
    PIXELS = "pixels"
    RESIZED_PIXELS = "resized-pixels"
    AUTO = "auto"


class TargetKind(StrEnum):
    """How a server is reached, where that changes what can be asked of it (see `client.core.runpod`)."""

    PLAIN = "plain"
    RUNPOD_POD = "runpod-pod"
    RUNPOD_SERVERLESS = "runpod-serverless"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A named server configuration. `base_url` ends before `/v1`. None means unknown, never free or zero."""

    name: str
    base_url: str
    model: str | None = None
    precision: str = "unknown"
    image: str | None = None
    engine_args: tuple[str, ...] = ()
    price_usd_per_hour: float | None = None
    api_key_env: str | None = None
    server_log: str | None = None
    sidecar_url: str | None = None
    simulated: bool = False
    kind: TargetKind = TargetKind.PLAIN
    api_key_file: str | None = None
    """Where the key was read; the key itself is in no plan."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What each request carries. `images` is `synthetic`, or the path of a folder, a picture, a JSONL manifest or a Parquet file."""

    images: str = "synthetic"
    width: int = 1024
    height: int = 759
    max_side: int = 1024
    repeat_image: bool = False
    prompt: str = DEFAULT_PROMPT
    system_prompt: str | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    ignore_eos: bool = False
    box_frame: BoxFrame = BoxFrame.AUTO


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """One knob of the load profile taken through several levels, in the order given."""

    knob: str
    """`concurrency` or `rate`."""
    values: tuple[float, ...]


class LoadProfile(msgspec.Struct, frozen=True, kw_only=True):
    """`requests` counts measured requests for each arm; None means `duration_s` decides. `rate_per_s` is for open loop."""

    arrival: Arrival = Arrival.CLOSED
    concurrency: int = 1
    rate_per_s: float | None = None
    burstiness: float = 1.0
    requests: int | None = 30
    duration_s: float | None = None
    warmup: int = 5
    blocks_per_arm: int = 4
    workers: int = 1
    max_in_flight: int | None = None
    """Open loop only: a client-side cap. Requests held back by it count as waiting, and the report warns."""
    rate_end_per_s: float | None = None
    """Open loop by duration only: the rate runs in a straight line from `rate_per_s` to this."""
    sweep: Sweep | None = None
    """Measures at each level in turn; `requests` and `duration_s` then hold for each level."""
    retries: int = 0
    """How often a request that the server certainly did not take is tried again. Each try leaves its own record."""
    replay_of: str | None = None
    """Arrival REPLAY only: the run directory whose arrivals are sent again."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `first_byte` also bounds queueing at the server; `total` bounds a whole request."""

    connect_s: float = 10.0
    write_s: float = 60.0
    first_byte_s: float = 300.0
    idle_s: float = 120.0
    total_s: float = 600.0


class Slo(msgspec.Struct, frozen=True):
    """One objective: `metric` (ttft, tpot, itl, e2e) stays at or under `limit_ms`."""

    metric: str
    limit_ms: float


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole question. `targets[0]` is the baseline; every other target is compared against it."""

    targets: tuple[Target, ...]
    workload: Workload = Workload()
    load: LoadProfile = LoadProfile()
    timeouts: Timeouts = Timeouts()
    design: Design = Design.INTERLEAVED
    quality: int = 0
    """Pictures asked for accuracy alone, after the load."""
    logprobs: int = 0
    """Likeliest tokens asked for at each position of an answer, in quality passes only; 0: none."""
    seed: int = 0
    primary: str = "e2e_p50"
    min_effect: float = 0.03
    iou_margin: float = 0.01
    confidence: float = 0.95
    slos: tuple[Slo, ...] = ()
    fail_if: tuple[str, ...] = ()
    simulate: str | None = None

    @property
    def simulated(self) -> bool:
        return self.simulate is not None or any(t.simulated for t in self.targets)
