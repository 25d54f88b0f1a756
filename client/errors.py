"""Every error that Halfweight raises on purpose.

    HalfweightError                 exit code, a fact with its place, a next step
    ├── UsageError            2     what was asked cannot be understood or done
    ├── TargetError           3     a server is not there, not ready, or not what was said
    ├── MeasurementInvalid    4     numbers exist, but must not be believed
    ├── ThresholdFailed       5     a --fail-if condition is met
    └── RunDirError           6     a result cannot be written or read

A failed request is never an exception: it is a record with its outcome (`client.core.records`).
"""

from __future__ import annotations

from typing import ClassVar

EXIT_CODES: dict[int, str] = {
    0: "done, and the numbers can be trusted",
    1: "a bug of ours: please report it with the traceback",
    2: "usage: an argument, a configuration file or an input cannot be used",
    3: "a target did not answer, was not ready, or is not what was asked for",
    4: "measured, but INVALID: the report says why",
    5: "a --fail-if threshold failed, or could not be decided",
    6: "a result could not be written or read",
    130: "interrupted: what was measured is kept and reported",
}


class HalfweightError(Exception):
    """`fact` says what is wrong and where; `hint` is the next step, or empty."""

    exit_code: ClassVar[int] = 1

    def __init__(self, fact: str, hint: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.fact} {self.hint}".strip()


class UsageError(HalfweightError):
    exit_code = 2


class TargetError(HalfweightError):
    exit_code = 3


class MeasurementInvalid(HalfweightError):
    exit_code = 4


class ThresholdFailed(HalfweightError):
    exit_code = 5


class RunDirError(HalfweightError):
    exit_code = 6
