"""A sweep, level by level: the same metrics and the same words as for a single load, and where the gain of more load ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from client.core.blocks import levels_of
from client.core.counters import Difference
from client.core.cut import label_of, level_label, reached_by_all
from client.core.estimates import arm_metrics, error_rate
from client.core.evidence import Evidence
from client.core.findings import Action, Effect, Gate, Level, Recommendation, Severity, Word
from client.core.gates import LOAD_LOOKS, OF_A_LOAD, Seen, about, fired
from client.core.generator_gates import GENERATOR_LOOKS
from client.core.metrics import Arm, arm
from client.core.names import NAMES
from client.core.pairing import Sides, sides
from client.core.plan import LoadProfile, RunPlan
from client.core.recommend import LESS, SAME, UNKNOWN, WORSE, side_of
from client.core.stats import holm
from client.core.verdict import Family, Judged, judged_metrics, secondary_p, told_effects
from client.core.warmup import first_level, steady_state, warm_arms

KNEE_GAIN = 0.10
"""Throughput that grows by less than this from one level to the next has stopped growing: more load only adds waiting."""


def levels(
    evidence: Evidence, gates: tuple[Gate, ...] = (), counters: Mapping[str, Difference] | None = None, first: Mapping[str, Mapping[str, Effect]] | None = None
) -> tuple[Level, ...]:  # fmt: skip
    """Empty when nothing was swept. A level that was not reached (an interrupted run) has no metrics. `gates` and `first` (candidate ->
    effects): those of the first level, whose primary metric decides.

    At the other levels nothing is primary: their words of that metric are corrected among these levels (Holm), all others among the secondary metrics
    of all these levels.
    """
    plan = evidence.plan
    if plan.load.sweep is None:
        return ()
    steps = [
        _level(evidence, number, load, value, gates, dict(counters or {}))
        for number, (load, value) in enumerate(zip(levels_of(plan.load), plan.load.sweep.values, strict=True))
    ]
    decides = first_level(evidence)
    others = [step for step in steps if step.level.number != decides]
    found = []
    for step in steps:
        own = step.level.number == decides
        effects = {name: dict((first or {}).get(name, {})) if own else step.told(name, others) for name in step.pairs}
        compared = {short: e for short, e in effects.items() if e}
        found.append(msgspec.structs.replace(step.level, effects=compared))
    return tuple(found)


def of_one_load(gate: Gate) -> bool:
    """Raised by the requests of one load, or by the generator's own lateness at it: each level has its own."""
    return gate.code in OF_A_LOAD or gate.code.startswith(
        ("generator_", "stamps_", "loop_late", "few_waves", "gc_pauses", "held_back")
    )


def told_of_levels(found: tuple[Level, ...]) -> tuple[Gate, ...]:
    """What makes a level beyond the first INVALID, or its interval rest on few waves, its numbers fewer, as remarks on the run: its verdict is that of the first level."""
    return tuple(
        msgspec.structs.replace(gate, severity=Severity.FLAG, fact=f"At {label_of(level)}: {gate.fact}")
        for level in found[1:]
        for gate in level.gates
        if gate.severity is Severity.INVALID or gate.code in ("few_waves", "warm_up")
    )


def _level(
    evidence: Evidence, number: int, load: LoadProfile, value: float, gates: tuple[Gate, ...], counters: dict[str, Difference]
) -> _Step:  # fmt: skip
    plan = msgspec.structs.replace(evidence.plan, load=load)
    arms: dict[str, Arm] = {
        target.name: arm(evidence.records, target.name, plan.timeouts, level=number) for target in plan.targets
    }
    arms = {name: mine for name, mine in arms.items() if len(mine)}
    baseline = plan.targets[0].name
    others = [target.name for target in plan.targets[1:] if baseline in arms and target.name in arms]
    pairs = tuple(sides(arms[baseline], arms[name], plan.design) for name in others)
    warm = warm_arms(evidence) if number == first_level(evidence) else None
    steady = steady_state(arms, pairs, plan.design, warm, load.arrival)
    metrics = {
        name: arm_metrics(steady.arms[name], plan) | {"error_rate": error_rate(mine, plan.confidence)}
        for name, mine in arms.items()
    }
    here = Seen(
        evidence=msgspec.structs.replace(evidence, plan=plan),
        arms=arms,
        counters=counters,
        sides=pairs,
        level=number,
        steady=steady,
    )
    own = fired(here, GENERATOR_LOOKS + LOAD_LOOKS)
    gates = tuple(gate for gate in gates if not of_one_load(gate)) + own
    compared = dict(zip(others, steady.sides, strict=True))
    sweep = evidence.plan.load.sweep
    knob = sweep.knob if sweep is not None else "concurrency"
    came = reached_by_all(evidence, number)
    level = Level(
        number=number, knob=knob, value=value, label=level_label(knob, value), metrics=metrics, gates=own, planned=load.requests,
        cut_short={} if all(one.whole for one in came.values()) else {name: one.done for name, one in came.items()},
    )  # fmt: skip
    judged = {name: judged_metrics(both, metrics[baseline], metrics[name], plan) for name, both in compared.items()}
    return _Step(level, plan, compared, judged, gates)


@dataclass(frozen=True, slots=True)
class _Step:
    """A level before its words."""

    level: Level
    plan: RunPlan
    pairs: dict[str, Sides]
    judged: dict[str, dict[str, Judged | None]]
    gates: tuple[Gate, ...]

    def told(self, name: str, others: list[_Step]) -> dict[str, Effect]:
        """`others`: all levels but the one that decides, this one among them."""
        baseline = self.pairs[name].parts[1].target
        a, b = (self.level.metrics[arm] for arm in (baseline, name))
        kin, mine = self._family(name, others), about(self.gates, baseline, name)
        return told_effects(self.judged[name], kin, self.pairs[name], a, b, mine, self.plan, first=False)

    def _family(self, name: str, others: list[_Step]) -> Family:
        main: dict[tuple[int, str], float] = {}
        rest: dict[tuple[int, str], float] = {}
        for step in others:
            judged, number = step.judged.get(name, {}), step.level.number
            rest |= {(number, short): p for short, p in secondary_p(judged, self.plan).items()}
            deciding = judged.get(self.plan.primary)
            if deciding is not None and deciding.p is not None:
                main[number, self.plan.primary] = deciding.p
        adjusted = {**holm(rest), **holm(main)}
        mine = {short: p for (number, short), p in adjusted.items() if number == self.level.number}
        return Family(mine, f"{len(rest)} secondary metrics of {len(main)} loads", f"{len(main)} loads")


def knee(found: tuple[Level, ...], target: str) -> Level | None:
    """The last level up to which throughput still grew by KNEE_GAIN for each step; None when it grew to the end or was not measured.
    A level that was cut short says nothing of it."""
    rising = sorted(found, key=lambda level: level.value)
    rates = [
        (level, level.metrics[target]["requests_per_s"].value)
        for level in rising
        if target in level.metrics and not level.cut_short
    ]
    for (level, rate), (_, after) in pairwise(rates):
        if rate is not None and after is not None and after < rate * (1 + KNEE_GAIN):
            return level
    return None


OF_ANSWERS = {
    LESS: " At any load it is less accurate, and a loss of the margin is not excluded.",
    UNKNOWN: " At any load its accuracy was not shown to hold.",
}


def over_levels(
    advice: Recommendation, found: tuple[Level, ...], candidate: str, primary: str, quality: str = SAME
) -> Recommendation:
    """Where another level says another thing of the primary metric, the answer depends on the load; not where `quality` decides alone."""
    effects_at = {
        label_of(level): level.effects[candidate][primary]
        for level in found
        if primary in level.effects.get(candidate, {})
    }
    if len(effects_at) < 2 or advice.action is Action.NONE:
        return advice
    told = {label: side_of(effect) for label, effect in effects_at.items()}
    reasons = (*advice.reasons, *(f"At {label}: {effect.sentence}" for label, effect in list(effects_at.items())[1:]))
    if len(set(told.values()) - {UNKNOWN}) < 2 or quality == WORSE:
        return msgspec.structs.replace(advice, reasons=reasons)
    each = "; ".join(f"{_short(effect, told[label])} at {label}" for label, effect in effects_at.items())
    sentence = f"It depends on the load: {NAMES[primary].words} of {candidate}: {each}.{OF_ANSWERS.get(quality, '')}"
    return msgspec.structs.replace(advice, action=Action.DEPENDS, sentence=sentence, reasons=reasons)


def _short(effect: Effect, side: str) -> str:
    """Better or worse, or what was shown instead."""
    if effect.word is Word.EQUIVALENT:
        return "equivalent"
    if effect.word is Word.NO_DIFFERENCE:
        return "no difference shown"
    if effect.word is Word.INVALID:
        return "invalid"
    return "not settled" if side == UNKNOWN else side
