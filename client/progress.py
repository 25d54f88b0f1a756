"""What a person sees while a run goes on: a calm view on a terminal, a line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from client.core.records import GpuSample, Outcome, Phase, RequestRecord
from client.core.secrets import NO_MASK, Mask

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_EVERY_S = 5.0
RECENT = 1000
"""Latencies of each target that the live median and p99 are over."""
LEAST_P99 = 100
"""With fewer the slowest one is told, and called that."""
GPUS_SHOWN = 4
RATE_OVER, RATE_STEP_S, RATE_LEAST_S = 50, 0.1, 0.5
"""The live rate is over as many counts, at least so far apart; none is told before it spans the least (answers come in bursts)."""
REDRAWN_PER_S = 4


class Progress(Protocol):
    """`expect` tells how many requests the whole run has. `stage` begins a stretch of `total` requests, or of `seconds` (None: unknown);
    `record` counts one; `gpu` shows a reading (from any thread; `owner` names the server whose GPU it is, '' where there is one GPU);
    `follow` gives a way to ask how many requests are in flight; `note` tells a fact; `close` ends it all.
    """

    def expect(self, requests: int) -> None: ...
    def stage(self, text: str, total: int | None = None, seconds: float | None = None) -> None: ...
    def record(self, record: RequestRecord) -> None: ...
    def gpu(self, owner: str, sample: GpuSample) -> None: ...
    def follow(self, in_flight: Callable[[], int]) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class Quiet:
    def expect(self, requests: int) -> None:
        del requests

    def stage(self, text: str, total: int | None = None, seconds: float | None = None) -> None:
        del text, total, seconds

    def record(self, record: RequestRecord) -> None:
        del record

    def gpu(self, owner: str, sample: GpuSample) -> None:
        del owner, sample

    def follow(self, in_flight: Callable[[], int]) -> None:
        del in_flight

    def note(self, text: str) -> None:
        del text

    def close(self) -> None:
        pass


class Figures:
    """Live figures: for the eye only, the verdict is computed from the run directory. Latencies are of measured requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.text = "starting"
        self.total: int | None = None
        self.seconds: float | None = None
        self.count = 0
        self.expected: int | None = None
        self.in_flight: Callable[[], int] | None = None
        self._done = 0
        self._first = self._stage_began = clock()
        self._counts: deque[tuple[float, int]] = deque(maxlen=RATE_OVER)
        self._latencies: dict[str, deque[float]] = {}
        self._errors: dict[str, Counter[str]] = {}
        self._gpus: dict[tuple[str, int], GpuSample] = {}

    def expect(self, requests: int) -> None:
        self.expected, self._first = requests, self._clock()

    def stage(self, text: str, total: int | None, seconds: float | None = None) -> None:
        self.text, self.total, self.seconds, self.count = text, total, seconds, 0
        self._stage_began = self._clock()
        self._counts.clear()

    def gpu(self, owner: str, sample: GpuSample) -> None:
        """A reading of the energy counter alone has nothing to show."""
        if sample.power_mw is not None or sample.used_v2 is not None or sample.used_v1 is not None:
            self._gpus[owner, sample.gpu] = sample

    def add(self, record: RequestRecord) -> None:
        self.count += 1
        self._done += 1
        now = self._clock()
        if not self._counts or now - self._counts[-1][0] >= RATE_STEP_S:
            self._counts.append((now, self.count))
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
        counts = tuple(self._counts)
        if self.count < 3 or not counts or counts[-1][0] - counts[0][0] < RATE_LEAST_S:
            return None
        return (counts[-1][1] - counts[0][1]) / (counts[-1][0] - counts[0][0])

    def left_s(self) -> float | None:
        """Seconds until this stage ends, at the present rate; None when that is unknown."""
        if self.seconds is not None:
            return max(0.0, self.seconds - (self._clock() - self._stage_began))
        rate = self.rate()
        if rate is None or self.total is None:
            return None
        return max(0.0, self.total - self.count) / rate

    def run_left_s(self) -> float | None:
        """Seconds until the whole run ends, at its rate so far; None when that is unknown."""
        passed = self._clock() - self._first
        if self.expected is None or self._done < 3 or passed <= 0:
            return None
        return max(0, self.expected - self._done) * passed / self._done

    def share(self) -> float | None:
        """How much of this stage is done, 0 to 1; None when that is unknown."""
        if self.seconds:
            return min(1.0, (self._clock() - self._stage_began) / self.seconds)
        return min(1.0, self.count / self.total) if self.total else None

    def pace(self) -> str:
        """'14/30 · 4 in flight · 3.8/s · 4 s left (whole run: 1 min 10 s)'."""
        parts = (
            [f"{self.count:,}" if self.total is None else f"{self.count:,}/{self.total:,}"]
            if self.total or self.count
            else []
        )
        flying = self.in_flight() if self.in_flight is not None else 0
        if flying:
            parts.append(f"{flying:,} in flight")
        if (rate := self.rate()) is not None:
            parts.append(f"{rate:,.1f}/s")
        left, whole = self.left_s(), self.run_left_s()
        if left is not None and self.count < (self.total or math.inf):
            parts.append(f"{duration(left)} left" + (f" (whole run: {duration(whole)})" if whole is not None else ""))
        return " · ".join(parts)

    def latencies(self) -> dict[str, str]:
        """Target -> its live median and p99 ('max' while there are too few for one), end to end."""
        return {name: _told(tuple(recent)) for name, recent in list(self._latencies.items()) if recent}

    def gpus(self) -> list[str]:
        """One line a GPU, as last read; at most GPUS_SHOWN of them."""
        found = sorted(self._gpus.items(), key=lambda item: item[0])[: GPUS_SHOWN + 1]
        several = len(found) > 1
        lines = [_gpu_line(owner, sample, several) for (owner, _), sample in found[:GPUS_SHOWN]]
        return [*lines, "further GPUs are not shown"] if len(found) > GPUS_SHOWN else lines

    def errors(self) -> dict[str, str]:
        """Target -> its errors by kind, the most frequent first."""
        return {
            name: ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
            for name, kinds in list(self._errors.items())
        }

    def line(self) -> str:
        """Everything in one line."""
        parts = [self.pace(), *(f"{name} {told}" for name, told in self.latencies().items())]
        parts += [f"{name} failed: {kinds}" for name, kinds in self.errors().items()]
        parts += self.gpus()
        return printable("  ".join(part for part in parts if part))


def _told(recent: tuple[float, ...]) -> str:
    """'p50 267 ms  p99 310 ms'; the p99 is the nearest rank."""
    ordered = sorted(recent)
    name, high = "max", ordered[-1]
    if len(ordered) >= LEAST_P99:
        name, high = "p99", ordered[math.ceil(0.99 * len(ordered)) - 1]
    return f"p50 {statistics.median(ordered):,.0f} ms  {name} {high:,.0f} ms"


def _gpu_line(owner: str, sample: GpuSample, several: bool) -> str:
    """'GPU 97 % busy · 412 W · 1,830 MHz · 36.2 of 79.2 GiB'; what cannot be read is left out."""
    name = " ".join(
        part for part in ("GPU", str(sample.gpu) if several and not owner else "", owner and f"of {owner}") if part
    )
    used = sample.used_v2 if sample.used_v2 is not None else sample.used_v1
    parts = [
        f"{sample.gpu_util} % busy" if sample.gpu_util is not None else "",
        f"{sample.power_mw / 1000:,.0f} W" if sample.power_mw is not None else "",
        f"{sample.sm_mhz:,} MHz" if sample.sm_mhz is not None else "",
        f"{used / 2**30:,.1f} of {sample.total / 2**30:,.1f} GiB" if used is not None and sample.total else "",
    ]
    return f"{name}: " + " · ".join(part for part in parts if part)


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

    def expect(self, requests: int) -> None:
        self._figures.expect(requests)

    def stage(self, text: str, total: int | None = None, seconds: float | None = None) -> None:
        self._figures.stage(text, total, seconds)
        self._last = self._clock()
        self.note(f"{text} …")

    def record(self, record: RequestRecord) -> None:
        self._figures.add(record)
        if self._clock() - self._last >= PLAIN_EVERY_S:
            self._last = self._clock()
            self.note(f"{self._figures.text}: {self._figures.line()}")

    def gpu(self, owner: str, sample: GpuSample) -> None:
        self._figures.gpu(owner, sample)

    def follow(self, in_flight: Callable[[], int]) -> None:
        self._figures.in_flight = in_flight

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

    def expect(self, requests: int) -> None:
        self._figures.expect(requests)

    def stage(self, text: str, total: int | None = None, seconds: float | None = None) -> None:
        self._figures.stage(text, total, seconds)

    def record(self, record: RequestRecord) -> None:
        self._figures.add(record)

    def gpu(self, owner: str, sample: GpuSample) -> None:
        self._figures.gpu(owner, sample)

    def follow(self, in_flight: Callable[[], int]) -> None:
        self._figures.in_flight = in_flight

    def note(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False)

    def close(self) -> None:
        self._live.stop()

    def _view(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        def line(text: str, style: str = "") -> Text:
            return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")

        figures = self._figures
        head = Table.grid(padding=(0, 2))
        # A stage of unknown length has no bar: a moving one would promise progress that nobody measures.
        share = figures.share()
        bar = Text("") if share is None else ProgressBar(total=1.0, completed=share, width=20)
        passed = line(f"after {duration(self._clock() - self._began)}", "dim")
        head.add_row(line(figures.text, "bold"), bar, passed)
        body = Table.grid(padding=(0, 2))
        latencies, errors = figures.latencies(), figures.errors()
        for name in dict.fromkeys([*latencies, *errors]):
            failed = f"failed: {errors[name]}" if name in errors else ""
            body.add_row(line(f"  {name}"), line(latencies.get(name, "")), line(failed, "yellow"))
        rows: list[RenderableType] = [head]
        rows += [line(f"  {pace}")] if (pace := figures.pace()) else []
        rows += [body] if body.row_count else []
        rows += [line(f"  {gpu}", "dim") for gpu in figures.gpus()]
        return Group(*rows)


class Masked:
    """Another progress, with keys out of its words: a note may repeat what a server said."""

    def __init__(self, inner: Progress, mask: Mask) -> None:
        self._inner, self._mask = inner, mask
        self.expect, self.record, self.gpu, self.follow = inner.expect, inner.record, inner.gpu, inner.follow
        self.close = inner.close

    def stage(self, text: str, total: int | None = None, seconds: float | None = None) -> None:
        self._inner.stage(self._mask.text(text), total, seconds)

    def note(self, text: str) -> None:
        self._inner.note(self._mask.text(text))


def choose(quiet: bool, mask: Mask = NO_MASK) -> Progress:
    if quiet:
        return Quiet()
    return Masked(Live() if sys.stderr.isatty() else Plain(), mask)
