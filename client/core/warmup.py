"""Where the warm-up reaches into the measured requests: that beginning is left out of every steady-state number, of all arms alike.

The end is the one that `client.core.steady` finds for each stay of each server: MSER-5's, and only where the beginning is told apart from
the rest beyond doubt (four standard errors, and more than 5 %). Arms are cut by picture, so that pairs stay pairs; where they are not paired
each stay loses as many first requests as the longest warm-up. Failures, output lengths and what else is no matter of speed stay counted over
all measured requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from client.core.beginnings import Ahead
from client.core.blocks import levels_of
from client.core.evidence import Evidence
from client.core.gpu import series
from client.core.metrics import Arm, arm
from client.core.pairing import Sides, sides
from client.core.plan import Arrival, Design
from client.core.records import GpuSample, Phase, PhaseWindow
from client.core.stats import Floats
from client.core.steady import Course, Settling, settling, settling_after
from client.core.table import NEVER, Ints

LOOKED_AT = ("e2e", "ttft")
"""Both: what a server still loads or compiles lies before the first token, and may be little of a long answer."""
LEAST_KEPT = 0.5
"""Of the requests of each stay. A warm-up of more than that is none: nothing is left out, and the run says that it did not settle."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Of one stay: its first `end` measured requests are `size` (relative) apart from the rest in `metric`."""

    target: str
    stay: int
    stays: int
    end: int
    size: float
    metric: str


@dataclass(frozen=True, slots=True)
class Steady:
    """The arms and their comparisons without what belongs to the warm-up. `left_out`: target -> how many measured requests that is."""

    arms: dict[str, Arm]
    sides: tuple[Sides, ...]
    left_out: dict[str, int]
    gone_ns: dict[str, Ints]
    """When those were sent."""
    found: tuple[Beginning, ...] = ()
    """Every beginning told apart, whether it could be left out or not."""
    warm: Mapping[str, Arm] = field(default_factory=dict)
    queued: bool = False
    """An open loop: what arrivals close together do to latency looks like a warm-up and like a step, and is what it measures."""

    def courses(self) -> dict[tuple[str, int, int], Settling]:
        """(target, stay, of so many) -> the course of end-to-end latency in what is left of that stay. None of an open loop, which has a gate of
        its own for a queue that grows."""
        if self.queued:
            return {}
        every = {name: stays_of(mine, self.sides) for name, mine in self.arms.items()}
        return {
            (name, number, len(stays)): settling(values) if self.cut else settling_after(earlier, values)
            for name, stays in every.items()
            for number in range(len(stays))
            for earlier, values in [of_one_size(self.warm.get(name), stays, number, "e2e")]
        }

    @property
    def cut(self) -> bool:
        return any(self.left_out.values())


def steady_state(
    arms: dict[str, Arm],
    pairs: tuple[Sides, ...],
    design: Design,
    warm: Mapping[str, Arm] | None = None,
    arrival: Arrival = Arrival.CLOSED,
) -> Steady:
    """`pairs`: `arms` compared, the baseline first in `arms`. `warm`: the warm-up requests of each target, all stays together.
    Arms and pairs come back as they are where no warm-up is found among them, and in an open loop."""
    warm, queued = warm or {}, arrival is not Arrival.CLOSED
    found = [
        (stay, one)
        for target in (() if queued else arms)
        for stay, one in _beginnings(target, stays_of(arms[target], pairs), warm.get(target))
    ]
    told = tuple(one for _, one in found)
    if (
        not queued
    ):  # warm-up requests meet no queue, so that any ratio that changes with the load would look like a warm-up
        pairs = tuple(_with_ahead(both, arms, warm) for both in pairs)
    whole = Steady(
        arms,
        pairs,
        dict.fromkeys(arms, 0),
        {name: mine.start_ns[:0] for name, mine in arms.items()},
        told,
        warm,
        queued,
    )
    if not found:
        return whole
    if pairs and all(both.paired for both in pairs):
        pictures = np.concatenate([stay.image[: one.end] for stay, one in found])
        keep = {name: ~np.isin(mine.image, pictures) for name, mine in arms.items()}
    else:
        longest = max(one.end for one in told)
        late = {name: [stay.rows[longest:] for stay in stays_of(mine, pairs)] for name, mine in arms.items()}
        keep = {name: np.isin(mine.rows, np.concatenate(late[name])) for name, mine in arms.items()}
    kept = {name: mine.part(keep[name]) for name, mine in arms.items()}
    if any(not _enough(kept[name], stays_of(mine, pairs)) for name, mine in arms.items()):
        return whole
    baseline, *others = kept.values()
    left_out = {name: sum(map(_gone(kept[name]), stays_of(mine, pairs))) for name, mine in arms.items()}
    gone = {name: mine.start_ns[~keep[name]] for name, mine in arms.items()}
    again = tuple(_with_ahead(sides(baseline, other, design), arms, warm) for other in others) if pairs else ()
    return Steady(kept, again, left_out, gone, told, warm)


def steady_of(evidence: Evidence) -> Steady:
    """Of the level that carries the verdict, without the gaps between chunks. Warm-up requests come before the first level only."""
    plan, level = evidence.plan, first_level(evidence)
    arms = {t.name: arm(evidence.records, t.name, plan.timeouts, level=level, with_gaps=False) for t in plan.targets}
    baseline, *others = arms.values()
    pairs = tuple(sides(baseline, other, plan.design) for other in others)
    return steady_state(arms, pairs, plan.design, warm_arms(evidence), levels_of(plan.load)[0].arrival)


def warm_arms(evidence: Evidence) -> dict[str, Arm]:
    """The warm-up requests of each target."""
    plan = evidence.plan
    return {
        t.name: arm(evidence.records, t.name, plan.timeouts, phase=Phase.WARMUP, with_gaps=False) for t in plan.targets
    }


def first_level(evidence: Evidence) -> int | None:
    """Of a sweep the first level carries the verdict; None where nothing was measured."""
    rows = evidence.records.where(phase=Phase.MEASURE)
    return int(evidence.records["level"][rows].min()) if len(rows) else None


def steady_windows(
    windows: Sequence[PhaseWindow], steady: Steady, target: str, samples: Iterable[GpuSample]
) -> list[PhaseWindow]:
    """The measured windows of `target`, each from its first request that is left on; those of which none is left are gone.

    The energy counter was read at the borders of whole windows. Where a window begins later now, it is read from the samples, as a straight
    line between two of them; None where they hold no counter.
    """
    starts, gone = steady.arms[target].start_ns, steady.gone_ns[target]
    found = []
    for window in windows:
        kept, lost = (ns[(ns >= window.start_ns) & (ns <= window.end_ns)] for ns in (starts, gone))
        if not len(lost):
            found.append(window)
        elif len(kept):
            begin = int(kept.min())
            found.append(msgspec.structs.replace(window, start_ns=begin, energy_start_mj=_counter_at(begin, samples)))
    return found


def _counter_at(ns: int, samples: Iterable[GpuSample]) -> int | None:
    """Sum of the energy counters of all GPUs at a time between two of their samples, mJ."""
    samples = list(samples)
    counters = series(samples, "energy_mj")
    if len(counters) < len({(s.gpu, s.uuid) for s in samples}):
        return None  # a GPU without a counter: a sum over the others would look like a saving
    if not counters or any(not t[0] <= ns <= t[-1] for t, _ in counters.values()):
        return None
    return round(sum(float(np.interp(ns, t, v)) for t, v in counters.values()))


def stays_of(mine: Arm, pairs: tuple[Sides, ...]) -> tuple[Arm, ...]:
    """The measured requests of each stay of a server: what changed between two of them is drift, and no matter of warming up."""
    for both in pairs:
        if both.parts[1].target == mine.target and both.second_a:
            return both.looks_at_baseline
    return (mine,)


def of_one_size(warm: Arm | None, stays: tuple[Arm, ...], number: int, metric: str) -> tuple[Floats, Floats]:
    """Latencies of a stay's warm-up requests, and of its measured ones, without what the sizes of their pictures explain.

    Large pictures first, as in a folder sorted by name, are no warm-up. A curve of the log latency over the log of the prompt tokens is
    taken out where both are known (least squares). A warm-up that comes with pictures of its own size cannot be told from them.
    """
    stay = stays[number]
    ahead = _ahead(warm, stays, number)
    values = np.concatenate(
        [stay.latency[metric][:0] if ahead is None else ahead.latency[metric], stay.latency[metric]]
    )
    tokens = np.concatenate([stay.prompt_tokens[:0] if ahead is None else ahead.prompt_tokens, stay.prompt_tokens])
    first = len(values) - len(stay)
    levelled = _levelled(values, tokens)
    return levelled[:first], levelled[first:]


def _ahead(warm: Arm | None, stays: tuple[Arm, ...], number: int) -> Arm | None:
    """The warm-up requests that were sent after the stay before and ahead of this one."""
    if warm is None or not len(stays[number]):
        return None
    since = stays[number - 1].start_ns[-1] if number else -np.inf
    return warm.part((warm.start_ns > since) & (warm.start_ns < stays[number].start_ns[0]))


def _with_ahead(both: Sides, arms: Mapping[str, Arm], warm: Mapping[str, Arm]) -> Sides:
    """With what was sent ahead of its pairs: the warm-up requests, and of `arms` what is not among the pairs any more."""
    if not both.paired or len(both.parts) != 2:
        return both
    candidate, baseline = both.parts
    gone = {
        part.target: mine.part(~np.isin(mine.rows, part.rows))
        for part in both.parts
        for mine in [arms.get(part.target, part)]
    }
    stays, ahead = both.looks_at_baseline, []
    for number, stay in enumerate(stays):
        mine = _ahead(warm.get(baseline.target), stays, number)
        since, lost = (stays[number - 1].start_ns[-1] if number else -np.inf), gone[baseline.target]
        lost = lost.part((lost.start_ns > since) & (lost.start_ns < (stay.start_ns.min() if len(stay) else since)))
        whole = _ahead(warm.get(candidate.target), (candidate,), 0)
        ahead.append(Ahead(_some(whole, gone[candidate.target]), _some(mine, lost)))
    return replace(both, ahead=tuple(ahead))


def _some(warm: Arm | None, lost: Arm) -> tuple[Arm, ...]:
    return tuple(part for part in (warm, lost) if part is not None)


def _levelled(values: Floats, tokens: Ints) -> Floats:
    known = np.isfinite(values) & (values > 0) & (tokens != NEVER) & (tokens > 0)
    sizes = len(np.unique(tokens[known]))
    if sizes < 2:
        return values
    logs, x = np.log(values[known]), np.log(tokens[known])
    shape = np.vander(x - x.mean(), min(sizes, 3))
    fitted = shape @ np.linalg.lstsq(shape, logs, rcond=None)[0]
    levelled = values.copy()
    levelled[known] = np.exp(logs - fitted + logs.mean())
    return levelled


def _beginnings(target: str, stays: tuple[Arm, ...], warm: Arm | None) -> list[tuple[Arm, Beginning]]:
    found = []
    for number, stay in enumerate(stays):
        ends = [
            Beginning(target, number, len(stays), int(known[one.end - 1]) + 1, one.size, metric)
            for metric in LOOKED_AT
            if metric in stay.latency
            for known in [np.flatnonzero(np.isfinite(stay.latency[metric]) & (stay.latency[metric] > 0))]
            if (one := settling_after(*of_one_size(warm, stays, number, metric))).course is Course.LATE and one.end
        ]
        if ends:
            found.append((stay, max(ends, key=lambda one: one.end)))
    return found


def _gone(kept: Arm) -> Callable[[Arm], int]:
    return lambda stay: int((~np.isin(stay.rows, kept.rows)).sum())


def _enough(kept: Arm, stays: tuple[Arm, ...]) -> bool:
    return all(_gone(kept)(stay) <= (1 - LEAST_KEPT) * len(stay) for stay in stays)
