"""Faults on purpose, by flag. `N` counts chat requests: every Nth one is hit."""

from __future__ import annotations

from dataclasses import dataclass

KINDS: dict[str, str] = {
    "http-500": "http-500:N              every Nth chat request is answered with HTTP 500",
    "stream-error": "stream-error:N          every Nth stream carries an error object after its 3rd token, then [DONE]",
    "truncate": "truncate:N              every Nth stream ends after its 3rd token, without finish_reason and [DONE]",
    "stall": "stall:N:SECONDS         every Nth stream pauses so long after its 3rd token",
    "reset": "reset:N                 every Nth connection is reset (RST) after the 3rd token",
    "slow-start": "slow-start:SECONDS      the start-up takes so much longer",
    "unhealthy": "unhealthy               /health and /ping answer 503, chat answers 500",
    "empty": "empty:N                 every Nth answer ends properly without a token",
    "throttle": "throttle:FACTOR:SECONDS after so many seconds the GPU takes FACTOR times as long, and its SM clock falls",
    "restart-counters": "restart-counters:N      after N chat requests all counters and caches begin anew, as after a restart",
    "early-stop": "early-stop:N            every Nth answer stops after half of its tokens",
    "drop-metrics": "drop-metrics            /metrics answers 404",
}
_ARGUMENTS = {"stall": 2, "throttle": 2, "unhealthy": 0, "drop-metrics": 0}


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    arguments: tuple[float, ...]

    def hits(self, number: int) -> bool:
        """Whether the chat request of this number, from 1, is hit."""
        return number % int(self.arguments[0]) == 0


def read_fault(text: str) -> Fault:
    """Raises ValueError with a sentence."""
    kind, *rest = text.split(":")
    if kind not in KINDS:
        raise ValueError(f"unknown fault {kind!r}; known are {', '.join(KINDS)}")
    wanted = _ARGUMENTS.get(kind, 1)
    try:
        arguments = tuple(float(part) for part in rest)
    except ValueError:
        raise ValueError(f"fault {text!r}: its arguments must be numbers ({KINDS[kind].split()[0]})") from None
    if len(arguments) != wanted or any(a < 0 for a in arguments):
        raise ValueError(f"fault {text!r}: it is written {KINDS[kind].split()[0]}")
    counted = kind not in ("slow-start", "throttle")
    if counted and wanted and int(arguments[0]) < 1:
        raise ValueError(f"fault {text!r}: N counts from 1")
    return Fault(kind, arguments)


class Faults:
    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self._by_kind = {fault.kind: fault for fault in faults}

    def has(self, kind: str) -> bool:
        return kind in self._by_kind

    def get(self, kind: str) -> Fault | None:
        return self._by_kind.get(kind)

    def hits(self, kind: str, number: int) -> bool:
        fault = self._by_kind.get(kind)
        return fault is not None and fault.hits(number)
