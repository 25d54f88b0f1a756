"""What the NVML sidecar says, read back: its lines, its clock, and whose GPU it is. Pure: bytes and stamps in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from client.core.plan import Target
from client.core.records import ClockAnchor, GpuSample

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "host.docker.internal"})
RUNPOD = re.compile(r"^([a-z0-9]+)-\d+\.proxy\.runpod\.net$")


class RoundTrip(msgspec.Struct, frozen=True):
    """One question for the other host's clock: ours before, theirs, ours after."""

    sent_ns: int
    theirs_ns: int
    received_ns: int


class Offset(msgspec.Struct, frozen=True):
    """`theirs − ours`, at most `error_ns` wrong. `error_ns` None: not known (only wall clocks to go by)."""

    offset_ns: int = 0
    error_ns: int | None = 0
    why: str = ""


def estimate_offset(trips: Iterable[RoundTrip]) -> Offset | None:
    """Their stamp was taken somewhere inside each round trip, so the offset lies in [theirs − received, theirs − sent] of every trip.

    The answer is the middle of what all trips agree on, and half its width. When they do not agree (a clock was adjusted meanwhile)
    the shortest trip alone is used. None without trips. After Cristian, Probabilistic clock synchronization, 1989.
    """
    all_trips = [t for t in trips if t.received_ns >= t.sent_ns]
    if not all_trips:
        return None
    low = max(t.theirs_ns - t.received_ns for t in all_trips)
    high = min(t.theirs_ns - t.sent_ns for t in all_trips)
    if low > high:
        best = min(all_trips, key=lambda t: t.received_ns - t.sent_ns)
        low, high = best.theirs_ns - best.received_ns, best.theirs_ns - best.sent_ns
    return Offset((low + high) // 2, (high - low + 1) // 2, f"estimated from {len(all_trips)} round trips")


def offset_by_wall(sample: GpuSample, ours: ClockAnchor) -> Offset:
    """For a file from another host: good only as far as both wall clocks are set, which nothing here can check."""
    theirs_at_our_wall = sample.mono_ns + ours.wall_ns - sample.wall_ns
    return Offset(theirs_at_our_wall - ours.mono_ns, None, "by the wall clocks of both hosts; error not known")


def drift(start: Offset, end: Offset | None) -> Offset:
    """The offset at the start, its error widened by what the clocks moved apart until the end."""
    if end is None or start.error_ns is None or end.error_ns is None:
        return start
    moved = abs(end.offset_ns - start.offset_ns)
    return Offset(start.offset_ns, max(start.error_ns, end.error_ns) + moved, start.why)


def on_our_clock(sample: GpuSample, offset: Offset) -> GpuSample:
    if not offset.offset_ns:
        return sample
    return msgspec.structs.replace(sample, mono_ns=sample.mono_ns - offset.offset_ns)


class Lines(msgspec.Struct, frozen=True):
    """`info` None: no info line. `bad` counts lines that are neither (a torn last one, mostly)."""

    samples: tuple[GpuSample, ...] = ()
    info: dict[str, Any] | None = None
    bad: int = 0


_decoder = msgspec.json.Decoder(GpuSample)


def read_lines(data: bytes) -> Lines:
    samples: list[GpuSample] = []
    info: dict[str, Any] | None = None
    bad = 0
    for text in data.split(b"\n"):
        if not text.strip():
            continue
        try:
            if text.startswith(b'{"info"'):
                info = msgspec.json.decode(text, type=dict[str, dict[str, Any]])["info"]
            else:
                samples.append(_decoder.decode(text))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            bad += 1
    return Lines(tuple(samples), info, bad)


def flat_info(info: dict[str, Any]) -> dict[str, str]:
    """The sidecar's info as words for a report. What differs between GPUs is joined by ` / `; what is not known is left out."""
    gpus = [g for g in info.get("gpus", ()) if isinstance(g, dict)]
    flat = {key: str(info[key]) for key in ("host", "driver", "nvml", "boot_id") if info.get(key)}
    for key in ("name", "uuid", "compute_capability", "mig"):
        values = list(dict.fromkeys(str(g[key]) for g in gpus if g.get(key)))
        if values:
            flat[key] = " / ".join(values)
    apis = sorted({str(api) for g in gpus for api in g.get("memory_apis", ())})
    numbers = {"total_bytes": "total", "reserved_bytes": "reserved", "power_limit_mw": "power_limit_mw"}
    for name, key in numbers.items():
        found = list(dict.fromkeys(str(g[key]) for g in gpus if g.get(key) is not None))
        if found:
            flat[name] = " / ".join(found)
    if apis:
        flat["memory_apis"] = ", ".join(apis)
    if gpus:
        flat["gpus"] = str(len(gpus))
    if info.get("rate_hz"):
        flat["rate_hz"] = f"{info['rate_hz']:g}"
    if info.get("fake"):
        flat["fake"] = "true"
    return flat


def host_of(url: str) -> str:
    """The machine in a URL, as far as its name tells: every loopback name is one, and a RunPod proxy name is its pod without the port."""
    host = (urlsplit(url if "://" in url else f"//{url}").hostname or "").lower().rstrip(".")
    if host in LOOPBACK or host.startswith("127."):
        return "localhost"
    pod = RUNPOD.match(host)
    return f"{pod[1]}.runpod" if pod else host


def sidecar_applies(target: Target, sidecar_url: str, elsewhere: bool = False) -> tuple[bool, str]:
    """Whether the GPU that this sidecar watches is the one behind `target`, and why (one sentence for the report).

    Only what is certain counts: the sidecar is named for this target, or both are on one host by name. A sidecar at a loopback address is
    this machine's, whoever names it (server/targets.toml does by default, and --url moves only the server), unless it says itself that it
    runs `elsewhere`: another boot, at the end of a tunnel. A tunnel to the server alone makes that look local; then leave the sidecar out.
    """
    theirs, ours = host_of(target.base_url), host_of(sidecar_url)
    same_door = urlsplit(target.base_url).netloc == urlsplit(sidecar_url).netloc
    if target.sidecar_url is not None:
        if target.sidecar_url.rstrip("/") != sidecar_url.rstrip("/"):
            return False, f"{target.name} names another sidecar ({target.sidecar_url})"
        if ours == "localhost" and theirs != "localhost" and not target.simulated and not elsewhere:
            return False, (
                f"GPU not measured: {target.name} runs on {theirs or 'an unknown host'}, and the sidecar at {sidecar_url} watches this "
                f"machine's GPU (give the one on the server's host: --sidecar {target.name}=http://HOST:9401)"
            )
        return True, f"the sidecar at {sidecar_url} is named for {target.name}"
    if target.simulated:
        if same_door:
            return True, f"{target.name} is simulated, and so are these GPU samples"
        return False, f"{target.name} is simulated: it has no GPU, and the sidecar would show this machine's"
    if theirs and theirs == ours:
        return True, f"the sidecar runs on the host of {target.name} ({theirs})"
    return False, (
        f"{target.name} runs on {theirs or 'an unknown host'}, the sidecar on {ours or 'an unknown host'}: "
        "another machine's GPU (set sidecar_url for this target if they are one host)"
    )
