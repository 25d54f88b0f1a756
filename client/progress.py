"""What a person sees while a run goes on: one calm line on a terminal, a line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from typing import Protocol, TextIO

from client.core.records import Outcome, RequestRecord

PLAIN_EVERY_S = 5.0
RECENT = 200


class Progress(Protocol):
    """`stage` begins a stretch of `total` requests (None: unknown); `record` counts one; `note` tells a fact; `close` ends it all."""

    def stage(self, text: str, total: int | None = None) -> None: ...
    def record(self, record: RequestRecord) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class Quiet:
    def stage(self, text: str, total: int | None = None) -> None:
        del text, total

    def record(self, record: RequestRecord) -> None:
        del record

    def note(self, text: str) -> None:
        del text

    def close(self) -> None:
        pass


class _Tally:
    """Live figures of the stage: for the eye only, the verdict is computed from the run directory."""

    def __init__(self) -> None:
        self.count = 0
        self.failed = 0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, record: RequestRecord) -> None:
        self.count += 1
        if record.outcome is not Outcome.OK:
            self.failed += 1
        elif record.sent_ns is not None and record.last_token_ns is not None:
            self._recent.append((record.last_token_ns - record.sent_ns) / 1e6)

    def text(self) -> str:
        parts = []
        if self._recent:
            parts.append(f"p50 {statistics.median(self._recent):,.0f} ms")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return "  ".join(parts)


class Plain:
    """For logs and pipes: no control characters."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._tally = _Tally()
        self._text, self._total, self._last = "", None, 0.0  # type: str, int | None, float

    def stage(self, text: str, total: int | None = None) -> None:
        self._text, self._total, self._tally, self._last = text, total, _Tally(), time.monotonic()
        print(f"{text} …", file=self._stream, flush=True)

    def record(self, record: RequestRecord) -> None:
        self._tally.add(record)
        if time.monotonic() - self._last >= PLAIN_EVERY_S:
            self._last = time.monotonic()
            of = "" if self._total is None else f"/{self._total}"
            print(
                f"{self._text}: {self._tally.count}{of}  {self._tally.text()}".rstrip(), file=self._stream, flush=True
            )

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Live:
    """One progress bar for the whole run, redrawn a few times a second; finished stages leave no lines behind."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            refresh_per_second=5,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, figures="")
        self._tally = _Tally()
        self._bar.start()

    def stage(self, text: str, total: int | None = None) -> None:
        self._tally = _Tally()
        self._bar.reset(self._task, description=text, total=total, figures="")

    def record(self, record: RequestRecord) -> None:
        self._tally.add(record)
        # Only the numbers are set here; drawing happens in rich's own thread at its own pace.
        self._bar.update(
            self._task, advance=1, figures=self._tally.text() if self._tally.count % 8 < 2 else self._last()
        )

    def _last(self) -> str:
        return str(self._bar.tasks[0].fields.get("figures", ""))

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._bar.stop()


def choose(quiet: bool) -> Progress:
    if quiet:
        return Quiet()
    return Live() if sys.stderr.isatty() else Plain()
