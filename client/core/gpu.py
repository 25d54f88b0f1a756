"""GPU samples and phase windows → what the GPU looked like under each target: memory, clocks, reasons, processes; and gates from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from client.core.evidence import GpuEvidence
from client.core.findings import Gate, Severity
from client.core.records import GpuSample, Phase, PhaseWindow

Key = tuple[int, str | None]
Series = dict[Key, tuple[NDArray[np.int64], NDArray[np.float64]]]

POWER_CAP = "power cap"
# nvml.h, nvmlClocksEventReasons.
REASONS: dict[int, str] = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: POWER_CAP,
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clocks",
}
# A power cap is where a loaded GPU normally lives; these are not.
ABNORMAL = frozenset({"hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "power brake"})
SLOWED = sum(bit for bit, name in REASONS.items() if name in ABNORMAL)
ABNORMAL_SHARE = 0.01
CLOCKS_DIFFER = 0.05
ALIKE = 0.01
"""GPUs whose memory differs by less than this are of one kind."""
IDLE_BEFORE_NS = 10_000_000_000
LOST = "*"


class GpuSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the GPU did for one target. Bytes, MHz, °C; over several GPUs memory is summed and clocks are pooled.

    None: not measured. `v1` counts the driver's reserve, `v2` does not (nvidia-smi shows v2). Peaks are over all phases of the target,
    clocks, reasons and utilization over its measured phases.
    """

    target: str
    gpus: int = 0
    samples: int = 0
    idle_v1_bytes: int | None = None
    idle_v2_bytes: int | None = None
    """The last reading before the first request: the server is up, and (another server on the same GPU counted in) at rest."""
    peak_v1_bytes: int | None = None
    peak_v2_bytes: int | None = None
    total_bytes: int | None = None
    reserved_bytes: int | None = None
    units: int = 0
    """GPUs, or MIG instances, that the memory figures are a sum of."""
    usable_bytes: int | None = None
    """What torch can use of one of them: total - reserve (total alone where no reserve is told). None where they differ in size."""
    process_bytes: int | None = None
    """Peak of this server's own processes; None when NVML does not tell or it is not known which are its own."""
    processes: dict[str, int | None] = {}
    """`pid name (container)` -> peak bytes, for every process seen on the GPU."""
    sm_mhz_median: float | None = None
    sm_mhz_min: float | None = None
    mem_mhz_median: float | None = None
    temp_c_max: float | None = None
    gpu_util_mean: float | None = None
    reasons: dict[str, float] = {}
    """Clock-event reason -> share of the measured samples, 0..1."""
    slowed_share: float | None = None
    """Of the measured samples, those with any reason of ABNORMAL; None where no sample tells its reasons."""
    lost: bool = False
    """The GPU or its driver went away during this target's phases."""
    fake: bool = False
    why: str | None = None


def clock_reasons(mask: int) -> tuple[str, ...]:
    """Names of the bits that are set; unknown bits keep their number."""
    names = [name for bit, name in REASONS.items() if mask & bit]
    rest = mask & ~sum(REASONS)
    return (*names, f"0x{rest:x}") if rest else tuple(names)


def series(samples: Iterable[GpuSample], field: str) -> Series:
    """Times (ns) and values of one field for each GPU, in order of time. Absent and impossible (negative) readings are left out."""
    found: dict[Key, list[tuple[int, float]]] = {}
    for sample in samples:
        value = getattr(sample, field)
        if value is not None and value >= 0:
            found.setdefault((sample.gpu, sample.uuid), []).append((sample.mono_ns, value))
    result: Series = {}
    for key, pairs in found.items():
        pairs.sort()
        result[key] = (
            np.array([t for t, _ in pairs], dtype=np.int64),
            np.array([v for _, v in pairs], dtype=np.float64),
        )
    return result


def within(t: NDArray[np.int64], windows: Sequence[PhaseWindow]) -> NDArray[np.bool_]:
    mask = np.zeros(len(t), dtype=np.bool_)
    for window in windows:
        mask |= (t >= window.start_ns) & (t <= window.end_ns)
    return mask


def windows_of(windows: Iterable[PhaseWindow], target: str, phase: Phase | None = None) -> list[PhaseWindow]:
    """Of one target (and phase), in order of time; windows without length are left out."""
    found = [w for w in windows if w.target == target and (phase is None or w.phase is phase) and w.end_ns > w.start_ns]
    return sorted(found, key=lambda w: w.start_ns)


def pooled(samples: Sequence[GpuSample], field: str, windows: Sequence[PhaseWindow]) -> NDArray[np.float64]:
    """Values of all GPUs inside the windows, in one array."""
    parts = [v[within(t, windows)] for t, v in series(samples, field).values()]
    return np.concatenate(parts) if parts else np.empty(0)


def _memory_keys(keys: Iterable[Key]) -> set[Key]:
    """Without a GPU that is counted again by its MIG instances."""
    every = set(keys)
    split = {gpu for gpu, uuid in every if uuid is not None and uuid.startswith("MIG-")}
    return {k for k in every if k[0] not in split or (k[1] or "").startswith("MIG-")}


def _peak(samples: Sequence[GpuSample], field: str, windows: Sequence[PhaseWindow]) -> int | None:
    """Sum over GPUs of each one's largest value; None unless every GPU that was seen has one."""
    every = series(samples, field)
    values = [v[within(t, windows)] for key, (t, v) in every.items() if key in _memory_keys(every)]
    if not values or any(len(v) == 0 for v in values):
        return None
    return int(sum(v.max() for v in values)) or None


def _units(samples: Sequence[GpuSample], windows: Sequence[PhaseWindow]) -> tuple[int, int | None]:
    """How many GPUs or instances count, and the memory that torch sees of each where all are alike (driver reserves may differ a little)."""
    totals, reserves = series(samples, "total"), series(samples, "reserved")
    sizes = []
    for key in _memory_keys(totals):
        t, v = totals[key]
        held = v[within(t, windows)]
        _, reserve = reserves.get(key, (None, np.zeros(1)))
        if len(held):
            sizes.append(int(held.max() - reserve.max()))
    alike = bool(sizes) and max(sizes) - min(sizes) <= ALIKE * max(sizes)
    return len(sizes), min(sizes) if alike and min(sizes) > 0 else None


def _before(samples: Sequence[GpuSample], field: str, start_ns: int) -> int | None:
    """Sum over GPUs of the last value before `start_ns`. `samples` begin shortly before it, so that an old value is not taken for it."""
    every, total = series(samples, field), 0
    for key in _memory_keys(every):
        t, v = every[key]
        last = int(np.searchsorted(t, start_ns, side="right")) - 1
        if last < 0:
            return None
        total += int(v[last])
    return total or None


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None


def _shares(masks: NDArray[np.float64]) -> dict[str, float]:
    counts: dict[str, int] = {}
    for mask in masks:
        for name in clock_reasons(int(mask)):
            counts[name] = counts.get(name, 0) + 1
    return {name: count / len(masks) for name, count in sorted(counts.items())}


def _processes(
    inside: Iterable[GpuSample], container: str | None, pids: Collection[int]
) -> tuple[dict[str, int | None], int | None]:
    """Every process with its peak, and the peak of the sum over the server's own."""
    peaks: dict[str, int | None] = {}
    own: int | None = None
    inside = [s for s in inside if s.processes is not None]
    alone = {p.pid for s in inside for p in s.processes or ()}
    for sample in inside:
        mine = []
        for p in sample.processes or ():
            label = " ".join(filter(None, (str(p.pid), p.name, f"({p.container})" if p.container else None)))
            peaks[label] = max(peaks.get(label) or 0, p.used_bytes or 0) or None
            is_own = p.pid in pids or (container is not None and p.container == container[:12]) or len(alone) == 1
            mine += [p.used_bytes] if is_own else []
        known = [m for m in mine if m]
        if known and len(known) == len(mine):
            own = max(own or 0, sum(known))
    return peaks, own


def gpu_summary(
    target: str,
    gpu: GpuEvidence,
    windows: Iterable[PhaseWindow],
    *,
    container: str | None = None,
    pids: Collection[int] = (),
) -> GpuSummary:
    """`container` or `pids` (host PIDs) tell which processes are this target's server; without them only a lone process is taken for it."""
    own = windows_of(windows, target)
    if gpu.why is not None or not gpu.samples:
        return GpuSummary(target=target, why=gpu.why or "GPU not measured: no sample")
    if not own:
        return GpuSummary(target=target, why=f"no phase of {target} was recorded")
    samples = [s for s in gpu.samples if own[0].start_ns - IDLE_BEFORE_NS <= s.mono_ns <= own[-1].end_ns]
    inside = [s for s in samples if any(w.start_ns <= s.mono_ns <= w.end_ns for w in own)]
    if not inside:
        return GpuSummary(target=target, why="GPU not measured: no sample lies inside this target's phases")
    processes, process_bytes = _processes(inside, container, pids)
    units, usable = _units(samples, own)
    return msgspec.structs.replace(
        _measured(target, samples, windows_of(own, target, Phase.MEASURE)),
        gpus=len({s.gpu for s in samples}),
        samples=len(inside),
        idle_v1_bytes=_before(samples, "used_v1", own[0].start_ns),
        idle_v2_bytes=_before(samples, "used_v2", own[0].start_ns),
        peak_v1_bytes=_peak(samples, "used_v1", own),
        peak_v2_bytes=_peak(samples, "used_v2", own),
        total_bytes=_peak(samples, "total", own),
        reserved_bytes=_peak(samples, "reserved", own),
        units=units,
        usable_bytes=usable,
        process_bytes=process_bytes,
        processes=processes,
        lost=any(LOST in s.absent for s in inside),
        fake=any(s.fake for s in samples),
    )


def _measured(target: str, samples: Sequence[GpuSample], measured: Sequence[PhaseWindow]) -> GpuSummary:
    """Clocks, temperature, utilization and reasons: only what the measured windows saw."""
    sm = pooled(samples, "sm_mhz", measured)
    temperatures = pooled(samples, "temp_c", measured)
    use = pooled(samples, "gpu_util", measured)
    masks = pooled(samples, "reasons", measured)
    return GpuSummary(
        target=target,
        sm_mhz_median=_median(sm),
        sm_mhz_min=float(sm.min()) if len(sm) else None,
        mem_mhz_median=_median(pooled(samples, "mem_mhz", measured)),
        temp_c_max=float(temperatures.max()) if len(temperatures) else None,
        gpu_util_mean=float(use.mean()) if len(use) else None,
        reasons=_shares(masks),
        slowed_share=float((masks.astype(np.int64) & SLOWED != 0).mean()) if len(masks) else None,
    )


def gpu_gates(
    summaries: Sequence[GpuSummary], *, simulated: bool = False, servers_alive: int | None = None
) -> tuple[Gate, ...]:
    """Doubts that the GPU itself raises. `servers_alive`: how many servers should have been on the GPU at a time; None: not known."""
    gates: list[Gate] = []
    for s in summaries:
        gates += _gates_of(s, simulated, servers_alive)
    for other in summaries[1:]:
        gates += _clock_gates(summaries[0], other)
    return tuple(gates)


def _gates_of(s: GpuSummary, simulated: bool, servers_alive: int | None) -> list[Gate]:
    gates = []
    slowed = {name: share for name, share in s.reasons.items() if name in ABNORMAL and share > ABNORMAL_SHARE}
    if slowed:
        words = ", ".join(f"{name} in {share:.0%} of samples" for name, share in slowed.items())
        fact = f"The GPU was slowed down under {s.target}: {words}."
        gates.append(_flag("gpu_throttled", s.target, fact, "Look at cooling and power supply, then measure again."))
    if s.lost:
        fact = f"The GPU or its driver went away while {s.target} was measured."
        gates.append(_flag("gpu_lost", s.target, fact, "See the sidecar's log and dmesg (Xid), then measure again."))
    # Over several GPUs a server has a process on each: their number says nothing.
    if servers_alive is not None and s.gpus <= 1 and len(s.processes) > servers_alive:
        seen = f"{len(s.processes)} processes held memory on the GPU under {s.target}"
        fact = f"{seen}, for {servers_alive} server(s): {', '.join(s.processes)}."
        gates.append(_flag("gpu_shared", s.target, fact, "Stop what does not belong to the run."))
    if s.gpus > 1:
        fact = f"The sidecar of {s.target} watches {s.gpus} GPUs: whole-GPU memory, power and energy are their sum, clocks and utilization are pooled."
        gates.append(
            _flag(
                "gpu_several", s.target, fact, "If the server uses fewer, start the sidecar with --gpu INDEX or UUID."
            )
        )
    if s.fake and not simulated:
        gates.append(_replayed(s.target))
    return gates


def _replayed(target: str) -> Gate:
    return Gate(
        code="gpu_replayed",
        severity=Severity.INVALID,
        fact=f"The GPU samples of {target} are a replayed recording, not this server's GPU.",
        next_step="Start the sidecar without --fake on the GPU's host.",
        metrics=("joules_per_request", "kj_per_1000_images", "mean_power_w", "gpu_peak_gib"),
        targets=(target,),
    )


def _clock_gates(a: GpuSummary, b: GpuSummary) -> list[Gate]:
    if not a.sm_mhz_median or not b.sm_mhz_median:
        return []
    ratio = b.sm_mhz_median / a.sm_mhz_median
    if abs(ratio - 1) <= CLOCKS_DIFFER:
        return []
    caps = f" (at the power cap in {a.reasons.get(POWER_CAP, 0):.0%} and {b.reasons.get(POWER_CAP, 0):.0%} of samples)"
    return [
        Gate(
            code="gpu_clocks_differ",
            severity=Severity.FLAG,
            fact=f"Median SM clock {a.sm_mhz_median:.0f} MHz under {a.target}, {b.sm_mhz_median:.0f} MHz under {b.target}{caps}.",
            next_step="Part of the difference may be the clock's. Lock it (nvidia-smi -lgc) to compare at one clock.",
            targets=(a.target, b.target),
        )
    ]


def _flag(code: str, target: str, fact: str, next_step: str) -> Gate:
    return Gate(code=code, severity=Severity.FLAG, fact=fact, next_step=next_step, targets=(target,))


NO_SIDECAR = "GPU not measured: no sidecar"


def by_target(gpus: Iterable[GpuEvidence], target: str) -> GpuEvidence:
    """The evidence that belongs to `target`: its own, else that of the GPU which it shares with others."""
    every = tuple(gpus)
    own = [g for g in every if g.target == target]
    shared = [g for g in every if g.target is None and (not g.shared_by or target in g.shared_by)]
    return next(iter(own + shared), None) or GpuEvidence(why=NO_SIDECAR)
