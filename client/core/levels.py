"""A sweep level by level: the same metrics and effects at each load, and whether the verdict of the first holds at the others."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from client.core.blocks import levels_of
from client.core.estimates import arm_metrics
from client.core.evidence import Evidence
from client.core.findings import Action, Gate, Level, Recommendation
from client.core.metrics import arm
from client.core.names import NAMES
from client.core.pairing import sides
from client.core.plan import RunPlan
from client.core.recommend import UNKNOWN, side_of
from client.core.sentences import load_sentence
from client.core.verdict import effects

KNEE_GAIN = 0.10
"""Throughput that grows by less than this from one level to the next has stopped growing: more load only adds waiting."""


def levels(evidence: Evidence, gates: tuple[Gate, ...]) -> tuple[Level, ...]:
    """Empty without a sweep. A gate that spoils the run spoils every level."""
    if evidence.plan.load.sweep is None:
        return ()
    return tuple(_level(evidence, number, plan, gates) for number, plan in enumerate(plans(evidence.plan)))


def plans(plan: RunPlan) -> list[RunPlan]:
    """The plan at each level of its sweep; itself when it has none."""
    return [msgspec.structs.replace(plan, load=load) for load in levels_of(plan.load)]


def _level(evidence: Evidence, number: int, plan: RunPlan, gates: tuple[Gate, ...]) -> Level:
    arms = [arm(evidence.records, target.name, plan.timeouts, level=number) for target in plan.targets]
    metrics = {each.target: arm_metrics(each, plan) for each in arms}
    found = {}
    if len(arms) > 1:
        both = sides(arms[0], arms[1], plan.design)
        found = effects(both, metrics[arms[0].target], metrics[arms[1].target], gates, plan)
    knob, value = _knob(plan)
    return Level(number=number, load=load_sentence(plan), knob=knob, value=value, metrics=metrics, effects=found)


def _knob(plan: RunPlan) -> tuple[str, float]:
    rate = plan.load.rate_per_s
    return ("concurrency", float(plan.load.concurrency)) if rate is None else ("rate", rate)


def over_levels(advice: Recommendation, found: tuple[Level, ...], primary: str) -> Recommendation:
    """Where another level says another thing of the primary metric, the answer depends on the load."""
    if len(found) < 2 or advice.action is Action.NONE:
        return advice
    told = {level.load: side_of(level.effects.get(primary)) for level in found}
    known = {side for side in told.values() if side != UNKNOWN}
    sentences = tuple(
        f"At {level.load}: {level.effects[primary].sentence}" for level in found[1:] if primary in level.effects
    )
    reasons = (*advice.reasons, *sentences)
    if len(known) < 2:
        return msgspec.structs.replace(advice, reasons=reasons)
    each = "; ".join(f"{side} at {load}" for load, side in told.items())
    return msgspec.structs.replace(
        advice,
        action=Action.DEPENDS,
        sentence=f"It depends on the load: {NAMES[primary].words} is {each}.",
        reasons=reasons,
    )


def knee(found: tuple[Level, ...], target: str) -> str | None:
    """The last load up to which throughput still grew by KNEE_GAIN for each step; None when it grew to the end or was not measured."""
    rates = [(level, level.metrics[target]["requests_per_s"].value) for level in found if target in level.metrics]
    for (level, rate), (_, after) in pairwise(rates):
        if rate is not None and after is not None and after < rate * (1 + KNEE_GAIN):
            return level.load
    return None
