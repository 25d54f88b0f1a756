"""Gathers what servers and GPUs say of themselves: `/metrics` pages, and the NVML sidecar's samples.

Everything here runs in threads of its own with a plain blocking client: nothing touches the request path or its event loop.
A reading that cannot be had is a value with its reason (`why`), never an exception in the middle of a run.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from client.core.evidence import GpuEvidence
from client.core.records import ClockAnchor, GpuSample, ServerSnapshot
from client.core.sidecar import (
    Offset,
    RoundTrip,
    drift,
    estimate_offset,
    flat_info,
    host_of,
    offset_by_wall,
    on_our_clock,
    read_lines,
)
from client.errors import UsageError

MAX_PAGE_BYTES = 8 * 1024 * 1024
TRIPS = 9
LOOK_BACK_NS = 5_000_000_000
"""Samples from before the start that are taken along: they show the GPU before the first request."""
OVERLAP_NS = 2_000_000_000
"""Each pull asks again for so much: lines of several threads may appear a little out of order."""
PULL_LINES = 20_000


class NoAnswer(Exception):
    """Why a page could not be had, in one sentence."""


def boot_id() -> str | None:
    """Names this boot of this kernel: a sidecar that reports the same one shares our monotonic clock. None where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def _fetch(client: httpx.Client, url: str, timeout_s: float, limit: int = MAX_PAGE_BYTES) -> httpx.Response:
    """A complete 200 answer of at most `limit` bytes within `timeout_s` in all. Raises NoAnswer."""
    deadline = time.monotonic() + timeout_s
    body = bytearray()
    try:
        with client.stream("GET", url, timeout=timeout_s) as response:
            if response.status_code != 200:
                raise NoAnswer(f"HTTP {response.status_code} from {url}")
            if (coding := response.headers.get("content-encoding", "identity")) not in ("", "identity"):
                raise NoAnswer(f"{url} answered compressed ({coding}), though none was asked for")
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > limit:
                    raise NoAnswer(f"{url} sent more than {limit} bytes")
                if time.monotonic() > deadline:
                    raise NoAnswer(f"{url} was not complete after {timeout_s:g} s")
            return httpx.Response(
                200,
                headers={"x-dropped-until-ns": response.headers.get("x-dropped-until-ns", "0")},
                content=bytes(body),
            )
    except httpx.TimeoutException as error:
        raise NoAnswer(f"no answer from {url} within {timeout_s:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoAnswer(f"{url} cannot be asked: {error}") from error


def _new_client(url: str, ca_file: str | None = None, api_key: str | None = None) -> httpx.Client:
    # No proxies: the page must come from the server itself. No redirects: a key is for one origin.
    headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {api_key}"} if api_key else {})
    verify: ssl.SSLContext | bool = True
    if ca_file:
        verify = ssl.create_default_context(cafile=ca_file)
    elif url.startswith("http://"):
        verify = ssl.SSLContext(
            ssl.PROTOCOL_TLS_CLIENT
        )  # trusts nobody and is not asked: certificates take 20 ms to read
    return httpx.Client(trust_env=False, follow_redirects=False, headers=headers, verify=verify)


class Ticker:
    """Calls `work` every `period_s` in a daemon thread until `stop`; the pause begins when the work is done, so calls never pile up."""

    def __init__(self, work: Callable[[], object], period_s: float, name: str) -> None:
        self._work, self._period_s = work, period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._work()

    def stop(self, timeout_s: float) -> None:
        self._stop.set()
        self._thread.join(timeout_s)


class MetricsScraper:
    """The `/metrics` page of one target. `base_url` ends before `/v1`, as in a Target. `absent` says why there is none to ask for."""

    def __init__(
        self,
        target: str,
        base_url: str,
        *,
        timeout_s: float = 5.0,
        limit_bytes: int = MAX_PAGE_BYTES,
        ca_file: str | None = None,
        api_key: str | None = None,
        absent: str | None = None,
    ) -> None:
        self.target, self.url = target, base_url.rstrip("/") + "/metrics"
        self._timeout_s, self._limit = timeout_s, limit_bytes
        self._absent = absent
        self._client = _new_client(self.url, ca_file, api_key)
        self._ticker: Ticker | None = None

    def snapshot(self) -> ServerSnapshot:
        """The page now. `text` is None, and `why` says so, when there is none or it is not a metrics page. Blocks: call it in a thread."""
        mono_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        text, why = None, self._absent
        try:
            if why is None:
                text = _fetch(self._client, self.url, self._timeout_s, self._limit).content.decode(errors="replace")
            if text is not None and text.lstrip()[:1] == "<":
                text, why = None, f"{self.url} answered with HTML, not metrics (a proxy in between?)"
        except NoAnswer as error:
            why = str(error)
        return ServerSnapshot(target=self.target, mono_ns=mono_ns, wall_ns=wall_ns, text=text, why=why)

    def start(self, sink: Callable[[ServerSnapshot], object], period_s: float = 1.0) -> None:
        """Snapshots into `sink` at most once a second: a page costs the server's own event loop milliseconds."""
        self._ticker = Ticker(lambda: sink(self.snapshot()), max(1.0, period_s), f"metrics-{self.target}")

    def stop(self) -> None:
        if self._ticker is not None:
            self._ticker.stop(self._timeout_s)
            self._ticker = None

    def close(self) -> None:
        self.stop()
        self._client.close()


class SidecarClient:
    """Reads one NVML sidecar: `open`, then `start`; `energy_mj` at phase borders; `stop`, then `evidence`. All calls block: use a thread."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        self.url = url.rstrip("/")
        self.info: dict[str, str] = {}
        self.why: str | None = "the sidecar was not asked"
        self.offset = Offset()
        self.samples = 0
        self.failed_pulls = 0
        self._silent = False
        self.missed = False
        self._timeout_s = timeout_s
        self._client = _new_client(self.url)
        self._last_energy: dict[int, int] = {}
        self._ticker: Ticker | None = None
        self._sink: Callable[[GpuSample], object] = lambda _: None
        self._newest_ns = 0
        self._seen: dict[tuple[int, str | None, int, bool], None] = {}

    def open(self) -> str | None:
        """Asks who it is and what time it has. Returns why its samples cannot be used, or None when they can."""
        try:
            answer = self._json("/info")
            self.info = flat_info(answer) if answer else {}
            self.offset = self._ask_clock()
        except NoAnswer as error:
            self.why = f"GPU not measured: {error}"
            return self.why
        self.why = None
        self._newest_ns = time.monotonic_ns() + self.offset.offset_ns - LOOK_BACK_NS + OVERLAP_NS
        return None

    @property
    def elsewhere(self) -> bool:
        """It says that it runs on another machine (or boot) than this process: a tunnel may end at a loopback address. False: not known."""
        theirs, ours = self.info.get("boot_id"), boot_id()
        return theirs is not None and ours is not None and theirs != ours

    def _json(self, path: str) -> dict[str, Any] | None:
        """None when the route is not there (a simulated server serves /samples only). Raises NoAnswer."""
        try:
            content = _fetch(self._client, self.url + path, self._timeout_s).content
            return msgspec.json.decode(content, type=dict[str, Any])
        except NoAnswer as error:
            if str(error).startswith("HTTP 404"):
                return None
            raise
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise NoAnswer(f"{self.url}{path} is not a sidecar's answer") from error

    def _ask_clock(self) -> Offset:
        """Their clock minus ours. Raises NoAnswer when it is on another host and tells no time."""
        trips = []
        for _ in range(TRIPS):
            sent = time.monotonic_ns()
            answer = self._json("/clock")
            received = time.monotonic_ns()
            if answer is None or not isinstance(answer.get("mono_ns"), int):
                break
            trips.append(RoundTrip(sent, answer["mono_ns"], received))
            if self._shares_clock(answer.get("boot_id"), trips[-1]):
                return Offset(0, 0, "same host: one clock")
        estimate = estimate_offset(trips)
        if estimate is not None:
            return estimate
        if host_of(self.url) == "localhost":
            return Offset(0, 0, "same host: one clock")
        raise NoAnswer(
            f"{self.url} has no /clock, and it is on another host: its samples cannot be lined up with requests"
        )

    @staticmethod
    def _shares_clock(boot: object, trip: RoundTrip) -> bool:
        """The same boot, and the stamp lies inside the round trip: one clock (a time namespace would break the second half)."""
        return boot is not None and boot == boot_id() and trip.sent_ns <= trip.theirs_ns <= trip.received_ns

    def start(self, sink: Callable[[GpuSample], object], period_s: float = 0.5) -> None:
        """Hands each new sample, on our clock, to `sink` from a background thread. Does nothing when `open` said why not."""
        if self.why is not None:
            return
        self._sink = sink
        self._ticker = Ticker(self.pull, period_s, "sidecar")

    def pull(self) -> int:
        """Fetches what is new and hands it on. Returns how many samples; a pull that fails is counted and tried again later."""
        taken = 0
        while True:
            since = self._newest_ns - OVERLAP_NS
            try:
                path = f"/samples?since={since}&limit={PULL_LINES}"
                answer = _fetch(self._client, self.url + path, self._timeout_s, 8 * MAX_PAGE_BYTES)
            except NoAnswer:
                self.failed_pulls += 1
                self._silent = True
                return taken
            self._silent = False
            dropped = answer.headers.get("x-dropped-until-ns", "0")
            self.missed |= self.samples > 0 and dropped.isdecimal() and int(dropped) > since + OVERLAP_NS
            lines = read_lines(answer.content)
            new = [s for s in lines.samples if self._is_new(s)]
            for sample in new:
                self._sink(on_our_clock(sample, self.offset))
            taken += len(new)
            self.samples += len(new)
            if len(lines.samples) < PULL_LINES or not new:
                self._forget()
                return taken

    def _is_new(self, sample: GpuSample) -> bool:
        key = (sample.gpu, sample.uuid, sample.mono_ns, sample.energy_mj is None)
        if key in self._seen:
            return False
        self._seen[key] = None
        self._newest_ns = max(self._newest_ns, sample.mono_ns)
        return True

    def _forget(self) -> None:
        oldest = self._newest_ns - OVERLAP_NS
        self._seen = {key: None for key in self._seen if key[2] > oldest}

    def energy_mj(self) -> dict[int, int] | None:
        """Energy counters now, mJ. None when a GPU has none (a partial sum would look like a saving) or the sidecar is silent."""
        if self.why is not None or self._silent:
            return None
        try:
            lines = read_lines(_fetch(self._client, self.url + "/energy", self._timeout_s).content)
        except NoAnswer:
            self._silent = True
            return None
        found = {s.gpu: s.energy_mj for s in lines.samples if s.energy_mj is not None}
        return found if found and {s.gpu for s in lines.samples} == set(found) else None

    def energy_total_mj(self) -> int | None:
        """What PhaseWindow.energy_start_mj and energy_end_mj hold: the sum over all GPUs that the sidecar watches."""
        found = self.energy_mj()
        if not found:
            return None
        # A counter that steps back (a driver reload) would hide in a sum in which another one grew.
        fell = any(value < self._last_energy.get(gpu, 0) for gpu, value in found.items())
        self._last_energy = found
        return None if fell else sum(found.values())

    def stop(self) -> None:
        """Ends the pulls, takes the last samples, and asks the clock again to see how far it drifted."""
        if self._ticker is None:
            return
        self._ticker.stop(2 * self._timeout_s)
        self._ticker = None
        self.pull()
        try:
            self.offset = self.offset if self._silent else drift(self.offset, self._ask_clock())
        except NoAnswer:
            self.failed_pulls += 1

    def close(self) -> None:
        self.stop()
        self._client.close()

    def evidence(self, target: str | None = None, samples: tuple[GpuSample, ...] = ()) -> GpuEvidence:
        """What is known of this sidecar's GPU; `samples` as the sink kept them (they are already on our clock)."""
        info = dict(self.info)
        if self.offset.why:
            info["clock"] = self.offset.why
        if self.failed_pulls:
            info["failed_pulls"] = str(self.failed_pulls)
        if self.missed:
            info["missed"] = "the sidecar had dropped samples before they were pulled"
        why = self.why
        if why is None and self.samples == 0:
            why = f"GPU not measured: {self.url} gave no sample"
        return GpuEvidence(
            samples=samples,
            target=target,
            source=self.url,
            clock_offset_ns=self.offset.offset_ns,
            clock_error_ns=self.offset.error_ns,
            info=info,
            why=why,
        )


def read_gpu_file(path: Path, anchor: ClockAnchor, target: str | None = None) -> GpuEvidence:
    """A sidecar's file, on our clock: as it is when it was written on this boot of this host, else shifted by the wall clocks.

    `anchor` is this process's. Raises UsageError when the file cannot be read or holds no sample.
    """
    try:
        lines = read_lines(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"The GPU file {path} cannot be read: {error.strerror}.", "Give the --out file of nvml_sidecar."
        ) from error
    if not lines.samples:
        raise UsageError(f"The GPU file {path} holds no sample.", "Give the --out file of nvml_sidecar.")
    info = flat_info(lines.info or {})
    here = boot_id()
    same = here is not None and info.get("boot_id") == here
    offset = Offset(0, 0, "same host: one clock") if same else offset_by_wall(lines.samples[-1], anchor)
    info["clock"] = offset.why
    if lines.bad:
        info["bad_lines"] = str(lines.bad)
    return GpuEvidence(
        samples=tuple(on_our_clock(s, offset) for s in lines.samples),
        target=target,
        source=str(path),
        clock_offset_ns=offset.offset_ns,
        clock_error_ns=offset.error_ns,
        info=info,
    )
