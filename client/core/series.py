"""Evidence -> the points that charts draw: as many as an eye can tell apart, however many requests there were.

A chart that leaves points out says so: every series carries `of`, the number of requests or readings that it stands for.
Times are seconds since the run's first stamp. The figures of a report are `Findings`; nothing here is printed as a result.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from client.core.evidence import Evidence
from client.core.findings import Memory
from client.core.gpu import by_target, series
from client.core.metrics import MS, Arm
from client.core.overlaps import Overlaps, overlaps_of
from client.core.records import Outcome, Phase
from client.core.table import NEVER, OUTCOMES, Ints
from client.core.warmup import steady_of

MOST = 1000
"""Points for each target: more would cover one another."""
FINE = 240
"""Points of a line that is drawn as one."""
GIB = float(1 << 30)

Floats = npt.NDArray[np.float64]


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """When one kind of load ran against one target."""

    target: str
    phase: Phase
    start_s: float
    end_s: float


class Dots(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one target: when each was sent and how long it took; `failed` ones lasted `ms` until they failed."""

    target: str
    t_s: tuple[float, ...] = ()
    ms: tuple[float, ...] = ()
    failed: tuple[bool, ...] = ()
    of: int = 0


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """Order statistics of one latency: one request in `one_in` took `ms` or longer. Ends where requests timed out."""

    target: str
    metric: str
    one_in: tuple[float, ...] = ()
    ms: tuple[float, ...] = ()
    of: int = 0


class Cloud(msgspec.Struct, frozen=True, kw_only=True):
    """Time to first token against the tokens of the prompt, of which the picture is all but a few."""

    target: str
    tokens: tuple[int, ...] = ()
    ms: tuple[float, ...] = ()
    of: int = 0


class GpuLine(msgspec.Struct, frozen=True, kw_only=True):
    """Readings of one GPU, `quantity` is power_w, memory_gib or sm_mhz. `target` None: the GPU is shared by all targets."""

    target: str | None
    gpu: int
    quantity: str
    t_s: tuple[float, ...] = ()
    value: tuple[float, ...] = ()
    low: float
    mean: float
    high: float
    """Of all readings, those that are not drawn included."""
    of: int


class Part(msgspec.Struct, frozen=True):
    name: str
    gib: float


class Series(msgspec.Struct, frozen=True, kw_only=True):
    stretches: tuple[Stretch, ...] = ()
    latency: tuple[Dots, ...] = ()
    tails: tuple[Tail, ...] = ()
    clouds: tuple[Cloud, ...] = ()
    gpu: tuple[GpuLine, ...] = ()
    memory: dict[str, tuple[Part, ...]] = {}
    """Target -> parts that add up to the card; absent where the log did not tell enough."""
    overlaps: tuple[Overlaps, ...] = ()


def series_of(evidence: Evidence, memory: dict[str, Memory]) -> Series:
    """`memory` by target as the analysis found it."""
    names = [target.name for target in evidence.plan.targets]
    start = _start(evidence)
    arms = list(steady_of(evidence).arms.values())
    return Series(
        stretches=tuple(
            Stretch(target=w.target, phase=w.phase, start_s=_s(w.start_ns - start), end_s=_s(w.end_ns - start))
            for w in sorted(evidence.windows, key=lambda w: w.start_ns)
        ),
        latency=tuple(_dots(evidence, name, start) for name in names),
        tails=tuple(_tail(one, metric) for metric in ("e2e", "ttft") for one in arms),
        clouds=tuple(_cloud(one) for one in arms),
        gpu=_gpu(evidence, names, start),
        memory={name: parts for name in names if (parts := card(memory.get(name, Memory())))},
        overlaps=tuple(overlaps_of(evidence, names[0], name, MOST) for name in names[1:]),
    )


def _s(ns: float) -> float:
    return round(float(ns) / 1e9, 3)


def _start(evidence: Evidence) -> int:
    """The earliest stamp of the run; 0 when there is none."""
    intended = evidence.records["intended_ns"]
    stamps = [w.start_ns for w in evidence.windows] + ([int(intended.min())] if len(intended) else [])
    return min(stamps, default=0)


# ---------------------------------------------------------------- requests


def chosen(values: Floats, most: int) -> Ints:
    """At most `most` positions: of each run of neighbours the smallest, the largest and evenly spaced others, in order."""
    n = len(values)
    if n <= most:
        return np.arange(n)
    keep: list[int] = []
    for run in np.array_split(np.arange(n), max(1, most // 4)):
        part = values[run]
        keep += {int(run[part.argmin()]), int(run[part.argmax()]), int(run[len(run) // 3]), int(run[2 * len(run) // 3])}
    return np.array(sorted(keep), np.int64)


def _dots(evidence: Evidence, name: str, start: int) -> Dots:
    """Every phase but the quality pass, which nobody timed."""
    table = evidence.records
    rows = np.concatenate([table.where(name, phase) for phase in (Phase.COLD, Phase.WARMUP, Phase.EDGE, Phase.MEASURE)])
    sent, done, last = table["sent_ns"][rows], table["done_ns"][rows], table["last_token_ns"][rows]
    silent = [OUTCOMES.index(outcome) for outcome in (Outcome.CANCELLED, Outcome.LOST)]
    ok = table.outcome[rows] == OUTCOMES.index(Outcome.OK)
    end = np.where(ok & (last != NEVER), last, done)
    known = (sent != NEVER) & (end != NEVER) & ~np.isin(table.outcome[rows], silent)
    sent, end, ok = sent[known], end[known], ok[known]
    order = np.argsort(sent, kind="stable")
    sent, end, ok = sent[order], end[order], ok[order]
    took = (end - sent) / MS
    pick = chosen(took, MOST)
    return Dots(
        target=name,
        t_s=tuple(_s(value) for value in (sent[pick] - start).tolist()),
        ms=_rounded(took[pick]),
        failed=tuple((~ok[pick]).tolist()),
        of=len(sent),
    )


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(value, 2) for value in values.tolist())


def _tail(mine: Arm, metric: str) -> Tail:
    values = np.sort(mine.latency[metric][~np.isnan(mine.latency[metric])])
    n = len(values)
    if not n:
        return Tail(target=mine.target, metric=metric)
    left = (
        np.unique(np.round(np.geomspace(n, 1, min(n, FINE))).astype(np.int64))[::-1]
        if n > FINE
        else np.arange(n, 0, -1)
    )
    shown = left[np.isfinite(values[n - left])]
    return Tail(
        target=mine.target,
        metric=metric,
        one_in=tuple(round(n / k, 4) for k in shown.tolist()),
        ms=_rounded(values[n - shown]),
        of=n,
    )


def _cloud(mine: Arm) -> Cloud:
    known = np.flatnonzero((mine.prompt_tokens != NEVER) & np.isfinite(mine.latency["ttft"]))
    values = mine.latency["ttft"][known]
    pick = chosen(values, MOST)
    tokens = tuple(int(count) for count in mine.prompt_tokens[known][pick].tolist())
    return Cloud(target=mine.target, tokens=tokens, ms=_rounded(values[pick]), of=len(known))


# ---------------------------------------------------------------- the GPU


def _gpu(evidence: Evidence, names: list[str], start: int) -> tuple[GpuLine, ...]:
    found: list[GpuLine] = []
    shared = {name for name in names if by_target(evidence.gpu, name).target is None}
    owners = [(name, name) for name in names if name not in shared] + ([(None, names[0])] if shared else [])
    for owner, name in owners:
        samples = by_target(evidence.gpu, name).samples
        for quantity, field, scale in (
            ("power_w", "power_mw", 1e3),
            ("memory_gib", "used_v2", GIB),
            ("sm_mhz", "sm_mhz", 1.0),
        ):
            found += [
                _line(owner, key[0], quantity, (t[t >= start] - start) / 1e9, v[t >= start] / scale)
                for key, (t, v) in series(samples, field).items()
                if (t >= start).any()
            ]
    return tuple(found)


def _line(target: str | None, gpu: int, quantity: str, t: Floats, v: Floats) -> GpuLine:
    """Long series become means of equal runs of readings: the area under a power line stays."""
    runs = np.array_split(np.arange(len(t)), min(len(t), FINE))
    return GpuLine(
        target=target,
        gpu=gpu,
        quantity=quantity,
        t_s=tuple(round(float(t[run].mean()), 2) for run in runs),
        value=_rounded(np.array([v[run].mean() for run in runs])),
        low=float(v.min()),
        mean=float(v.mean()),
        high=float(v.max()),
        of=len(t),
    )


def card(memory: Memory) -> tuple[Part, ...]:
    """Parts that add up to the whole card; empty unless weights, KV cache, budget and card are known."""
    m = memory
    if m.weights_gib is None or m.kv_cache_gib is None or m.budget_gib is None or m.total_gib is None:
        return ()
    inside = [
        Part("model weights", m.weights_gib),
        Part("KV cache", m.kv_cache_gib),
        Part("activations at peak", m.activations_gib or 0.0),
        Part("CUDA graphs", m.graphs_in_budget_gib or 0.0),
    ]
    inside.append(Part("rest of the budget", max(0.0, m.budget_gib - sum(part.gib for part in inside))))
    beyond = 0.0 if m.whole_gpu_peak_gib is None else max(0.0, m.whole_gpu_peak_gib - m.budget_gib)
    outside = [Part("beyond the budget", beyond), Part("left to others", m.total_gib - m.budget_gib - beyond)]
    return tuple(Part(part.name, round(part.gib, 3)) for part in (*inside, *outside) if part.gib > 0.004)
