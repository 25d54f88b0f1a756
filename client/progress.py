"""What a person sees while a run goes on: a calm view on a terminal, a line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from client.core.records import Outcome, Phase, RequestRecord
from client.core.secrets import NO_MASK, Mask

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_EVERY_S = 5.0
RECENT = 200
"""Latencies of each target that the live median is over."""
RATE_OVER = 50
"""Ends of requests that the live rate is over."""
REDRAWN_PER_S = 4


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


class Figures:
    """Live figures: for the eye only, the verdict is computed from the run directory. Medians and errors are of measured requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.text = "starting"
        self.total: int | None = None
        self.count = 0
        self._ends: deque[float] = deque(maxlen=RATE_OVER)
        self._latencies: dict[str, deque[float]] = {}
        self._errors: dict[str, Counter[str]] = {}

    def stage(self, text: str, total: int | None) -> None:
        self.text, self.total, self.count = text, total, 0
        self._ends.clear()

    def add(self, record: RequestRecord) -> None:
        self.count += 1
        self._ends.append(self._clock())
        if record.outcome is not Outcome.OK:
            kind = (
                f"http_{record.status}"
                if record.outcome is Outcome.HTTP_ERROR and record.status
                else str(record.outcome)
            )
            self._errors.setdefault(record.target, Counter())[kind] += 1
        elif record.phase is Phase.MEASURE and record.sent_ns is not None and record.last_token_ns is not None:
            recent = self._latencies.setdefault(record.target, deque(maxlen=RECENT))
            recent.append((record.last_token_ns - record.sent_ns) / 1e6)

    def rate(self) -> float | None:
        """Requests that ended per second, lately; None with too few to say."""
        if len(self._ends) < 3 or self._ends[-1] <= self._ends[0]:
            return None
        return (len(self._ends) - 1) / (self._ends[-1] - self._ends[0])

    def left_s(self) -> float | None:
        """Seconds until this stage ends at the present rate; None when that is unknown."""
        rate = self.rate()
        if rate is None or self.total is None:
            return None
        return max(0.0, self.total - self.count) / rate

    def pace(self) -> str:
        """'14/30 · 3.8/s · 4 s left'."""
        parts = (
            [f"{self.count:,}" if self.total is None else f"{self.count:,}/{self.total:,}"]
            if self.total or self.count
            else []
        )
        if (rate := self.rate()) is not None:
            parts.append(f"{rate:,.1f}/s")
        if (left := self.left_s()) is not None and self.count < (self.total or 0):
            parts.append(f"{duration(left)} left")
        return " · ".join(parts)

    def medians(self) -> dict[str, str]:
        """Target -> its live median."""
        return {
            name: f"p50 {statistics.median(recent):,.0f} ms" for name, recent in list(self._latencies.items()) if recent
        }

    def errors(self) -> dict[str, str]:
        """Target -> its errors by kind, the most frequent first."""
        return {
            name: ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
            for name, kinds in list(self._errors.items())
        }

    def line(self) -> str:
        """Everything in one line."""
        parts = [self.pace(), *(f"{name} {median}" for name, median in self.medians().items())]
        parts += [f"{name} failed: {kinds}" for name, kinds in self.errors().items()]
        return printable("  ".join(part for part in parts if part))


def duration(seconds: float) -> str:
    """'8 s', '3 min 20 s', '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def printable(text: str) -> str:
    """Names come from outside: nothing in them may steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


class Plain:
    """For logs and pipes: whole lines, no control characters."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._figures = Figures(clock)
        self._last = clock()

    def stage(self, text: str, total: int | None = None) -> None:
        self._figures.stage(text, total)
        self._last = self._clock()
        self.note(f"{text} …")

    def record(self, record: RequestRecord) -> None:
        self._figures.add(record)
        if self._clock() - self._last >= PLAIN_EVERY_S:
            self._last = self._clock()
            self.note(f"{self._figures.text}: {self._figures.line()}")

    def note(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Live:
    """A few lines that are redrawn in place; finished stages leave none behind. `record` only counts: drawing has its own thread and pace."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        from rich import live
        from rich.console import Console as RichConsole

        self._figures = Figures(clock)
        self._clock, self._began = clock, clock()
        self._console = console or RichConsole(stderr=True)
        self._live = live.Live(
            get_renderable=self._view, console=self._console, refresh_per_second=REDRAWN_PER_S, transient=True
        )
        self._live.start()

    def stage(self, text: str, total: int | None = None) -> None:
        self._figures.stage(text, total)

    def record(self, record: RequestRecord) -> None:
        self._figures.add(record)

    def note(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False)

    def close(self) -> None:
        self._live.stop()

    def _view(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        figures = self._figures
        head = Table.grid(padding=(0, 2))
        # A stage without requests has no bar: a moving one would promise progress that nobody measures.
        bar = ProgressBar(total=figures.total, completed=figures.count, width=24) if figures.total else Text("")
        passed = Text(f"after {duration(self._clock() - self._began)}", style="dim")
        head.add_row(Text(printable(figures.text), style="bold"), bar, Text(figures.pace()), passed)
        medians, errors = figures.medians(), figures.errors()
        body = Table.grid(padding=(0, 2))
        for name in dict.fromkeys([*medians, *errors]):
            failed = Text(f"failed: {errors[name]}", style="yellow") if name in errors else Text("")
            body.add_row(Text(f"  {printable(name)}"), Text(medians.get(name, "")), failed)
        return Group(head, body) if medians or errors else head


class Masked:
    """Another progress, with keys out of its words: a note may repeat what a server said."""

    def __init__(self, inner: Progress, mask: Mask) -> None:
        self._inner, self._mask = inner, mask
        self.record, self.close = inner.record, inner.close

    def stage(self, text: str, total: int | None = None) -> None:
        self._inner.stage(self._mask.text(text), total)

    def note(self, text: str) -> None:
        self._inner.note(self._mask.text(text))


def choose(quiet: bool, mask: Mask = NO_MASK) -> Progress:
    if quiet:
        return Quiet()
    return Masked(Live() if sys.stderr.isatty() else Plain(), mask)
