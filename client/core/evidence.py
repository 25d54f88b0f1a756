"""All that a run left behind, read back: the one argument of the analysis."""

from __future__ import annotations

import msgspec

from client.core.container import StartMarks
from client.core.plan import Design, LoadProfile, RunPlan
from client.core.records import (
    ClockAnchor,
    GpuSample,
    ImageFact,
    PhaseWindow,
    ServerSnapshot,
    TokenAnswer,
    WorkerHealth,
)
from client.core.runpod import Workers
from client.core.table import RecordTable


class ServerEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one target told of itself. None: it was not asked or did not answer."""

    target: str
    version: str | None = None
    served_models: tuple[str, ...] = ()
    max_model_len: int | None = None
    log_text: str | None = None
    before: ServerSnapshot | None = None
    """/metrics just before the first measured request."""
    after: ServerSnapshot | None = None
    start_time_before_s: float | None = None
    container: str | None = None
    """Id of the container behind the target, where the engine told it."""
    starts: tuple[StartMarks, ...] = ()
    """Each start of that container which was watched, on its host's clock."""
    model_config: str | None = None
    """The text of the model's config.json, where it could be read."""
    round_trip_ns: int | None = None
    """Median of a few requests that cost the server nothing: network and HTTP alone, part of every latency."""
    clock_offset_s: float | None = None
    """The server's wall clock minus ours, good to a second (its Date header)."""
    workers: tuple[Workers, ...] = ()
    """RunPod serverless: its workers around the measured blocks, in order."""


class GpuEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GPU samples over the run, on the client's monotonic clock. `why` says why there are none."""

    samples: tuple[GpuSample, ...] = ()
    target: str | None = None
    """None: the samples belong to the one GPU that several targets share."""
    shared_by: tuple[str, ...] = ()
    """Those targets; empty: all of them."""
    source: str | None = None
    clock_offset_ns: int = 0
    clock_error_ns: int | None = None
    info: dict[str, str] = {}
    """name, driver, compute capability, mig, ... as the sidecar told once."""
    why: str | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A run directory in memory. `records` come in the order in which the requests ended."""

    run_id: str
    started_utc: str
    plan: RunPlan
    anchor: ClockAnchor | None = None
    records: RecordTable = msgspec.field(default_factory=RecordTable)
    tokens: tuple[TokenAnswer, ...] = ()
    """Of the quality passes with --logprobs, in the order in which they ended."""
    images: dict[str, ImageFact] = {}
    windows: tuple[PhaseWindow, ...] = ()
    health: tuple[WorkerHealth, ...] = ()
    servers: dict[str, ServerEvidence] = {}
    gpu: tuple[GpuEvidence, ...] = ()
    distinct_pictures: int | None = None
    """Different originals that the run drew on; None in runs of before it was written down."""
    torn_lines: int = 0
    interrupted: bool = False
    complete: bool = True
    """False when the run ended before its plan did (kill -9)."""
    separate_runs: bool = False
    """True when the arms come from two saved runs (`client.compare`): nothing pairs them in time."""
    runs_cut: tuple[str, ...] | None = None
    """Separate runs only: targets whose own run ended before its plan did."""
    loads: dict[str, LoadProfile] = {}
    """Separate runs only: target -> the load that its own run was asked for."""
    restarts_expected: tuple[str, ...] | None = None
    """Separate runs only: targets that their own run started anew on purpose."""
    common_loads: str | None = None
    """Separate runs only: where one swept and the other did not, or otherwise, which loads are shown."""
    plan_differences: tuple[str, ...] = ()
    """Separate runs only: what was asked differently of the two, beyond their length."""
    host: dict[str, str] = {}
    versions: dict[str, str] = {}


def restarts_expected(evidence: Evidence) -> tuple[str, ...]:
    """Targets whose server may start anew between its first and its last measured request: the baseline of a serial run, which is
    measured twice. Every other target has one stay, and a new start within it is a crash."""
    if evidence.restarts_expected is not None:
        return evidence.restarts_expected
    return (evidence.plan.targets[0].name,) if evidence.plan.design is Design.SERIAL else ()
