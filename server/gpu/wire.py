"""The sidecar's lines. They mirror `GpuSample` and `GpuProcess` of the client, which never imports this module nor is imported here:
`tests/golden/gpu/contract.jsonl` is read by the tests of both sides and holds the contract.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

EVERYTHING = "*"
"""Key of `absent` when the whole GPU cannot be read."""


class Process(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process with a context on the GPU. `pid` is the host's; `used_bytes` is None when the driver does not tell."""

    pid: int
    used_bytes: int | None = None
    container: str | None = None
    name: str | None = None


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reading of one GPU. A field that is not in the line was not asked for by this reading, or stands in `absent` with its reason."""

    mono_ns: int
    wall_ns: int
    gpu: int = 0
    uuid: str | None = None
    used_v1: int | None = None
    used_v2: int | None = None
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
    processes: tuple[Process, ...] | None = None
    absent: dict[str, str] = {}
    fake: bool = False


class GpuInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while a driver runs. `memory_apis`: which of NVML's two memory calls answer here."""

    gpu: int
    uuid: str | None = None
    name: str | None = None
    compute_capability: str | None = None
    mig: str | None = None
    memory_apis: tuple[str, ...] = ()
    total: int | None = None
    reserved: int | None = None
    power_limit_mw: int | None = None
    absent: dict[str, str] = {}


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """First line of a file and answer of /info."""

    schema_version: int = 1
    mono_ns: int
    wall_ns: int
    host: str
    boot_id: str | None = None
    driver: str | None = None
    nvml: str | None = None
    rate_hz: float
    memory_rate_hz: float
    fake: bool = False
    gpus: tuple[GpuInfo, ...] = ()


class Stamp(msgspec.Struct, frozen=True):
    """Both clocks of this host, read one right after the other."""

    mono_ns: int
    wall_ns: int


Clock = Callable[[], Stamp]
Emit = Callable[[Sample], None]


def now() -> Stamp:
    return Stamp(time.monotonic_ns(), time.time_ns())


def boot_id() -> str | None:
    """Names this boot of this kernel: two processes that agree on it share one monotonic clock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


_encoder = msgspec.json.Encoder()


def line(value: Any) -> bytes:
    """One JSON line with its newline."""
    return _encoder.encode(value) + b"\n"


def info_line(info: Info) -> bytes:
    return line({"info": info})
