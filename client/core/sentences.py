"""The sentences that head a report: what was asked, at which load, with which pictures, and the verdict."""

from __future__ import annotations

from client.core.blocks import levels_of
from client.core.cut import reached_by_all
from client.core.evidence import Evidence
from client.core.findings import Action, Findings, Level, TargetFindings
from client.core.names import NAMES
from client.core.plan import Arrival, LoadProfile, RunPlan
from client.core.recommend import BETTER, WORSE, quality_of, side_of
from client.core.warmup import first_level


def question(plan: RunPlan) -> str:
    names = [t.name for t in plan.targets]
    model = next((t.model for t in plan.targets if t.model), "this model")
    if len(names) == 1:
        return f"How does {names[0]} serve {model}?"
    others = " or ".join(names[1:])
    return f"Shall I serve {model} as {others} instead of {names[0]}?"


def load_told(evidence: Evidence, targets: dict[str, TargetFindings], steps: tuple[Level, ...]) -> str:
    """The load that carries the verdict, with what was measured of it where the run ended before that was all."""
    came = reached_by_all(evidence, first_level(evidence) or 0)
    planned = {name: one.planned for name, one in came.items() if one.planned is not None}
    if all(one.whole for one in came.values()):
        of_each = {name: t.requests_sent for name, t in targets.items()} if evidence.separate_runs else None
        return load_sentence(evidence.plan, None, of_each, next((step.label for step in steps if step.cut_short), None))
    counts = {name: one.done for name, one in came.items()}
    return load_sentence(
        evidence.plan, counts, planned if evidence.separate_runs and len(planned) == len(came) else None
    )


def load_sentence(
    plan: RunPlan, cut_short: dict[str, int] | None = None, of_each: dict[str, int] | None = None, cut_later: str | None = None
) -> str:  # fmt: skip
    """`cut_short`: target -> measured requests, of a run that ended before all of this load was measured; the plan's own number would
    claim too much. `of_each`: of two runs, each with a plan of its own, what was measured; with `cut_short` what was planned.
    `cut_later`: of a sweep, the load at which it ended, where that is not the one told of."""
    load = levels_of(plan.load)[0]
    if load.arrival is Arrival.CLOSED:
        how = (
            "one request at a time" if load.concurrency == 1 else f"{load.concurrency} requests in flight (closed loop)"
        )
    elif load.arrival is Arrival.REPLAY:
        how = "arrivals replayed from a saved run"
    else:
        how = f"{_rate(load)}, {_arrivals(load)} (open loop)"
    if load.max_in_flight is not None:
        how = f"{how}, at most {load.max_in_flight} in flight"
    per = " per arm" if len(plan.targets) > 1 else ""
    length = (
        f"{load.requests:,} measured requests{per}"
        if load.requests is not None
        else f"{load.duration_s:g} s{per}"
        if load.duration_s
        else ""
    )
    if plan.load.sweep is not None:
        how = f"{how}, the first of {len(plan.load.sweep.values)} loads"
    if of_each:
        length = _of_each(of_each)
    if cut_short is not None:
        length = _until_then(cut_short, length.removeprefix("measured requests: "))
    elif cut_later is not None:
        length = f"{length}; the run was cut short at {cut_later}"
    return f"{how}, {length}" if length else how


def _of_each(counts: dict[str, int]) -> str:
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values())):,} measured requests per arm"
    return "measured requests: " + ", ".join(f"{n:,} for {name}" for name, n in counts.items())


def _rate(load: LoadProfile) -> str:
    if load.rate_per_s is None:
        return "an unstated rate"
    if load.rate_end_per_s is not None:
        ramps = load.blocks_per_arm if load.requests is None else min(load.blocks_per_arm, load.requests)
        times = "" if ramps == 1 else f", {ramps} times"
        return f"a ramp from {load.rate_per_s:g} to {load.rate_end_per_s:g} requests per second{times}"
    return f"{load.rate_per_s:g} requests per second"


def _arrivals(load: LoadProfile) -> str:
    shape = f" of burstiness {load.burstiness:g}" if load.arrival is Arrival.GAMMA else ""
    return f"{load.arrival} arrivals{shape}"


def _until_then(cut_short: dict[str, int], planned: str) -> str:
    """'cut short: 12 requests measured for bf16, 8 for fp8; planned were 30 measured requests per arm'."""
    counts = [f"{n:,} request{'' if n == 1 else 's'}" if k == 0 else f"{n:,}" for k, n in enumerate(cut_short.values())]
    if len(set(cut_short.values())) == 1:
        told = f"{counts[0]} measured{' per arm' if len(cut_short) > 1 else ''}"
    else:
        first, *others = (f"{count} for {name}" for name, count in zip(cut_short, counts, strict=True))
        told = ", ".join([first.replace(" for ", " measured for ", 1), *others])
    return f"cut short: {told}" + (f"; planned were {planned}" if planned else "")


def workload_sentence(plan: RunPlan, targets: dict[str, TargetFindings], originals: int | None = None) -> str:
    """`originals`: how many different pictures the run drew on, where variants of them were sent."""
    work = plan.workload
    distinct = max((t.distinct_images for t in targets.values()), default=0)
    source = "synthetic pictures" if work.images == "synthetic" else f"pictures from {work.images}"
    size = (
        f" of {work.width}x{work.height}" if work.images == "synthetic" else f", longest side at most {work.max_side}"
    )
    if work.repeat_image:
        images = f"one image again and again ({source}{size})"
    elif originals is not None and originals < distinct:
        images = f"{distinct} variants of {originals} different {source}{size}, each with pixels of its own"
    else:
        images = f"{distinct} different {source}{size}"
    length = f"{'exactly' if work.ignore_eos else 'up to'} {work.max_tokens} output tokens"
    return f"{images}, {length}, temperature {work.temperature:g}"


def headline(findings: Findings) -> str:
    """The verdict in one sentence, with its load; or INVALID and why."""
    mark = "SIMULATED. " if findings.simulated else ""
    if not findings.valid:
        return f"{mark}INVALID: {findings.invalid_reasons[0]}"
    if not findings.comparisons:
        return mark + _single(findings)
    comparison = findings.comparisons[0]
    effect = comparison.effects.get(findings.primary)
    advice = findings.recommendation
    lead = {
        Action.USE: f"Use {comparison.candidate}",
        Action.KEEP: f"Keep {comparison.baseline}",
        Action.NONE: "No recommendation",
    }.get(advice.action)
    told = effect.sentence if effect is not None else f"{NAMES[findings.primary].words}: not measured."
    if advice.action is Action.DEPENDS:
        return mark + _depends(findings, told)
    if (advice.action is Action.USE and side_of(effect) != BETTER) or quality_of(comparison) == WORSE:
        # What decided is not the primary metric: it comes first.
        _, _, why = advice.sentence.partition(": ")
        return f"{mark}{lead} ({findings.load}): {why} {told[:1].upper()}{told[1:]}"
    return f"{mark}{lead} ({findings.load}): {told}"


def _depends(findings: Findings, told: str) -> str:
    """On what it depends is the answer; the metric that decides comes after. Where the loads disagree, each is named already."""
    sentence = findings.recommendation.sentence
    if findings.levels and not sentence.startswith("It depends: "):
        return sentence
    return f"It depends ({findings.load}): {sentence.removeprefix('It depends: ')} {told[:1].upper()}{told[1:]}"


def _single(findings: Findings) -> str:
    target = next(iter(findings.targets.values()), None)
    if target is None:
        return "Nothing was measured."
    found = target.metrics.get(NAMES[findings.primary].key)
    if found is None or found.value is None:
        return (
            f"{target.name}: {NAMES[findings.primary].words} not measured ({found.note if found else 'no requests'})."
        )
    interval = f" [{found.low:,.1f}, {found.high:,.1f}]" if found.low is not None and found.high is not None else ""
    return f"{target.name}: {NAMES[findings.primary].words} {found.value:,.1f} {found.unit}{interval}, n = {found.n}, at {findings.load}."
