"""The client's side of telemetry, against the real sidecar and against servers that misbehave, over real sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from live_sidecar import Running
from scripted_nvml import GIB, Error

from client import telemetry
from client.core.evidence import GpuEvidence
from client.core.gpu import by_target
from client.core.plan import Target
from client.core.records import ClockAnchor, GpuSample, ServerSnapshot
from client.errors import UsageError
from client.session import _Gpus
from client.telemetry import MetricsScraper, SidecarClient, read_gpu_file

GOLDEN = Path(__file__).parent.parent / "golden" / "gpu"
Answer = tuple[int, bytes] | Callable[[BaseHTTPRequestHandler], tuple[int, bytes] | None]


class Site:
    """A server that answers each path from a table; a callable may write to the socket itself and return None."""

    def __init__(self, **pages: Answer) -> None:
        self.pages, self.asked = pages, list[str]()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                answer = site.pages.get(self.path.split("?")[0].strip("/"), (404, b""))
                found = answer(self) if callable(answer) else answer
                if found is not None:
                    self.send_response(found[0])
                    self.end_headers()
                    self.wfile.write(found[1])

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def snapshot(url: str, **more: Any) -> ServerSnapshot:
    scraper = MetricsScraper("fp8", url, **more)
    try:
        return scraper.snapshot()
    finally:
        scraper.close()


def test_a_page_is_taken_as_it_is() -> None:
    page = "# HELP vllm:x µ\nvllm:x 1.0\n"
    with Site(metrics=(200, page.encode())) as site:
        before = time.monotonic_ns()
        found = snapshot(site.url + "/")
        assert before <= found.mono_ns <= time.monotonic_ns()
        assert (found.target, found.text, found.why) == ("fp8", page, None)
        assert site.asked == ["/metrics"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, b""), "HTTP 404"),
        ((524, b"<html>cloudflare</html>"), "HTTP 524"),
        ((200, b"\n<!DOCTYPE html><html>"), "HTML, not metrics"),
        ((200, b"x" * 5000), "more than 4000 bytes"),
    ],
)
def test_no_page_has_its_reason(answer: Answer, says: str) -> None:
    with Site(metrics=answer) as site:
        found = snapshot(site.url, limit_bytes=4000)
        assert found.text is None
        assert says in (found.why or "")


def test_a_server_that_is_not_there_is_said() -> None:
    assert "cannot be asked" in (snapshot("http://127.0.0.1:9").why or "")
    assert "cannot be asked" in (snapshot("http://[nonsense").why or "")


def test_a_page_that_drips_ends_at_the_time_limit() -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b"vllm:x 1\n")
                time.sleep(0.02)
        except OSError:
            return

    with Site(metrics=drip) as site:
        started = time.monotonic()
        found = snapshot(site.url, timeout_s=0.3)
        assert time.monotonic() - started < 2
        assert "not complete after 0.3 s" in (found.why or "")


def test_pages_are_scraped_beside_the_run_at_most_once_a_second() -> None:
    with Site(metrics=(200, b"a 1\n")) as site:
        scraper, seen = MetricsScraper("fp8", site.url), list[ServerSnapshot]()
        scraper.start(seen.append, period_s=0.01)
        end = time.monotonic() + 10
        while len(seen) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        scraper.close()
        count = len(site.asked)
        assert seen[1].mono_ns - seen[0].mono_ns >= 0.99e9
        time.sleep(0.05)
        assert len(site.asked) == count, "nothing is asked after the end"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    sidecar = Running()
    sidecar.wait_for_lines(20)
    yield sidecar
    sidecar.stop()


def test_a_run_gets_every_sample_once_on_its_own_clock(running: Running) -> None:
    client, seen = SidecarClient(running.url), list[GpuSample]()
    assert client.open() is None
    before = time.monotonic_ns()
    client.start(seen.append, period_s=0.05)
    running.wait_for_lines(running.hub.lines + 150)
    after = time.monotonic_ns()
    client.close()
    keys = [(s.gpu, s.mono_ns) for s in seen]
    assert len(keys) == len(set(keys)) > 150
    inside = sorted(k for k in keys if before <= k[1] <= after)
    served = [json.loads(text) for text in running.hub.since(-1).splitlines()]
    assert inside == sorted(
        (s.get("gpu", 0), s["mono_ns"]) for s in served if before <= s["mono_ns"] <= after and "energy_mj" not in s
    )
    found = client.evidence("fp8", tuple(seen))
    assert (found.why, found.target, found.source) == (None, "fp8", running.url)
    assert (found.clock_offset_ns, found.clock_error_ns) == (0, 0)
    assert found.info["clock"] == "same host: one clock"
    assert found.info["name"] == "NVIDIA H100 80GB HBM3"
    assert found.info["compute_capability"] == "9.0"


def test_samples_from_shortly_before_the_start_come_along(running: Running) -> None:
    client, seen = SidecarClient(running.url), list[GpuSample]()
    client.open()
    opened = time.monotonic_ns()
    client.start(seen.append)
    client.close()
    assert any(s.mono_ns < opened and s.used_v2 == 37 * GIB for s in seen)


def test_energy_is_all_gpus_or_none(running: Running) -> None:
    client = SidecarClient(running.url)
    assert client.energy_mj() is None, "not before it was opened"
    client.open()
    assert client.energy_mj() == {0: 123_456_789, 1: 123_456_789}
    assert client.energy_total_mj() == 2 * 123_456_789
    running.nvml.gpus[1]["energy"] = Error(3)
    assert client.energy_mj() is None
    running.nvml.gpus[1]["energy"] = 5
    client.close()


def test_a_counter_that_steps_back_does_not_hide_in_the_sum(running: Running) -> None:
    client = SidecarClient(running.url)
    client.open()
    assert client.energy_total_mj() is not None
    running.nvml.gpus[0]["energy"] = 500  # its driver was loaded again
    running.nvml.gpus[1]["energy"] = 900_000_000
    assert client.energy_total_mj() is None
    assert client.energy_total_mj() == 900_000_500, "from the new zero it counts again"
    client.close()


def test_no_sidecar_is_a_reason_and_nothing_else_fails() -> None:
    client = SidecarClient("http://127.0.0.1:9", timeout_s=0.5)
    why = client.open()
    assert why is not None
    assert why.startswith("GPU not measured: http://127.0.0.1:9/info cannot be asked")
    client.start(lambda _: None)
    assert client.energy_total_mj() is None
    client.close()
    assert client.evidence("fp8").why == why


def other_host(offset_ns: int, delay_s: float = 0.0, **more: Answer) -> Site:
    """A sidecar whose monotonic clock is `offset_ns` ahead of ours, with one sample a question."""

    def clock(_: object) -> tuple[int, bytes]:
        time.sleep(delay_s)
        return 200, json.dumps({"mono_ns": time.monotonic_ns() + offset_ns, "boot_id": "another"}).encode()

    def samples(_: object) -> tuple[int, bytes]:
        return 200, json.dumps(
            {"mono_ns": time.monotonic_ns() + offset_ns, "wall_ns": 1, "used_v2": 7}
        ).encode() + b"\n"

    return Site(**{"info": (200, b'{"host":"far","gpus":[]}'), "clock": clock, "samples": samples} | more)


def test_another_hosts_samples_are_moved_to_our_clock_with_a_stated_error() -> None:
    shift = -(3600 * 10**9)
    with other_host(shift, delay_s=0.02) as site:
        client, seen = SidecarClient(site.url), list[GpuSample]()
        assert client.open() is None
        started = time.monotonic_ns()
        client.start(seen.append, period_s=0.02)
        time.sleep(0.2)
        client.close()
        found = client.evidence("fp8", tuple(seen))
        assert found.clock_error_ns is not None
        assert abs(found.clock_offset_ns - shift) <= found.clock_error_ns < 1e9
        assert found.clock_error_ns >= 0.009e9, "20 ms on one way of the trip cannot be seen: they are in the error"
        assert len(seen) > 2
        assert all(
            started - found.clock_error_ns <= s.mono_ns <= time.monotonic_ns() + found.clock_error_ns for s in seen
        )


def test_the_same_boot_with_another_clock_is_estimated_all_the_same() -> None:
    """A time namespace gives a container its own monotonic clock on the same boot."""

    def clock(_: object) -> tuple[int, bytes]:
        return 200, json.dumps({"mono_ns": time.monotonic_ns() + 5 * 10**9, "boot_id": telemetry.boot_id()}).encode()

    with other_host(5 * 10**9, clock=clock) as site:
        client = SidecarClient(site.url)
        client.open()
        assert client.offset.offset_ns == pytest.approx(5e9, abs=0.5e9)
        assert client.offset.error_ns


def test_a_sidecar_that_goes_away_costs_samples_not_the_run() -> None:
    with other_host(0) as site:
        client, seen = SidecarClient(site.url, timeout_s=0.5), list[GpuSample]()
        client.open()
        client.start(seen.append, period_s=0.02)
        end = time.monotonic() + 10
        while not seen and time.monotonic() < end:
            time.sleep(0.01)
        site.pages["samples"] = (503, b"")
        while client.failed_pulls < 2 and time.monotonic() < end:
            time.sleep(0.01)
        client.close()
        found = client.evidence("fp8", tuple(seen))
        assert found.why is None
        assert int(found.info["failed_pulls"]) >= 2


@pytest.mark.parametrize(
    ("page", "answer", "says"),
    [
        ("info", (200, b"<html>"), "not a sidecar's answer"),
        ("info", (500, b""), "HTTP 500"),
        ("clock", (200, b"[]"), "not a sidecar's answer"),
    ],
)
def test_something_else_on_that_port_is_not_taken_for_a_sidecar(page: str, answer: Answer, says: str) -> None:
    with other_host(0, **{page: answer}) as site:
        assert says in (SidecarClient(site.url).open() or "")


def test_a_server_on_this_host_may_serve_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the simulated server does. On another host, samples without a clock cannot be used."""
    with other_host(0, info=(404, b""), clock=(404, b"")) as site:
        client, seen = SidecarClient(site.url), list[GpuSample]()
        assert client.open() is None
        assert client.energy_mj() is None
        client.start(seen.append)
        client.close()
        assert len(seen) >= 1
        monkeypatch.setattr(telemetry, "host_of", lambda _: "far")
        assert "cannot be lined up" in (SidecarClient(site.url).open() or "")


def test_samples_that_were_dropped_before_they_were_pulled_are_told() -> None:
    def late(handler: BaseHTTPRequestHandler) -> None:
        now = time.monotonic_ns()
        handler.send_response(200)
        handler.send_header("x-dropped-until-ns", str(now))
        handler.end_headers()
        handler.wfile.write(json.dumps({"mono_ns": now + 10, "wall_ns": 1, "used_v2": 7}).encode() + b"\n")

    with other_host(0, samples=late) as site:
        client = SidecarClient(site.url)
        client.open()
        client.start(lambda _: None, period_s=60)
        client.pull()
        assert not client.missed, "what was dropped before the first pull was not ours"
        client.close()
        assert "dropped" in client.evidence().info["missed"]


def anchor() -> ClockAnchor:
    return ClockAnchor(mono_ns=10_000, wall_ns=1_795_567_091_275_217_616)


def test_a_file_of_this_boot_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "gpu.jsonl"
    info = {"info": {"boot_id": telemetry.boot_id(), "driver": "580"}}
    path.write_bytes(json.dumps(info).replace(": ", ":").encode() + b"\n" + (GOLDEN / "contract.jsonl").read_bytes())
    found = read_gpu_file(path, anchor(), "fp8")
    assert found.samples[1].mono_ns == 212_699_706_359
    assert (found.clock_offset_ns, found.clock_error_ns, found.target) == (0, 0, "fp8")
    assert found.info["driver"] == "580"


def test_a_file_from_elsewhere_is_lined_up_by_wall_clocks_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "gpu.jsonl"
    path.write_bytes((GOLDEN / "contract.jsonl").read_bytes() + b'{"torn')
    found = read_gpu_file(path, anchor())
    assert found.samples[1].mono_ns == 10_000, "same wall time as the anchor"
    assert found.clock_error_ns is None
    assert "error not known" in found.info["clock"]
    assert found.info["bad_lines"] == "1"


def test_a_file_that_holds_nothing_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_gpu_file(tmp_path / "none", anchor())
    (tmp_path / "empty").write_text("hello\n")
    with pytest.raises(UsageError, match="holds no sample"):
        read_gpu_file(tmp_path / "empty", anchor())


def test_a_run_never_takes_this_machines_gpu_for_a_remote_servers(running: Running) -> None:
    """As server/targets.toml has it: the sidecar is at a loopback address, and --url has moved one server away."""
    here = Target(name="bf16", base_url="http://127.0.0.1:8000", sidecar_url=running.url)
    also = Target(name="int8", base_url="http://127.0.0.1:8001", sidecar_url=running.url)
    away = Target(name="fp8", base_url="https://abc123-8000.proxy.runpod.net", sidecar_url=running.url)
    for targets, owner, shared in (
        ((here, away), "bf16", ()),
        ((away, here, also), None, ("bf16", "int8")),
        ((away,), None, None),
    ):
        kept, told = Kept(), Told()
        gpus = _Gpus(kept)  # type: ignore[arg-type]  # only what it writes
        gpus.open(targets, told)  # type: ignore[arg-type]  # only what it notes
        gpus.close()
        assert any("fp8" in note and "this machine's GPU" in note for note in told.notes)
        found = [msgspec.json.decode(data, type=GpuEvidence) for data in kept.files.values()]
        assert [(f.target, f.shared_by) for f in found if f.why is None] == (
            [] if shared is None else [(owner, shared)]
        )
        why = by_target(found, "fp8").why
        assert why is not None, "the report must be able to say why"
        assert "this machine's GPU" in why


def test_samples_have_their_header_from_the_start(running: Running) -> None:
    """A run that is killed never closes its sidecars: what they told until then must be readable."""
    kept = Kept()
    gpus = _Gpus(kept)  # type: ignore[arg-type]  # only what it writes
    gpus.open((Target(name="bf16", base_url="http://127.0.0.1:8000", sidecar_url=running.url),), Told())  # type: ignore[arg-type]
    try:
        header = msgspec.json.decode(kept.files["gpu-0.json"], type=GpuEvidence)
        assert (header.target, header.why) == ("bf16", None)
        assert header.info["name"]
    finally:
        gpus.close()


class Kept:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def append(self, _name: str, _value: object) -> None:
        pass

    def write_file(self, name: str, data: bytes) -> None:
        self.files[name] = data


class Told:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def gpu(self, owner: str, sample: GpuSample) -> None:
        pass
