"""Evidence -> Findings: the whole analysis as one call. The same evidence gives the same bytes (the bootstrap is seeded by the plan)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import numpy as np

from client.core.advice import advice_on, spoiled_by
from client.core.block_noise import energy_floor
from client.core.blocks import levels_of
from client.core.conditions import parse
from client.core.counters import Difference, answered, difference
from client.core.estimates import NOT_MEASURED, arm_metrics, error_rate, single_request
from client.core.evidence import Evidence, ServerEvidence, restarts_expected
from client.core.findings import (
    Comparison,
    Effect,
    Estimate,
    Findings,
    Gate,
    Kernel,
    Level,
    Memory,
    Parity,
    TargetFindings,
)
from client.core.gates import Seen, about, fired
from client.core.generator_gates import GENERATOR_LOOKS
from client.core.gpu import by_target
from client.core.levels import knee, levels, told_of_levels
from client.core.metrics import Arm, arm
from client.core.pairing import Sides, sides
from client.core.parity_words import spoiled as spoiled_parity
from client.core.parts import Measured
from client.core.plain_effects import plain_effects, plain_p
from client.core.plan import Design, RunPlan, Target
from client.core.recommend import missing_facts
from client.core.records import Phase
from client.core.repeats import why_unpaired
from client.core.resources import cost
from client.core.run_gates import LOOKS
from client.core.sentences import headline, load_told, question, workload_sentence
from client.core.series_gates import SERIES_LOOKS
from client.core.server_gates import SERVER_LOOKS
from client.core.starts import server_start, start_sentences
from client.core.stats import order_interval
from client.core.steady import LEAST, Course, Settling, settling
from client.core.table import NEVER
from client.core.thresholds import judge
from client.core.verdict import family, judged_metrics, ratio_of, secondary_p, spoils, told_effects
from client.core.warmup import Steady, first_level, of_one_size, stays_of, steady_state, warm_arms


def analyse(evidence: Evidence, measured: Measured = Measured()) -> Findings:  # noqa: B008  (frozen)
    plan = evidence.plan
    level = first_level(evidence)
    arms = {t.name: arm(evidence.records, t.name, plan.timeouts, level=level) for t in plan.targets}
    counters = {t.name: _counted(evidence, t.name) for t in plan.targets}
    pairs = tuple(sides(arms[plan.targets[0].name], arms[t.name], plan.design) for t in plan.targets[1:])
    steady = steady_state(arms, pairs, plan.design, warm_arms(evidence), levels_of(plan.load)[0].arrival)
    seen = Seen(evidence=evidence, arms=arms, counters=counters, sides=pairs, gpu=measured.gpu, steady=steady)
    gates = fired(seen, GENERATOR_LOOKS + LOOKS + SERIES_LOOKS + SERVER_LOOKS) + measured.gates
    targets = {t.name: target_findings(t, seen, steady, measured) for t in plan.targets}
    comparisons = tuple(compare(both, targets, gates, evidence, measured) for both in steady.sides)
    steps = levels(evidence, gates, counters, {pair.candidate: pair.effects for pair in comparisons})
    return _composed(evidence, targets, comparisons, gates + told_of_levels(steps), steps)


def _counted(evidence: Evidence, target: str) -> Difference:
    server = evidence.servers.get(target)
    if server is None:
        return Difference(why="the server was not asked")
    return difference(server.before, server.after, restart_expected=target in restarts_expected(evidence))


def target_findings(target: Target, seen: Seen, steady: Steady, measured: Measured) -> TargetFindings:
    evidence, name = seen.evidence, target.name
    mine = seen.arms[name]
    server = evidence.servers.get(name)
    cold = arm(evidence.records, name, seen.plan.timeouts, phase=Phase.COLD)
    warm = arm(evidence.records, name, seen.plan.timeouts, phase=Phase.WARMUP)
    metrics = arm_metrics(steady.arms[name], seen.plan) | {"error_rate": error_rate(mine, seen.plan.confidence)}
    course = _settling(warm, mine, seen.sides, steady)
    return TargetFindings(
        name=name,
        precision=target.precision,
        model=target.model or (server.served_models[0] if server is not None and server.served_models else None),
        server_version=server.version if server is not None else None,
        simulated=target.simulated or seen.plan.simulate is not None,
        requests_sent=len(mine),
        requests_ok=int(mine.ok.sum()),
        errors=evidence.records.counts(mine.rows[~mine.ok]),
        cold_start=_cold_start(cold, warm, server),
        warm_up=_warm_up(warm, seen.plan),
        warm_up_end=course.end,
        warm_up_note=_settling_note(course),
        warm_up_left_out=steady.left_out[name],
        metrics=metrics,
        caches=_caches(seen.counters[name]),
        memory=measured.memory.get(name, Memory()),
        kernel=measured.kernel.get(name, Kernel()),
        quality=measured.quality.get(name),
        energy=measured.energy.get(name, {}),
        cost=cost(target.price_usd_per_hour, metrics["requests_per_s"], metrics.get("goodput_per_s")),
        distinct_images=len(np.unique(mine.image)),
        image_tokens=measured.image_tokens.get(name),
        gpu_name=by_target(evidence.gpu, name).info.get("name"),
        notes=_notes(mine, server, measured.gpu_missing.get(name)),
    )


def _cold_start(cold: Arm, warm: Arm, server: ServerEvidence | None) -> dict[str, Estimate]:
    """The server's start where its container was watched, and the first request of this run.

    A server that had answered others before was not cold, and the note says so.
    """
    return server_start(() if server is None else server.starts) | _first_request(cold, warm, server)


def _first_request(cold: Arm, warm: Arm, server: ServerEvidence | None) -> dict[str, Estimate]:
    found = single_request(cold)
    before = None if server is None or server.before is None else answered(server.before.text)
    earlier = 0 if before is None else before - int(cold.ok.sum()) - int(warm.ok.sum())
    if earlier <= 0:
        return found
    note = f"not cold: the server had answered {earlier:,} requests before"
    return {name: msgspec.structs.replace(item, note=note) for name, item in found.items()}


def _warm_up(warm: Arm, plan: RunPlan) -> dict[str, Estimate]:
    """`e2e_ms`: median of the warm-up requests, which came from other images than the measured ones."""
    values = np.sort(warm.latency["e2e"][np.isfinite(warm.latency["e2e"])])
    if not len(values):
        return {"e2e_ms": Estimate(unit="ms", note=NOT_MEASURED)}
    found = order_interval(values, 0.5, plan.confidence)
    low, high = (found.low, found.high) if found is not None else (float(values[0]), float(values[-1]))
    note = None if found is not None else "the interval is the range seen"
    return {"e2e_ms": Estimate(value=float(np.median(values)), low=low, high=high, n=len(values), unit="ms", note=note)}


def _settling(warm: Arm, mine: Arm, both: tuple[Sides, ...], steady: Steady) -> Settling:
    """Over the warm-up and the measured requests of the (first) stay of this server. Where it ends among the measured ones these alone
    must show it, as nothing else is left out."""
    stays = stays_of(mine, both)
    earlier, values = of_one_size(warm, stays, 0, "e2e")
    own = next((one for one in steady.found if one.target == mine.target and one.stay == 0), None)
    if own is not None:
        course = Course.LATE if steady.cut else Course.STEP
        return Settling(course, len(earlier) + own.end if steady.cut else None, own.size)
    if any(len(stay) < LEAST for stay in stays):
        return Settling(Course.FEW)
    found = settling(np.concatenate([earlier, values]))
    return found if found.end is None else dataclasses.replace(found, end=min(found.end, len(earlier)))


def _settling_note(found: Settling) -> str | None:
    if found.course is Course.FEW:
        return f"needs n ≥ {LEAST}"
    return None if found.end is not None else f"never ({found.course}, {found.size:.0%})"


def _caches(counted: Difference) -> dict[str, Estimate]:
    found = {}
    for name, hits, queries, unit in (
        ("prefix_hit_rate", "prefix_hits", "prefix_queries", "tokens"),
        ("image_hit_rate", "image_hits", "image_queries", "images"),
    ):
        rate = counted.rate(hits, queries)
        n = int(counted.counters.get(queries, 0))
        if rate is None:
            gone = (
                "no such counter"
                if queries in counted.missing or hits in counted.missing
                else f"no {unit} were counted"
            )
            why = counted.why or ("the server was restarted" if counted.restarted else gone)
            found[name] = Estimate(note=f"unknown: {why}")
        else:
            found[name] = Estimate(value=rate, low=rate, high=rate, n=n)
    found["preemptions"] = _exact(counted.counters.get("preemptions"), "")
    found["mean_queue_ms"] = _exact(counted.mean_queue_ms, "ms")
    return found


def _exact(value: float | None, unit: str) -> Estimate:
    return (
        Estimate(unit=unit, note="unknown")
        if value is None
        else Estimate(value=value, low=value, high=value, n=1, unit=unit)
    )


def _notes(mine: Arm, server: ServerEvidence | None, gpu_missing: str | None) -> tuple[str, ...]:
    found = [] if server is None else start_sentences(server.starts)
    if gpu_missing is not None:
        found.append(f"{gpu_missing.rstrip('.')}.")
    if server is not None and server.round_trip_ns is not None:
        found.append(
            f"A request that costs the server nothing took {server.round_trip_ns / 1e6:.1f} ms: network and HTTP, part of every latency."
        )
    if server is not None and server.clock_offset_s:
        found.append(
            f"The server's clock differs from ours by {server.clock_offset_s:+.0f} s: line its log up with that in mind."
        )
    if len(mine) and not (mine.tokens[mine.ok] != NEVER).all():
        found.append(
            "The server did not always give token counts: TPOT and tokens per second are over answers that have one."
        )
    return tuple(found)


def compare(
    both: Sides, targets: dict[str, TargetFindings], gates: tuple[Gate, ...], evidence: Evidence, measured: Measured
) -> Comparison:
    plan = evidence.plan
    candidate, baseline = both.parts[0].target, both.parts[1].target
    a, b = targets[baseline], targets[candidate]
    mine = about(gates, baseline, candidate)
    judged = judged_metrics(both, a.metrics, b.metrics, plan)
    kin = family(secondary_p(judged, plan) | plain_p(a, b, plan.confidence, ratio_of(judged.get("requests_per_s"))))
    found: dict[str, Effect] = told_effects(judged, kin, both, a.metrics, b.metrics, mine, plan)
    blocks = [measured.energy_blocks.get(name, ()) for name in (baseline, candidate)]
    joules, watts = (energy_floor(blocks[0], blocks[1], per) for per in ("requests", "seconds"))
    floors = {"joules_per_request": joules, "kj_per_1000_images": joules, "mean_power_w": watts}
    parity = measured.parity.get(candidate, Parity(margin=plan.iou_margin))
    wrong = next((gate for gate in mine if spoils(gate, "mean_iou")), None)
    throughput, alpha = found.get("requests_per_s"), 1 - plan.confidence
    found |= plain_effects(a, b, plan.min_effect, throughput, mine, kin.adjusted, alpha, floors)
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        design=str(plan.design),
        effects=found,
        corrected_among=len(kin.adjusted),
        parity=parity if wrong is None else spoiled_parity(parity, wrong.code),
        memory_story=_memory_story(measured.memory_story.get(candidate, ()), mine),
        notes=_design_notes(both, evidence),
    )


def _memory_story(told: tuple[str, ...], gates: tuple[Gate, ...]) -> tuple[str, ...]:
    """Servers that differ in more than precision have no story of what precision saved; other sizes of memory it tells itself."""
    code = next((gate.code for gate in gates if spoils(gate, "weights_gib")), None)
    return told if code is None or not told else (f"Why the memory differs is not told: INVALID (see {code}).",)


def _design_notes(both: Sides, evidence: Evidence) -> tuple[str, ...]:
    n = both.requests_per_arm
    found = [
        f"Requests are paired by image ({n} pairs)."
        if both.paired
        else f"Requests are not paired: {why_unpaired(both)}."
    ]
    if evidence.separate_runs:
        found.insert(0, f"Two saved runs: {evidence.run_id}.")
    elif both.design is Design.SERIAL:
        found.append(
            "One server at a time: the baseline was measured before and after, and what it drifted in between widens every interval."
            if both.second_a
            else "One server at a time and no second run of the baseline: drift between the runs is not in the intervals."
        )
    elif both.design is Design.INTERLEAVED:
        found.append("Blocks of both servers alternate (ABBA), so that drift of clocks and temperature cancels.")
    return tuple(found)


def unknown_of(targets: dict[str, TargetFindings]) -> tuple[str, ...]:
    """What a reader would look for and no target could tell. Said, because a row that is missing is not noticed."""
    looked_for: dict[str, Callable[[TargetFindings], object]] = {
        "end-to-end latency": lambda t: _value(t.metrics.get("e2e_ms_p50")),
        "time to first token": lambda t: _value(t.metrics.get("ttft_ms_p50")),
        "time per output token": lambda t: _value(t.metrics.get("tpot_ms_p50")),
        "model weights": lambda t: t.memory.weights_gib,
        "KV cache": lambda t: t.memory.kv_cache_tokens or t.memory.kv_cache_gib,
        "GPU memory": lambda t: t.memory.whole_gpu_peak_gib or t.memory.whole_gpu_idle_gib or t.memory.process_gib,
        "accuracy (mean IoU)": lambda t: None if t.quality is None else _value(t.quality.scores.get("mean_iou")),
        "energy per request": lambda t: _value(t.energy.get("joules_per_request")),
        "cost of 1,000 images": lambda t: _value(t.cost.get("usd_per_1000_images")),
        "prefix-cache hits": lambda t: _value(t.caches.get("prefix_hit_rate")),
        "image-cache hits": lambda t: _value(t.caches.get("image_hit_rate")),
    }
    return tuple(name for name, find in looked_for.items() if all(find(t) is None for t in targets.values()))


def _value(item: Estimate | None) -> float | None:
    return None if item is None else item.value


def _simulated_note(plan: RunPlan) -> str | None:
    if not plan.simulated:
        return None
    return f"every number comes from a model of {plan.simulate or 'a server'}, not from a GPU."


def _composed(
    evidence: Evidence,
    targets: dict[str, TargetFindings],
    comparisons: tuple[Comparison, ...],
    gates: tuple[Gate, ...],
    steps: tuple[Level, ...],
) -> Findings:
    plan = evidence.plan
    reasons = spoiled_by(gates, plan.primary)
    load = load_told(evidence, targets, steps)
    missing = missing_facts(comparisons[0]) if comparisons else ()
    asked = f" (as {plan.targets[0].name} was asked)" if evidence.plan_differences else ""
    advice = advice_on(comparisons, gates, plan.primary, load, missing, steps)
    findings = Findings(
        run_id=evidence.run_id,
        started_utc=evidence.started_utc,
        simulated=plan.simulated,
        simulated_note=_simulated_note(plan),
        valid=not reasons,
        invalid_reasons=reasons,
        interrupted=evidence.interrupted,
        question=question(plan),
        load=load,
        workload=workload_sentence(plan, targets, evidence.distinct_pictures) + asked,
        confidence=plan.confidence,
        primary=plan.primary,
        min_effect=plan.min_effect,
        targets=targets,
        comparison=comparisons[0] if comparisons else None,
        comparisons=comparisons,
        levels=steps,
        knees={name: None if (at := knee(steps, name)) is None else at.label for name in targets} if steps else {},
        gates=gates,
        recommendation=advice,
        not_measured=tuple(dict.fromkeys((*unknown_of(targets), *missing))),
        torn_lines=evidence.torn_lines,
        host=evidence.host,
        versions=evidence.versions,
    )
    names = tuple(t.name for t in plan.targets)
    thresholds = tuple(judge(parse(text, names), findings) for text in plan.fail_if)
    return msgspec.structs.replace(findings, thresholds=thresholds, headline=headline(findings))
