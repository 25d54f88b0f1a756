"""Before a run: can it come to an answer on what it is asked to decide by? Found out now, a question costs nothing."""

from __future__ import annotations

from client.core.conditions import parse
from client.core.names import COMPARED, PRIMARY, QUANTILES
from client.core.plan import LoadProfile, Slo, Target, Workload
from client.core.stats import least_n
from client.errors import UsageError

CONFIDENCE = 0.95
"""Of every interval of a run (`RunPlan.confidence`)."""


def check_primary(name: str, workload: Workload, load: LoadProfile, slos: tuple[Slo, ...]) -> str:
    """The metric that decides has to be one that this run can measure: found out now, not after it."""
    if name not in PRIMARY:
        raise UsageError(f"--primary {name}: no such metric.", f"Known: {', '.join(PRIMARY)}.")
    _measurable(f"--primary {name}", name, workload, load, slos)
    return name


def _measurable(flag: str, name: str, workload: Workload, load: LoadProfile, slos: tuple[Slo, ...]) -> None:
    """Raises UsageError where this run cannot come to an interval of that metric, whatever it measures."""
    if name == "goodput_per_s" and not slos:
        raise UsageError(
            f"{flag} without --slo: there is nothing that a request could meet.",
            "Say what is good enough, for example --slo ttft=500ms --slo e2e=2s.",
        )
    if name.startswith(("tpot", "itl")) and workload.max_tokens < 2:
        raise UsageError(
            f"{flag} with --max-tokens {workload.max_tokens}: a single token has no pace.",
            "Ask for more --max-tokens, or use e2e_p50.",
        )
    metric, _, statistic = name.rpartition("_")
    least = least_n(QUANTILES[statistic], CONFIDENCE) if statistic in QUANTILES else 1
    if statistic != "p50" and load.requests is not None and load.requests < least:
        raise UsageError(
            f"{flag} with {load.requests} requests: an interval for {name} needs at least {least} for each target.",
            f"Ask for --requests {least} or more, or use {metric}_p50.",
        )


def check_conditions(
    texts: list[str], targets: tuple[Target, ...], workload: Workload, load: LoadProfile, slos: tuple[Slo, ...]
) -> tuple[str, ...]:
    """Parsed now, so that a wrong one costs nothing, nor one that could never be decided; judged after the run from the same text."""
    names = tuple(target.name for target in targets)
    for text in texts:
        for _, metric in parse(text, names).gap.factors:
            if metric in COMPARED:
                _measurable(f'--fail-if "{text}"', metric, workload, load, slos)
    return tuple(texts)
