"""What is shown while a run goes on: true figures, whole lines without a terminal, silence when asked."""

from __future__ import annotations

import io

import made
import pytest
from rich.console import Console

from client.core.records import GpuSample, Outcome, Phase
from client.progress import Figures, Live, Plain, Quiet, choose, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def filled(clock: Clock, figures: Figures | Plain | Live, count: int = 10, every_s: float = 0.5) -> None:
    for k in range(count):
        clock.now += every_s
        record = made.record("bf16" if k % 2 else "fp8", k, 0.0, ttft_ms=100 if k % 2 else 200)
        figures.add(record) if isinstance(figures, Figures) else figures.record(record)


def test_rate_and_time_left_are_of_this_stage() -> None:
    clock = Clock()
    figures = Figures(clock)
    figures.stage("measuring", 30)
    filled(clock, figures)
    assert figures.rate() == pytest.approx(2.0)
    assert figures.left_s() == pytest.approx(10.0)
    assert figures.pace() == "10/30 · 2.0/s · 10 s left"
    figures.stage("next", None)
    assert figures.rate() is None
    assert figures.pace() == ""


def test_medians_are_kept_by_target_over_stages() -> None:
    clock = Clock()
    figures = Figures(clock)
    filled(clock, figures)
    figures.stage("next", 5)
    assert figures.latencies() == {"fp8": "p50 314 ms  max 314 ms", "bf16": "p50 214 ms  max 214 ms"}


def test_a_burst_is_no_rate() -> None:
    """Sixteen answers at once, as a batching server gives them, say nothing of a second yet."""
    clock = Clock()
    figures = Figures(clock)
    figures.stage("measuring", 100)
    for burst in range(5):
        clock.now += 1.0
        for k in range(16):
            clock.now += 0.001
            figures.add(made.record("fp8", 16 * burst + k, 0.0))
        rate = figures.rate()
        assert rate is None if burst == 0 else rate == pytest.approx(16, rel=0.05)


def test_the_p99_is_told_from_a_hundred_latencies_on() -> None:
    figures = Figures(Clock())
    for k in range(1, 151):
        figures.add(made.record("fp8", k, 0.0, ttft_ms=float(k) - 114))
        told = figures.latencies()["fp8"]
        assert ("p99" in told) == (k >= 100)
    assert told == "p50 76 ms  p99 149 ms"


def test_requests_in_flight_and_the_whole_run_are_told() -> None:
    clock = Clock()
    figures = Figures(clock)
    figures.expect(100)
    figures.in_flight = lambda: 16
    figures.stage("measuring", 30)
    filled(clock, figures)
    assert figures.pace() == "10/30 · 16 in flight · 2.0/s · 10 s left (whole run: 45 s)"
    figures.stage("measuring the other", 30)
    filled(clock, figures)
    assert figures.run_left_s() == pytest.approx(40.0)


def test_a_stage_by_time_goes_by_the_clock() -> None:
    """A block by duration has more slots than it will send: its length is its time."""
    clock = Clock()
    figures = Figures(clock)
    figures.stage("measuring", None, 20.0)
    filled(clock, figures)
    assert figures.pace() == "10 · 2.0/s · 15 s left"
    assert figures.share() == pytest.approx(0.25)


def gpu(number: int = 0, **values: object) -> GpuSample:
    fields = {"used_v2": 36 << 30, "total": 80 << 30, "power_mw": 412_400, "sm_mhz": 1830, "gpu_util": 97} | values
    return GpuSample(mono_ns=1, wall_ns=1, gpu=number, **fields)  # type: ignore[arg-type]  # a table of values


def test_a_line_for_each_gpu_says_what_can_be_read() -> None:
    figures = Figures(Clock())
    assert figures.gpus() == []
    figures.gpu("", gpu())
    assert figures.gpus() == ["GPU: 97 % busy · 412 W · 1,830 MHz · 36.0 of 80.0 GiB"]
    figures.gpu("", gpu(1, power_mw=None, gpu_util=None, sm_mhz=None))
    figures.gpu("", gpu(1, used_v2=None, power_mw=None, energy_mj=7))  # the energy counter alone changes nothing
    assert figures.gpus()[1] == "GPU 1: 36.0 of 80.0 GiB"
    figures.gpu("fp8", gpu())
    assert figures.gpus()[2].startswith("GPU of fp8: 97 % busy")
    for number in range(2, 8):
        figures.gpu("", gpu(number))
    assert len(figures.gpus()) == 5
    assert figures.gpus()[-1] == "further GPUs are not shown"


def test_only_measured_requests_enter_the_median() -> None:
    figures = Figures(Clock())
    figures.add(made.record("fp8", 0, 0.0, phase=Phase.COLD, ttft_ms=5000))
    assert figures.latencies() == {}


def test_errors_are_told_by_kind_and_target() -> None:
    figures = Figures(Clock())
    for status in (429, 429, 503):
        figures.add(made.failed("fp8", 0, 0.0, Outcome.HTTP_ERROR, status=status))
    figures.add(made.failed("bf16", 0, 0.0, Outcome.REFUSED))
    assert figures.errors() == {"fp8": "2 http_429, 1 http_503", "bf16": "1 refused"}
    assert "fp8 failed: 2 http_429, 1 http_503" in figures.line()


def test_a_log_gets_whole_lines_now_and_then() -> None:
    clock, out = Clock(), io.StringIO()
    plain = Plain(out, clock)
    plain.stage("measuring fp8", 40)
    filled(clock, plain, 24)
    lines = out.getvalue().splitlines()
    assert lines[0] == "measuring fp8 …"
    assert lines[1] == (
        "measuring fp8: 10/40 · 2.0/s · 15 s left  fp8 p50 314 ms  max 314 ms  bf16 p50 214 ms  max 214 ms"
    )
    assert len(lines) == 3
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_names_cannot_steer_the_terminal() -> None:
    clock, out = Clock(), io.StringIO()
    plain = Plain(out, clock)
    plain.stage("measuring \x1b[2Jfp8", 1)
    clock.now += 9
    plain.record(made.record("fp8\x1b]0;x\x07", 0, 0.0))
    assert len(out.getvalue().splitlines()) == 2
    assert out.getvalue().replace("\n", "").isprintable()


def test_a_terminal_sees_stage_bar_medians_and_errors() -> None:
    clock, out = Clock(), io.StringIO()
    live = Live(Console(file=out, force_terminal=True, width=100, color_system=None), clock)
    live.stage("measuring [fp8]", 30)
    filled(clock, live)
    live.gpu("", gpu())
    live.follow(lambda: 4)
    live.record(made.failed("fp8", 9, 0.0, Outcome.TIMEOUT_IDLE))
    live.note("a [fact]")
    live._live.refresh()
    live.close()
    shown = out.getvalue()
    for words in (
        "measuring [fp8]",
        "11/30",
        "left",
        "p50 214 ms",
        "failed: 1 timeout_idle",
        "a [fact]",
        "━",
        "4 in flight",
        "412 W",
    ):
        assert words in shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_is_never_overrun(width: int) -> None:
    """A line that wraps would make the redrawn view climb up the screen."""
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    live = Live(console, clock)
    live.stage("asking a-target-with-a-rather-long-name-of-its-own for accuracy (pass 3)", 30)
    filled(clock, live)
    live.gpu("a-target-with-a-rather-long-name-of-its-own", gpu())
    for status in (429, 500, 502, 503, 504):
        live.record(made.failed("bf16", 9, 0.0, Outcome.HTTP_ERROR, status=status))
    shown = console.render_lines(live._view(), pad=False)
    live.close()
    assert len(shown) == 5
    assert max(sum(len(part.text) for part in line) for line in shown) <= width


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = choose(True)
    assert isinstance(quiet, Quiet)
    quiet.stage("x", 1)
    quiet.record(made.record("fp8", 0, 0.0))
    quiet.expect(3)
    quiet.gpu("", gpu())
    quiet.follow(lambda: 1)
    quiet.note("y")
    quiet.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
