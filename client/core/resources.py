"""Energy and money: GPU samples, windows and counts → joules and dollars. Every figure is positive with its interval, or None with a note.

Energy of one measured window, two ways. `counter`: NVML's energy counter at the window's end minus at its start. `integral`: the
trapezoid rule over the power samples inside it, summed over GPUs. Both refresh every 100 ms, so a window's borders are uncertain by
that much; the figures' intervals include it. On A100 and H100 the power sensor looks only about a quarter of the time (Yang et al.,
arXiv 2312.02741): the counter is preferred, and a disagreement is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from client.core.block_noise import EnergyBlock
from client.core.evidence import GpuEvidence
from client.core.findings import Estimate, Gate, Severity
from client.core.gpu import GpuSummary as GpuSummary
from client.core.gpu import gpu_gates as gpu_gates
from client.core.gpu import gpu_summary as gpu_summary
from client.core.gpu import series, windows_of
from client.core.records import GpuSample, Outcome, Phase, PhaseWindow, RequestRecord

REFRESH_S = 0.1
"""How often the driver renews power and energy (measured on an H100)."""
MIN_TOTAL_S = 2.0
MIN_WINDOW_S = 1.0
MAX_HOLE_NS = 1_000_000_000
DISAGREE = 0.10
S = 1_000_000_000


class Part(msgspec.Struct, frozen=True):
    """Energy of one window, J, or why not."""

    joules: float | None = None
    why: str | None = None


def ok_in_windows(target: str, windows: Iterable[PhaseWindow], records: Iterable[RequestRecord]) -> tuple[int, ...]:
    """Requests of `target`, of whatever phase, that ended well inside each of its measured windows, in order of time."""
    measured = windows_of(windows, target, Phase.MEASURE)
    done = [r.done_ns for r in records if r.target == target and r.outcome is Outcome.OK and r.done_ns is not None]
    return tuple(sum(w.start_ns <= t <= w.end_ns for t in done) for w in measured)


def counter_energy(window: PhaseWindow) -> Part:
    """The counter's difference. It counts since the driver was loaded, so a step back means a reload, and no step means no counter."""
    start, end = window.energy_start_mj, window.energy_end_mj
    if start is None or end is None:
        return Part(None, "the energy counter was not read")
    if end < start:
        return Part(None, "the energy counter stepped back (driver reloaded?)")
    if end == start:
        return Part(None, "the energy counter did not move")
    return Part((end - start) / 1000)


def integral_energy(window: PhaseWindow, samples: Sequence[GpuSample], field: str = "power_mw") -> Part:
    """Trapezoid rule over `field` (mW) from border to border, summed over GPUs. None where samples leave a hole of over a second."""
    every = series(samples, field)
    if not every:
        return Part(None, "power cannot be read")
    mute = {s.gpu for s in samples} - {gpu for gpu, _ in every}
    if mute:
        return Part(None, f"GPU {min(mute)} gives no power, and a sum over the others would look like a saving")
    total = 0.0
    for t, v in every.values():
        part = _trapezoid(window, t[v > 0], v[v > 0])
        if part.joules is None:
            return part
        total += part.joules
    return Part(total)


def _trapezoid(window: PhaseWindow, t: NDArray[np.int64], mw: NDArray[np.float64]) -> Part:
    """Zero power is no reading: a GPU that is on draws some."""
    near = (t >= window.start_ns - MAX_HOLE_NS) & (t <= window.end_ns + MAX_HOLE_NS)
    t, mw = t[near], mw[near]
    inside = (t > window.start_ns) & (t < window.end_ns)
    if inside.sum() < 2:
        return Part(None, "fewer than two power samples in a window")
    marks = np.concatenate(([window.start_ns], t[inside], [window.end_ns]))
    # Beyond the first or last sample np.interp holds the edge value; the hole check keeps that stretch under a second.
    if np.diff(marks).max() > MAX_HOLE_NS:
        return Part(None, f"a hole of {np.diff(marks).max() / S:.1f} s in the power samples")
    watts = np.interp(marks, t, mw) / 1000
    return Part(float(np.trapezoid(watts, (marks - marks[0]) / S)))


def energy(
    target: str,
    gpu: GpuEvidence,
    windows: Iterable[PhaseWindow],
    ok_requests: int,
    *,
    ok_by_window: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Energy of the measured windows of `target`: whole GPU, idle share and any idle neighbour included.

    `ok_requests`: requests that succeeded inside those windows, lead-in and lead-out included, for their energy is in the counter too
    (`ok_in_windows` counts them). `ok_by_window`: the same for each window in order of time, which allows an interval over blocks. Keys: energy_counter_j, energy_integral_j, counter_against_integral (ratio − 1), mean_power_w,
    joules_per_request, kj_per_1000_images.
    """
    measured = windows_of(windows, target, Phase.MEASURE)
    samples = [] if gpu.why else _near(gpu.samples, measured)
    counter = [counter_energy(w) for w in measured]
    integral = _integrals(measured, samples)
    too_short = _too_short(measured)
    seconds = sum((w.end_ns - w.start_ns) / S for w in measured)
    by_counter, by_integral = _total(counter, too_short), _total(integral, too_short or gpu.why)
    chosen, source = (counter, by_counter) if by_counter.value is not None else (integral, by_integral)
    origin = None if by_counter.value is not None else f"from the integral of power ({_why(counter)})"
    if origin is not None and gpu.clock_error_ns:
        origin += f", clocks of the two hosts known to ±{gpu.clock_error_ns / 1e6:.1f} ms"
    # Samples of another host may be misplaced by the clocks' error; the counter is read at the borders themselves.
    slack_s = REFRESH_S if origin is None else REFRESH_S + (gpu.clock_error_ns or 0) / S
    borders = min(1.0, slack_s * len(measured) / seconds) if seconds else 1.0
    requests = _ratio(chosen, ok_by_window, ok_requests, source, borders, confidence)
    power = _power(chosen, measured, source, borders, confidence)
    found = {
        "energy_counter_j": by_counter,
        "energy_integral_j": by_integral,
        "counter_against_integral": _agreement(by_counter, by_integral),
        "mean_power_w": _noted(power, origin),
        "joules_per_request": _noted(requests, origin),
    }
    found["kj_per_1000_images"] = msgspec.structs.replace(found["joules_per_request"], unit="kJ")
    return found


def energy_blocks(
    target: str, gpu: GpuEvidence, windows: Iterable[PhaseWindow], ok_by_window: Sequence[int]
) -> tuple[EnergyBlock, ...]:
    """The same windows one by one, by the counter or else by the integral; none where one of them has neither."""
    measured = windows_of(windows, target, Phase.MEASURE)
    counter = [counter_energy(w) for w in measured]
    known = all(p.joules is not None for p in counter)
    parts = counter if known or gpu.why else _integrals(measured, _near(gpu.samples, measured))
    if _too_short(measured) or any(p.joules is None for p in parts) or len(ok_by_window) != len(measured):
        return ()
    return tuple(
        EnergyBlock(
            number=w.block, start_ns=w.start_ns, joules=p.joules or 0.0, requests=n, seconds=(w.end_ns - w.start_ns) / S
        )
        for w, p, n in zip(measured, parts, ok_by_window, strict=True)
    )


def _near(samples: Iterable[GpuSample], windows: Sequence[PhaseWindow]) -> list[GpuSample]:
    if not windows:
        return []
    low, high = windows[0].start_ns - 2 * MAX_HOLE_NS, max(w.end_ns for w in windows) + 2 * MAX_HOLE_NS
    return [s for s in samples if low <= s.mono_ns <= high]


def _integrals(windows: Sequence[PhaseWindow], samples: Sequence[GpuSample]) -> list[Part]:
    """Instant power where every window has it, else NVML's averaged power (over 1 s on most GPUs: it lags at the borders)."""
    instant = [integral_energy(w, samples, "power_instant_mw") for w in windows]
    if instant and all(p.joules is not None for p in instant):
        return instant
    return [integral_energy(w, samples, "power_mw") for w in windows]


def _too_short(windows: Sequence[PhaseWindow]) -> str | None:
    if not windows:
        return "no measured phase"
    lengths = [(w.end_ns - w.start_ns) / S for w in windows]
    if sum(lengths) < MIN_TOTAL_S or min(lengths) < MIN_WINDOW_S:
        return (
            f"needs measured phases of at least {MIN_WINDOW_S:g} s each and {MIN_TOTAL_S:g} s in all "
            f"(power refreshes every 100 ms); the shortest was {min(lengths):.1f} s of {sum(lengths):.1f} s"
        )
    return None


def _total(parts: Sequence[Part], why: str | None) -> Estimate:
    """All windows or nothing: a sum over some of them has no count of requests to go with."""
    missing = why or _why(parts)
    if missing is not None:
        return Estimate(unit="J", note=f"unavailable: {missing}")
    return Estimate(value=sum(p.joules or 0.0 for p in parts), n=len(parts), unit="J")


def _why(parts: Sequence[Part]) -> str | None:
    return next((p.why for p in parts if p.joules is None), None)


def _agreement(counter: Estimate, integral: Estimate) -> Estimate:
    if counter.value is None or not integral.value:
        return Estimate(note="not measured: needs the counter and the integral both")
    off = counter.value / integral.value - 1
    note = f"counter and integral of power disagree by {off:+.0%}" if abs(off) > DISAGREE else None
    return Estimate(value=off, n=counter.n, note=note)


def _interval(joules: Sequence[float], per: Sequence[float], confidence: float) -> float:
    """Half-width, on a log scale, of the ratio Σ joules / Σ per over windows as clusters (Cochran, Sampling Techniques, §6.3, and the
    delta method). 0 when one window is all there is: then only the borders are in the interval, and the note says so."""
    k = len(joules)
    if k < 2:
        return 0.0
    ratio = sum(joules) / sum(per)
    residual = sum((j - ratio * p) ** 2 for j, p in zip(joules, per, strict=True))
    error = math.sqrt(k / (k - 1) * residual) / sum(joules)
    return float(stats.t.ppf((1 + confidence) / 2, k - 1)) * error


def _figure(value: float, unit: str, half: float, borders: float, parts: int, clusters: bool) -> Estimate:
    what = f"over {parts} blocks, with" if clusters else "from"
    return Estimate(
        value=value,
        low=value * math.exp(-half) * (1 - borders) or None,
        high=value * math.exp(half) * (1 + borders),
        n=parts,
        unit=unit,
        note=f"interval {what} the windows' borders (±{borders:.1%}: energy refreshes every 100 ms)",
    )


def _ratio(
    parts: Sequence[Part], by_window: Sequence[int] | None, ok: int, total: Estimate, borders: float, confidence: float
) -> Estimate:
    if total.value is None:
        return Estimate(unit="J", note=total.note)
    if ok <= 0:
        return Estimate(unit="J", note="unavailable: no request succeeded")
    clusters = by_window is not None and len(by_window) == len(parts) > 1 and sum(by_window) == ok
    half = (
        _interval([p.joules or 0.0 for p in parts], [float(n) for n in by_window or ()], confidence)
        if clusters
        else 0.0
    )
    return _figure(total.value / ok, "J", half, borders, len(parts), clusters)


def _power(
    parts: Sequence[Part], windows: Sequence[PhaseWindow], total: Estimate, borders: float, confidence: float
) -> Estimate:
    if total.value is None:
        return Estimate(unit="W", note=total.note)
    lengths = [(w.end_ns - w.start_ns) / S for w in windows]
    half = _interval([p.joules or 0.0 for p in parts], lengths, confidence)
    return _figure(total.value / sum(lengths), "W", half, borders, len(parts), len(parts) > 1)


def _noted(estimate: Estimate, origin: str | None) -> Estimate:
    """Says where a figure comes from when it is not the counter."""
    if origin is None or estimate.value is None:
        return estimate
    return msgspec.structs.replace(estimate, note=f"{origin}; {estimate.note}")


def energy_gate(target: str, found: dict[str, Estimate]) -> Gate | None:
    off = found["counter_against_integral"]
    if off.value is None or abs(off.value) <= DISAGREE:
        return None
    return Gate(
        code="gpu_energy_disagrees",
        severity=Severity.FLAG,
        fact=f"For {target} the energy counter and the integral of power disagree by {off.value:+.0%}.",
        next_step="Measure longer phases; on short ones the sensor's averaging dominates.",
        metrics=("joules_per_request", "kj_per_1000_images", "mean_power_w"),
        targets=(target,),
    )


def cost(price_per_hour: float | None, throughput: Estimate, goodput: Estimate | None = None) -> dict[str, Estimate]:
    """USD per 1,000 images (one a request) at a price per hour, from requests per second as measured, and from those within the SLO.

    Says nothing of idle hours: a server that is paid for and waits costs the same.
    """
    found = {"usd_per_1000_images": _price(price_per_hour, throughput, "throughput")}
    if goodput is not None:
        found["usd_per_1000_images_at_slo"] = _price(price_per_hour, goodput, "goodput")
    return found


def _price(price: float | None, rate: Estimate, name: str) -> Estimate:
    if price is None or not math.isfinite(price) or price <= 0:
        return Estimate(unit="USD", note="unavailable: no price per hour is given for this target")
    if rate.value is None or not math.isfinite(rate.value) or rate.value <= 0:
        return Estimate(unit="USD", n=rate.n, note=f"unavailable: {rate.note or f'{name} is not above zero'}")
    per = price / 3600 * 1000
    bounded = rate.low is not None and rate.low > 0 and rate.high is not None
    return Estimate(
        value=per / rate.value,
        low=per / rate.high if bounded and rate.high else None,
        high=per / rate.low if bounded and rate.low else None,
        n=rate.n,
        unit="USD",
        note=None if bounded else f"no interval: {name} has none above zero",
    )
