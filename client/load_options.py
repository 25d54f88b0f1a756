"""The border, load profile: which flags go together, and what each may say. Arguments in, a checked `LoadProfile` out."""

from __future__ import annotations

import argparse

import msgspec

from client.core.blocks import levels_of, parse_sweep
from client.core.plan import Arrival, LoadProfile
from client.errors import UsageError

EXAMPLES = {"--requests": 30, "--warmup": 20, "--max-tokens": 64, "--max-side": 1024, "--concurrency": 16}
MOST_REQUESTS = 20_000_000
"""Of one target, over all levels: the arrivals of an open loop are drawn ahead, 8 bytes each."""
SERIAL_REQUESTS = 60
"""One server at a time: the baseline is there twice, with half of them each time, and the end of a warm-up is found among 20 or more."""
WARMUP_IN_FLIGHT = 2
"""Warm-up requests for each one in flight, at least: the first that start together meet an empty server."""
MOST_IN_FLIGHT = 100_000
MOST_WORKERS = 256


def load_profile(arguments: argparse.Namespace) -> LoadProfile:
    """Raises UsageError for flags that contradict each other, or that would be passed over in silence."""
    _refuse_contradictions(arguments)
    serial = arguments.isolate or arguments.design == "serial"
    usual = SERIAL_REQUESTS if serial else EXAMPLES["--requests"]
    requests = usual if arguments.requests is None else at_least("--requests", arguments.requests, 1)
    replayed = arguments.replay is not None and arguments.requests is None
    ramp = arguments.rate_end is not None
    load = LoadProfile(
        arrival=_arrival(arguments),
        concurrency=1 if arguments.concurrency is None else _in_flight("--concurrency", arguments.concurrency),
        rate_per_s=None if arguments.rate is None else _rate("--rate", arguments.rate, from_zero=ramp),
        rate_end_per_s=_rate("--rate-end", arguments.rate_end, from_zero=True) if ramp else None,
        burstiness=1.0 if arguments.burstiness is None else between("--burstiness", arguments.burstiness, 1e-3, 1e3),
        requests=None if arguments.duration is not None or replayed else requests,
        duration_s=None if arguments.duration is None else between("--duration", arguments.duration, 0.5, 604_800),
        warmup=0 if arguments.warmup is None else at_least("--warmup", arguments.warmup, 0),
        workers=_workers(arguments.workers),
        max_in_flight=None
        if arguments.max_in_flight is None
        else _in_flight("--max-in-flight", arguments.max_in_flight),
        sweep=None if arguments.sweep is None else parse_sweep(arguments.sweep),
        retries=at_least("--retry-safe", arguments.retry_safe, 0),
        replay_of=arguments.replay,
    )
    if arguments.warmup is None:
        together = levels_of(load)[0].concurrency
        load = msgspec.structs.replace(load, warmup=max(EXAMPLES["--warmup"], WARMUP_IN_FLIGHT * together))
    _refuse_too_much(load)
    _refuse_idle_workers(load)
    return load


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    if arguments.requests is not None and arguments.duration is not None:
        raise UsageError("--requests and --duration together: both say when to stop.", "Give one of them.")
    if arguments.rate is not None and arguments.concurrency is not None:
        raise UsageError(
            "--rate and --concurrency together: an open loop has no fixed number in flight.",
            "Give one of them; --max-in-flight caps an open loop.",
        )
    if arguments.rate_end is not None and arguments.rate is None:
        raise UsageError("--rate-end alone is no ramp.", "Give --rate, --rate-end and --duration or --requests.")
    kinds = [flag for flag in ("rate", "sweep", "replay") if getattr(arguments, flag) is not None]
    if len(kinds) > 1:
        raise UsageError(f"--{kinds[0]} and --{kinds[1]} together: each says which load to send.", "Give one of them.")
    for kind in ("sweep", "replay"):
        if getattr(arguments, kind) is not None and arguments.concurrency is not None:
            raise UsageError(
                f"--{kind} and --concurrency together: each says which load to send.",
                "Give one of them; a number in flight is a level of its own: --sweep concurrency=1,4,16.",
            )
    if arguments.rate is None and not _sweeps_rates(arguments):
        _refuse_flags_of_open_loops(arguments)
    if arguments.burstiness is not None and arguments.arrival in ("poisson", "constant"):
        raise UsageError(
            f"--burstiness and --arrival {arguments.arrival} together: only gamma arrivals have a burstiness to set.",
            "Give --arrival gamma, or leave --burstiness out.",
        )


def _refuse_flags_of_open_loops(arguments: argparse.Namespace) -> None:
    for flag in ("arrival", "burstiness", "max_in_flight"):
        if getattr(arguments, flag) is None or (flag == "max_in_flight" and arguments.replay is not None):
            continue
        name = "--" + flag.replace("_", "-")
        if arguments.replay is not None:
            raise UsageError(f"{name} and --replay together: the saved run says when requests start.", "Leave one out.")
        raise UsageError(
            f"{name} without --rate: a closed loop starts a request when the one before has ended.",
            f"Add --rate (or --sweep rate=1,2,4), or leave {name} out.",
        )


def _refuse_too_much(load: LoadProfile) -> None:
    asked = 0.0
    for level in levels_of(load):
        if level.requests is not None:
            asked += level.requests
        elif level.rate_per_s is not None and level.duration_s is not None:
            end = level.rate_per_s if level.rate_end_per_s is None else level.rate_end_per_s
            asked += (level.rate_per_s + end) / 2 * level.duration_s
    if asked > MOST_REQUESTS:
        raise UsageError(
            f"{asked:,.0f} requests to each target are more than one run holds ({MOST_REQUESTS:,}).",
            "Give fewer --requests, a shorter --duration or a lower --rate, and run again for more.",
        )
    if (
        max((level.rate_per_s or 0) + (level.rate_end_per_s or 0) for level in levels_of(load)) == 0
        and load.rate_per_s == 0
    ):
        raise UsageError("A ramp from 0 to 0/s sends nothing.", "Give --rate or --rate-end a number above 0.")


def _refuse_idle_workers(load: LoadProfile) -> None:
    """A process without a lane would do nothing, and one place in flight each is the least that a cap can leave."""
    if load.workers <= 1:
        return
    lanes = max((level.concurrency for level in levels_of(load) if level.arrival is Arrival.CLOSED), default=None)
    if lanes is not None and load.workers > lanes:
        raise UsageError(
            f"--workers {load.workers} for {lanes} requests in flight: {load.workers - lanes} of them would have nothing to send.",
            f"Give at most --workers {lanes}, or auto.",
        )
    if load.max_in_flight is not None and load.workers > load.max_in_flight:
        raise UsageError(
            f"--workers {load.workers} with --max-in-flight {load.max_in_flight}: the cap has no place for each of them.",
            f"Give at most --workers {load.max_in_flight}, or a higher cap.",
        )


def _arrival(arguments: argparse.Namespace) -> Arrival:
    """A burstiness alone means gamma, as in vLLM's own benchmark."""
    if arguments.replay is not None:
        return Arrival.REPLAY
    if arguments.rate is None and not _sweeps_rates(arguments):
        return Arrival.CLOSED
    if arguments.arrival is not None:
        return Arrival(arguments.arrival)
    return Arrival.POISSON if arguments.burstiness is None else Arrival.GAMMA


def _sweeps_rates(arguments: argparse.Namespace) -> bool:
    return arguments.sweep is not None and arguments.sweep.startswith("rate")


def _rate(flag: str, value: float, *, from_zero: bool) -> float:
    if not (0 < value <= 100_000 or (from_zero and value == 0)):
        raise UsageError(f"{flag} {value}: must be above 0, and 100,000 at most.", f"For example {flag} 8.")
    return value


def _in_flight(flag: str, value: int) -> int:
    if at_least(flag, value, 1) > MOST_IN_FLIGHT:
        raise UsageError(f"{flag} {value}: must be {MOST_IN_FLIGHT:,} at most.", f"For example {flag} 64.")
    return value


def _workers(text: str) -> int:
    """0 stands for auto: decided when the load is known."""
    if text == "auto":
        return 0
    try:
        workers = at_least("--workers", int(text), 1)
    except ValueError:
        raise UsageError(f"--workers {text}: not a number.", "Give a number, or auto.") from None
    if workers > MOST_WORKERS:
        raise UsageError(f"--workers {text}: must be {MOST_WORKERS} at most.", "Give --workers auto.")
    return workers


def at_least(flag: str, value: int, least: int) -> int:
    if value < least:
        raise UsageError(
            f"{flag} {value}: must be at least {least}.", f"For example {flag} {EXAMPLES.get(flag, least)}."
        )
    return value


def between(flag: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise UsageError(f"{flag} {value}: must lie from {low:g} to {high:g}.", "See --help.")
    return value
