"""Validity gates: each looks at one way in which a run can be spoiled, and says the fact and the next step.

A gate of severity INVALID without metrics spoils the whole run; with metrics, those only. Limits and their reasons: `client.core.limits`.
What the load generator says of itself is judged in `client.core.generator_gates`, what servers and GPU say in `client.core.server_gates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar

import msgspec
import numpy as np

from client.core import limits
from client.core.counters import Difference
from client.core.cut import was_cut
from client.core.evidence import Evidence
from client.core.findings import Gate, Severity
from client.core.lengths import LEAST_COUNTED, compared, counted, mean_prompt
from client.core.metrics import Arm
from client.core.names import NAMES
from client.core.pairing import Sides
from client.core.plan import Arrival, Design, RunPlan
from client.core.queues import growing
from client.core.records import Phase, WorkerHealth
from client.core.repeats import caches_silent, sent_again, stays_in
from client.core.repeats import told as repeats_told
from client.core.settling_words import UNSETTLED, left_out, stay_of, unsettled
from client.core.stats import fisher_p
from client.core.steady import LEAST, Course
from client.core.warmup import Steady, steady_state

WITHOUT_TPOT = tuple(
    n for n, name in NAMES.items() if name.place == "metrics" and not n.startswith(("tpot", "itl", "error"))
)
"""What prefill, queueing and output length change: everything except the pace of decoding and the error rate."""
STAMPED = tuple(n for n in NAMES if n.startswith(("ttft", "tpot", "itl", "e2e", "response")))
PER_ANSWER = tuple(n for n in WITHOUT_TPOT if n.startswith(("e2e", "response", "requests_per_s", "goodput")))


class GpuArm(msgspec.Struct, frozen=True, kw_only=True):
    """What the gates need to know of the GPU while one arm was measured. None: not readable."""

    sm_mhz: float | None = None
    slowed_share: float | None = None
    """Share of samples with a hardware or thermal slowdown reason."""
    power_capped_share: float | None = None
    strangers: tuple[str, ...] = ()
    """Processes on the GPU that belong to none of the targets."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the gates look at."""

    evidence: Evidence
    arms: dict[str, Arm]
    counters: dict[str, Difference]
    sides: tuple[Sides, ...] = ()
    gpu: dict[str, GpuArm] = field(default_factory=dict)
    level: int | None = None
    """Of a sweep, the level looked at; None: the first one, which carries the verdict."""
    steady: Steady | None = None
    """The same arms and sides without what belongs to the warm-up; None: nobody looked."""

    @property
    def plan(self) -> RunPlan:
        return self.evidence.plan

    def health(self, target: str) -> list[WorkerHealth]:
        """Of the level looked at: how busy the generator was at another load says nothing of this one."""
        mine = [h for h in self.evidence.health if h.target == target and h.phase is Phase.MEASURE]
        level = min((h.level for h in mine), default=0) if self.level is None else self.level
        return [h for h in mine if h.level == level]

    def median_ms(self, target: str, metric: str) -> float | None:
        arm = self.arms.get(target)
        values = arm.latency[metric][np.isfinite(arm.latency[metric])] if arm is not None else np.zeros(0)
        return float(np.median(values)) if len(values) else None


Look = Callable[[Seen], Iterator[Gate]]
Item = TypeVar("Item")


def unlike(items: Sequence[Item], differ: Callable[[Item, Item], bool]) -> Iterator[tuple[Item, Item]]:
    """The first, which is the baseline, with each other that differs from it; then those that are like it among one another: two that
    differ by less than a limit from the baseline may differ by more between themselves."""
    first, others = items[:1], items[1:]
    apart = [other for other in others if differ(first[0], other)]
    alike = [other for other in others if other not in apart]
    yield from ((first[0], other) for other in apart)
    yield from ((a, b) for a, b in combinations(alike, 2) if differ(a, b))


def invalid(code: str, fact: str, next_step: str, targets: tuple[str, ...] = (), metrics: tuple[str, ...] = ()) -> Gate:
    return Gate(code=code, severity=Severity.INVALID, fact=fact, next_step=next_step, metrics=metrics, targets=targets)


def flag(code: str, fact: str, next_step: str, targets: tuple[str, ...] = (), metrics: tuple[str, ...] = ()) -> Gate:
    return Gate(code=code, severity=Severity.FLAG, fact=fact, next_step=next_step, metrics=metrics, targets=targets)


def failures(seen: Seen) -> Iterator[Gate]:
    for target, arm in seen.arms.items():
        counted, failed = int(arm.counted.sum()), int((arm.counted & ~arm.ok).sum())
        if not failed:
            continue
        kinds = seen.evidence.records.counts(arm.rows[arm.counted & ~arm.ok])
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        fact = f"{failed} of {counted} measured requests to {target} failed ({told})."
        if failed / counted > limits.ERROR_SHARE:
            yield invalid("errors", fact, "Look at the errors and the server's log before comparing speed.", (target,))
        else:
            yield flag("some_errors", fact, "The numbers are over answered requests; see the error classes.", (target,))


def unequal_failures(seen: Seen) -> Iterator[Gate]:
    for both in seen.sides:
        b, a = _whole(seen, both)
        hits = [int((arm.counted & ~arm.ok).sum()) for arm in (a, b)]
        sizes = [int(arm.counted.sum()) for arm in (a, b)]
        if max(hits) and fisher_p(hits[0], sizes[0], hits[1], sizes[1]) < limits.UNEQUAL_P:
            yield invalid(
                "errors_unequal",
                f"Failures differ between the arms: {hits[0]} of {sizes[0]} for {a.target}, {hits[1]} of {sizes[1]} for {b.target}.",
                "Find out why one server fails more; the answered requests are not alike.",
                (a.target, b.target),
            )


def _whole(seen: Seen, both: Sides) -> tuple[Arm, Arm]:
    """(candidate, baseline), the baseline with both its As."""
    return both.parts[0], seen.arms[both.parts[1].target]


def timeouts(seen: Seen) -> Iterator[Gate]:
    for target, arm in seen.arms.items():
        count = int(arm.censored.sum())
        if count:
            yield flag(
                "timeouts",
                f"{count} of {len(arm)} requests to {target} timed out: they count as at least {arm.limit_ms:.0f} ms, not as missing.",
                "A quantile that they reach is shown as ≥ the limit. Raise the time-outs to know more, or lower the load.",
                (target,),
            )


def too_few(seen: Seen) -> Iterator[Gate]:
    for target, arm in seen.arms.items():
        answered, counted = int(arm.ok.sum()), int(arm.counted.sum())
        if answered >= limits.FEW_REQUESTS:
            continue
        why = f"no interval of a median exists at {seen.plan.confidence:.0%}."
        step = f"Ask for at least --requests {limits.FEW_REQUESTS}; 30 or more tell effects of some percent apart."
        if not counted:
            fact, step = f"No request to {target} was measured.", "See how the run ended, and run it again."
        elif counted >= limits.FEW_REQUESTS:
            some = "none" if not answered else f"only {answered}"
            fact = (
                f"Of {counted} measured requests to {target} {some} {'was' if answered < 2 else 'were'} answered: {why}"
            )
            step = "Look at how the others failed, and at the server's log."
        else:
            fact = f"Only {counted} request{'' if counted == 1 else 's'} to {target} {'was' if counted == 1 else 'were'} measured: {why}"
        planned = seen.plan.load.requests
        if was_cut(seen.evidence, target) and (planned is None or counted < planned):
            step = "The run was cut short: run it again for the whole plan."
        yield invalid("too_few_requests", fact, step, (target,))


def output_lengths(seen: Seen) -> Iterator[Gate]:
    for both in seen.sides:
        b, a = _whole(seen, both)
        found = compared(a, b)
        if found is not None and abs(found.share) > limits.OUTPUT_TOKENS and found.z > limits.SETTLED_Z:
            word = "longer" if found.share > 0 else "shorter"
            yield invalid(
                "output_lengths",
                f"{b.target} gives {abs(found.share):.1%} {word} answers than {a.target} ({found.candidate:.1f} against {found.baseline:.1f} tokens): latency per request is not like for like. Time per output token is not spoiled by this.",
                "Use --ignore-eos with a fixed --max-tokens to compare speed, and judge the answers apart.",
                (a.target, b.target),
                PER_ANSWER,
            )


def unknown_lengths(seen: Seen) -> Iterator[Gate]:
    """Of arms that are compared: without token counts a shorter answer looks like a faster server."""
    compared_arms = {arm.target: arm for both in seen.sides for arm in _whole(seen, both)}
    for target, arm in compared_arms.items():
        answered, known = int(arm.ok.sum()), len(counted(arm))
        if known < LEAST_COUNTED * answered:
            yield flag(
                "output_lengths_unknown",
                f"{target} told the output tokens of {known} of {answered} answers: whether its answers are as long as the other's is unknown.",
                "Use a server that sends usage (stream_options.include_usage); until then compare the answers' lengths yourself.",
                (target,),
            )


def prompt_lengths(seen: Seen) -> Iterator[Gate]:
    for both in seen.sides:
        b, a = _whole(seen, both)
        means = [mean_prompt(arm) for arm in (a, b)]
        if not both.paired or means[0] is None or means[1] is None or means[0] == 0:
            continue  # without pairing the arms saw other images, whose sizes may differ
        if abs(means[1] / means[0] - 1) > limits.PROMPT_TOKENS:
            yield invalid(
                "prompt_tokens",
                f"The same requests have {means[0]:.1f} prompt tokens on {a.target} and {means[1]:.1f} on {b.target}: the servers see different pictures or templates.",
                "Give both servers the same processor settings (max_pixels), chat template and model files.",
                (a.target, b.target),
                WITHOUT_TPOT,
            )


def repeated_images(seen: Seen) -> Iterator[Gate]:
    """From the records alone: an image sent again within the same stay of a server, in the warm-up or measured, may be answered from its caches."""
    found = {t: sent_again(seen.evidence.records, stays_in(arm, seen.sides)) for t, arm in seen.arms.items()}
    again = [
        target
        for target, stays in found.items()
        if any(mask.mean() > limits.REPEATED_IMAGES for mask in stays if len(mask))
        and not caches_silent(seen.counters.get(target, Difference()))
    ]
    if not again:
        return
    known = any(seen.counters.get(target, Difference()).image_hit_rate is not None for target in again)
    told = "the caches answered" if known else "the servers' caches can answer them, and no counters say otherwise"
    counts = ", ".join(repeats_told(seen.arms[target], found[target]) for target in again)
    yield invalid(
        "repeated_images",
        f"The same pictures were sent again ({counts}): {told}, so latency and throughput say nothing about serving different images.",
        "Leave out --repeat-image, or give a folder with more images.",
        tuple(again),
        WITHOUT_TPOT,
    )


def settled(seen: Seen) -> Iterator[Gate]:
    """A beginning that could be left out is told; what is not steady without it is, too."""
    steady = seen.steady or steady_state(seen.arms, seen.sides, seen.plan.design, arrival=seen.plan.load.arrival)
    if steady.cut:
        yield flag("warm_up", *left_out(steady))
    found = steady.courses()
    courses = [one.course for one in found.values()]
    for (target, number, stays), one in found.items():
        if one.course in UNSETTLED and (one.size or one.course is not Course.FEW):
            cancels = seen.plan.design is Design.INTERLEAVED and courses.count(one.course) == len(courses) > 1
            yield flag("not_settled", *unsettled(target + stay_of(number, stays), one, cancels), (target,))
        elif stays > 1 and one.course is Course.FEW and not number:
            yield flag(
                "settling_unknown",
                f"A stay of {target} holds fewer than {LEAST} measured requests: whether its warm-up reaches into them cannot be told, and with one"
                " server at a time it does not cancel.",
                f"Ask for --requests {2 * LEAST} or more, or raise --warmup until the first request is like the last.",
                (target,),
            )


def overload(seen: Seen) -> Iterator[Gate]:
    """Open loop only: more work arrives than the server finishes, so latency grows as long as one measures."""
    arms = {} if seen.plan.load.arrival is Arrival.CLOSED else seen.arms
    for target, arm in arms.items():
        found = growing(arm)
        if found is not None:
            yield invalid(
                "overload",
                f"{found.waiting:.0f} of {found.asked:.0f} requests to {target} had not been answered as the last one of a block arrived (response times: {found.first_ms:.0f} ms"
                f" in the first third, {found.last_ms:.0f} ms in the last): more arrives than it can finish, and no steady state exists.",
                "Lower --rate below the throughput of the closed loop.",
                (target,),
            )


LOAD_LOOKS: tuple[Look, ...] = (
    failures, unequal_failures, timeouts, too_few, output_lengths, unknown_lengths, prompt_lengths, repeated_images, overload, settled,
)  # fmt: skip
"""What the requests of one load tell: of a sweep, asked again at each of its levels (`client.core.levels`)."""
OF_A_LOAD = (
    "errors", "errors_unequal", "some_errors", "timeouts", "too_few_requests", "output_lengths", "output_lengths_unknown", "prompt_tokens", "repeated_images", "overload",
    "not_settled", "settling_unknown", "warm_up",
)  # fmt: skip
"""The codes of LOAD_LOOKS."""


BETWEEN_TWO = frozenset(
    {
        "output_lengths", "prompt_tokens", "errors_unequal", "prefix_cache_unequal", "image_cache_unequal", "version_mismatch", "engine_arguments",
        "memory_settings", "gpu_clocks", "other_model",
    }
)  # fmt: skip
"""What they say is a difference of the two targets that they name."""


def about(gates: tuple[Gate, ...], *targets: str) -> tuple[Gate, ...]:
    """Those that concern these targets, the baseline first, or the whole run. What a candidate and the baseline differ by concerns their own
    comparison and no other; what two candidates differ by, those of both."""

    def concerned(gate: Gate) -> bool:
        if (
            gate.code in BETWEEN_TWO and len(gate.targets) == 2 and targets[0] in gate.targets
        ):  # of more, each is concerned
            return set(gate.targets) <= set(targets)
        return not gate.targets or bool(set(gate.targets) & set(targets))

    return tuple(filter(concerned, gates))


def fired(seen: Seen, looks: tuple[Look, ...]) -> tuple[Gate, ...]:
    """All gates that fired, INVALID ones first, else in the order of the table."""
    found = [gate for look in looks for gate in look(seen)]
    return tuple(sorted(found, key=lambda gate: gate.severity is not Severity.INVALID))
