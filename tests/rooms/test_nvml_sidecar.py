"""The sidecar as a whole: command line, file, HTTP over a real socket, replay, and memory that stays flat."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_sidecar import Running
from prometheus_client.parser import text_string_to_metric_families
from scripted_nvml import GIB, LOST, Error, ScriptedNvml, gpu

from server.gpu import replay
from server.gpu.about import About
from server.gpu.hub import Hub
from server.gpu.owners import container_in, owner
from server.gpu.poller import Pace, Poller
from server.gpu.reader import Library
from server.gpu.web import health
from server.gpu.wire import Sample, Stamp, info_line
from server.nvml_sidecar import main

GOLDEN = Path(__file__).parent.parent / "golden" / "gpu"
ROOT = Path(__file__).parent.parent.parent


def sample(ms: int, gpu: int = 0, **fields: Any) -> Sample:
    return Sample(mono_ns=ms * 1_000_000, wall_ns=ms * 1_000_000 + 7, gpu=gpu, **fields)


def stamps(data: bytes) -> list[int]:
    return [json.loads(text)["mono_ns"] // 1_000_000 for text in data.splitlines()]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    sidecar = Running()
    sidecar.wait_for_lines(60)
    yield sidecar
    sidecar.stop()


def test_samples_are_lines_after_since_oldest_first(running: Running) -> None:
    first = [json.loads(text) for text in running.get("/samples?since=0").text.splitlines()]
    middle = first[len(first) // 2]["mono_ns"]
    later = [json.loads(text)["mono_ns"] for text in running.get(f"/samples?since={middle}").text.splitlines()]
    assert later == sorted(later)
    assert later[0] > middle
    assert {s.get("gpu", 0) for s in first} == {0, 1}
    assert len(running.get(f"/samples?since={middle}&limit=3").text.splitlines()) == 3


def test_memory_is_read_more_often_than_the_rest(running: Running) -> None:
    lines = [json.loads(text) for text in running.get("/samples").text.splitlines()]
    mine = [s for s in lines if s.get("gpu", 0) == 0]
    full = [s for s in mine if "sm_mhz" in s]
    assert all("used_v2" in s for s in mine if "energy_mj" not in s)
    assert len(mine) > 2.5 * len(full) > 0


@pytest.mark.parametrize("query", ["since=yesterday", "limit=0", "limit=-3", "since=1&limit=x"])
def test_a_query_that_cannot_be_understood_is_refused(running: Running, query: str) -> None:
    answer = running.get(f"/samples?{query}")
    assert answer.status_code == 400
    assert "error" in answer.json()


def test_the_clock_is_this_hosts(running: Running) -> None:
    before = time.monotonic_ns()
    clock = running.get("/clock").json()
    assert before < clock["mono_ns"] < time.monotonic_ns()
    assert abs(clock["wall_ns"] - time.time_ns()) < 5e9


def test_info_says_what_was_found(running: Running) -> None:
    info = running.get("/info").json()
    assert (info["driver"], info["rate_hz"], info["memory_rate_hz"]) == ("580.159.04", 20, 100)
    assert [g["compute_capability"] for g in info["gpus"]] == ["9.0", "9.0"]
    assert info["gpus"][0]["memory_apis"] == ["v1", "v2"]


def test_info_is_renewed_when_a_gpu_comes_back() -> None:
    """A GPU that is lost at the start has neither name nor capability; once it is back, /info and the file tell them."""
    nvml = ScriptedNvml(gpu(0, handle=LOST), gpu(1))
    library = Library(nvml)
    library.start()
    out, seconds = io.BytesIO(), [0]
    hub = Hub(out)
    clock = lambda: Stamp(seconds[0] * 1_000_000_000, 0)  # noqa: E731
    pollers = [Poller(library, device, hub.emit, clock) for device in library.devices()]
    about = About(library, pollers, 10, 10, lambda info: hub.note(info_line(info)))
    assert [g.name for g in about().gpus] == [None, "NVIDIA H100 80GB HBM3"]
    for poller in pollers:
        poller.step()
    del nvml.gpus[0]["handle"]
    seconds[0] = 2
    for poller in pollers:
        poller.step()
    assert [g.name for g in about().gpus] == ["NVIDIA H100 80GB HBM3"] * 2
    assert about().gpus[0].compute_capability == "9.0"
    lines = out.getvalue().splitlines()
    assert [line.startswith(b'{"info"') for line in lines] == [False, False, True, False, False]


def test_energy_is_read_when_asked_and_stays_in_the_samples(running: Running) -> None:
    running.nvml.gpus[1]["energy"] = Error(3)
    lines = [json.loads(text) for text in running.get("/energy").text.splitlines()]
    assert [s.get("energy_mj") for s in lines] == [123_456_789, None]
    assert lines[1]["absent"] == {"energy_mj": "Not Supported"}
    assert '"energy_mj":123456789' in running.get("/samples").text


def test_an_energy_read_that_hangs_does_not_hold_up_the_others(running: Running, monkeypatch: Any) -> None:
    monkeypatch.setattr("server.gpu.web.ENERGY_TIMEOUT_S", 0.2)
    gate = threading.Event()
    running.nvml.gpus[1]["energy"] = lambda: gate.wait(10) and 5
    before = running.hub.lines
    lines = [json.loads(text) for text in running.get("/energy").text.splitlines()]
    running.wait_for_lines(before + 10)
    gate.set()
    assert lines[0]["energy_mj"] == 123_456_789
    assert lines[1]["absent"] == {"energy_mj": "no answer in 0.2 s"}
    assert running.hub.lines >= before + 10


def test_metrics_have_dcgm_names_and_no_series_for_what_is_absent(running: Running) -> None:
    running.get("/energy")
    families = {f.name: f for f in text_string_to_metric_families(running.get("/metrics").text)}
    watts = families["DCGM_FI_DEV_POWER_USAGE"].samples
    assert [(s.labels["gpu"], s.value) for s in watts] == [("0", 402.0)], "GPU 1 gives no power"
    used = families["DCGM_FI_DEV_FB_USED"].samples[0]
    assert used.value == 37 * 1024
    assert used.labels["modelName"] == "NVIDIA H100 80GB HBM3"
    assert used.labels["UUID"].startswith("GPU-")
    assert set(used.labels) == {"gpu", "UUID", "device", "modelName", "Hostname", "fake"}
    assert families["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"].samples[0].value == 123_456_789
    for name in ("GPU_UTIL", "SM_CLOCK", "MEM_CLOCK", "GPU_TEMP", "FB_FREE", "CLOCKS_EVENT_REASONS"):
        assert f"DCGM_FI_DEV_{name}" in families


def test_health_is_good_while_one_gpu_answers(running: Running) -> None:
    answer = running.get("/health")
    assert answer.status_code == 200
    assert [g["state"] for g in answer.json()["gpus"]] == ["ok", "ok"]
    hub, info = Hub(), running.info
    hub.emit(sample(1000, used_v2=5))
    hub.emit(sample(1000, gpu=1, absent={"*": "GPU is lost"}))
    assert health(hub, info, 2_000_000_000)[0] == 200
    status, body = health(hub, info, 9_000_000_000)
    assert status == 503
    assert [g["state"] for g in body["gpus"]] == ["silent", "GPU is lost"]  # type: ignore[attr-defined]


def test_a_lost_gpu_leaves_no_stale_numbers_on_the_metrics_page(running: Running) -> None:
    running.nvml.gpus[1]["everything"] = running.nvml.gpus[1]["handle"] = LOST
    end = time.monotonic() + 10
    while "up{" not in (page := running.get("/metrics").text) or page.count("DCGM_FI_DEV_SM_CLOCK{") > 1:
        assert time.monotonic() < end, page
        time.sleep(0.05)
    up = next(f for f in text_string_to_metric_families(page) if f.name == "halfweight_gpu_up").samples
    assert [(s.labels["gpu"], s.value) for s in up] == [("0", 1), ("1", 0)]
    del running.nvml.gpus[1]["everything"], running.nvml.gpus[1]["handle"]


def test_the_file_begins_with_info_and_holds_every_sample(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "gpu.jsonl"
    nvml = ScriptedNvml(gpu())
    assert main(["--out", str(out), "--port", "0", "--duration", "0.6", "--rate", "20"], nvml) == 0
    info, *rest = [json.loads(text) for text in out.read_text().splitlines()]
    assert info["info"]["gpus"][0]["name"] == "NVIDIA H100 80GB HBM3"
    marks = [s["mono_ns"] for s in rest]
    assert len(marks) >= 6
    assert statistics.median(b - a for a, b in pairwise(marks)) == pytest.approx(50e6, rel=0.3)
    assert any("processes" in s for s in rest)
    assert nvml.calls[-1] == "shutdown"
    assert "energy" not in nvml.calls


def test_the_energy_counter_can_be_read_regularly(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    main(["--out", str(out), "--port", "0", "--duration", "0.3", "--energy-every", "1"], ScriptedNvml(gpu()))
    assert sum('"energy_mj"' in text for text in out.read_text().splitlines()) == 1


def test_once_shows_what_can_be_read(capfdbinary: Any) -> None:
    assert main(["--once"], ScriptedNvml(gpu(0), gpu(1, everything=LOST))) == 0
    lines = [json.loads(text) for text in capfdbinary.readouterr().out.splitlines()]
    assert lines[0]["info"]["gpus"][1]["absent"] == {"*": "GPU is lost"}
    assert lines[1]["used_v2"] == 37 * GIB
    assert lines[1]["processes"] == [{"pid": 4711, "used_bytes": 36 * GIB}]
    assert lines[2]["energy_mj"] == 123_456_789


@pytest.mark.parametrize(
    ("nvml", "says"),
    [
        (ScriptedNvml(init=Error(12)), "NVML Shared Library Not Found"),
        (ScriptedNvml(init=Error(9)), "Driver Not Loaded"),
        (ScriptedNvml(), "sees no GPU"),
    ],
)
def test_no_gpu_is_a_clear_message_and_exit_code_3(nvml: ScriptedNvml, says: str, capsys: Any) -> None:
    assert main(["--port", "0", "--duration", "0.1"], nvml) == 3
    text = capsys.readouterr().err
    assert says in text
    assert "--fake" in text


def test_a_gpu_that_is_not_there_names_those_that_are(capsys: Any) -> None:
    assert main(["--gpu", "GPU-nope", "--port", "0"], ScriptedNvml(gpu())) == 3
    assert "0 = GPU-00000000" in capsys.readouterr().err


def test_a_port_or_file_that_cannot_be_had_is_named(tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)], ScriptedNvml(gpu())) == 6
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert main(["--port", "0", "--out", str(tmp_path)], ScriptedNvml(gpu())) == 6
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--rate", "0"], ["--rate", "50"], ["--memory-rate", "101"], ["--energy-every", "0.1"]]
)
def test_rates_that_nvml_cannot_serve_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(argv, ScriptedNvml(gpu()))
    assert exit_info.value.code == 2


def test_importing_the_sidecar_starts_no_nvml_and_a_replay_needs_none() -> None:
    code = "import sys, server.nvml_sidecar; sys.exit('pynvml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_replay_is_marked_in_every_line_and_ends_by_a_signal(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-m", "server.nvml_sidecar", "--fake", str(GOLDEN / "bf16.gpu.jsonl"), "--port", "0", "--out", str(out)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert child.stderr is not None
    said = child.stderr.readline()
    assert "REPLAYS A RECORDING" in said
    url = said.split()[-1]
    end = time.monotonic() + 20
    while len(httpx.get(url + "/samples", trust_env=False).text.splitlines()) < 5:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert httpx.get(url + "/info", trust_env=False).json()["fake"] is True
    assert 'fake="true"' in httpx.get(url + "/metrics", trust_env=False).text
    assert "no energy counter" in httpx.get(url + "/energy", trust_env=False).text
    child.send_signal(signal.SIGTERM)
    assert child.wait(15) == 0
    child.stderr.close()
    _, *lines = out.read_text().splitlines()
    assert len(lines) >= 5
    assert all(json.loads(text)["fake"] is True for text in lines)


def test_a_replay_goes_round_on_time_and_counters_go_on_rising() -> None:
    recording = replay.Recording(
        samples=(sample(500, energy_mj=10), sample(600, energy_mj=15), sample(9000, energy_mj=18))
    )
    show = replay.Replay(recording, Stamp(7_000_000_000, 99))
    seen = [show.at(n) for n in range(5)]
    assert [s.mono_ns // 1_000_000 for s in seen] == [7000, 7100, 7200, 7300, 7400], "holes are closed up"
    assert [s.energy_mj for s in seen] == [10, 15, 18, 18, 23]
    assert all(s.fake for s in seen)


def test_a_recording_may_end_torn_but_not_be_broken_inside(tmp_path: Path, capsys: Any) -> None:
    whole = (GOLDEN / "contract.jsonl").read_bytes()
    path = tmp_path / "torn.jsonl"
    path.write_bytes(whole + b'{"mono_ns": 12')
    assert len(replay.read(path).samples) == 5
    path.write_bytes(b'{"mono_ns": 12\n' + whole)
    assert main(["--fake", str(path)]) == 2
    assert "torn.jsonl:1 is not a sample" in capsys.readouterr().err
    path.write_bytes(b"")
    assert main(["--fake", str(path)]) == 2
    assert main(["--fake", str(tmp_path / "none")]) == 2


def test_the_hub_pages_and_tells_what_it_dropped() -> None:
    hub = Hub(ring_ns=1_000_000_000)
    for ms in (0, 500, 900, 800, 1600):
        hub.emit(sample(ms, used_v2=ms))
    assert stamps(hub.since(-1)) == [800, 900, 1600], "older than a second is gone"
    assert hub.dropped_until_ns == 500_000_000
    assert stamps(hub.since(800_000_000)) == [900, 1600]
    assert stamps(hub.since(-1, 2)) == [800, 900]


def test_the_newest_state_is_merged_from_parts_and_wiped_by_a_loss() -> None:
    hub = Hub()
    hub.emit(sample(100, used_v2=1, sm_mhz=1980, power_mw=5))
    hub.emit(sample(150, energy_mj=77))
    hub.emit(sample(160, used_v2=2))
    assert hub.newest() == [sample(160, used_v2=2, sm_mhz=1980, power_mw=5, energy_mj=77)]
    hub.emit(sample(200, sm_mhz=1500, absent={"power_mw": "N/A", "used_v2": "N/A"}))
    assert hub.newest() == [sample(200, sm_mhz=1500, energy_mj=77, absent={"power_mw": "N/A", "used_v2": "N/A"})]
    hub.emit(sample(300, absent={"*": "GPU is lost"}))
    assert hub.newest() == [sample(300, absent={"*": "GPU is lost"})]


def test_a_file_that_fails_stops_the_file_only(capsys: Any) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    hub = Hub(Full())
    hub.emit(sample(1))
    hub.emit(sample(2))
    assert stamps(hub.since(-1)) == [1, 2]
    assert "No space left" in (hub.write_error or "")
    assert capsys.readouterr().err.count("No space left") == 1


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_day_of_samples_leaves_memory_flat() -> None:
    """24 h at 10 Hz: an hour through the whole reader, then the rest, as large as real ones, through the hub."""
    clock = iter(range(0, 24 * 36_000 * 100_000_000, 100_000_000))
    library = Library(ScriptedNvml(gpu()))
    library.start()
    hub, newest = Hub(), list[Sample]()

    def emit(sample: Sample) -> None:
        hub.emit(sample)
        newest[:] = [sample]

    poller = Poller(library, library.devices()[0], emit, lambda: Stamp(next(clock), 1_795_567_091_275_217_616))
    for _ in range(36_000):
        poller.step()
    library.nvml.calls.clear()
    after_an_hour = resident_bytes()
    fields = {name: getattr(newest[0], name) for name in Sample.__struct_fields__}
    for mono_ns in clock:
        fields["mono_ns"] = mono_ns
        hub.emit(Sample(**fields))
    assert hub.lines == 24 * 36_000
    assert resident_bytes() - after_an_hour < 3e6, "a ring without its bound would have grown by 300 MB"
    assert hub.held_bytes < 4e6
    assert len(hub.newest()) == 1


def test_the_ring_is_bounded_in_bytes_too() -> None:
    hub = Hub(ring_bytes=10_000)
    for ms in range(1000):
        hub.emit(sample(ms, absent={"power_mw": "x" * 50}))
    assert hub.held_bytes <= 10_000


def test_deadlines_are_kept_and_missed_ones_are_not_made_up() -> None:
    pace = Pace(10, 50, 0)
    assert [pace.due(now * 20_000_000) for now in range(11)] == [True, *[False] * 4] * 2 + [True]
    assert pace.wait_s(200_000_000) == pytest.approx(0.02)
    assert pace.due(1_003_000_000) is True, "a pause of 0.8 s costs eight readings"
    assert pace.wait_s(1_003_000_000) == pytest.approx(0.017)
    assert pace.due(1_020_000_000) is False


@pytest.mark.parametrize(
    ("text", "container"),
    [
        ("0::/system.slice/docker-{id}.scope\n", "id"),
        ("12:memory:/docker/{id}\n11:cpu:/docker/{id}\n", "id"),
        ("0::/kubepods.slice/kubepods-besteffort.slice/cri-containerd-{id}.scope\n", "id"),
        ("0::/machine.slice/libpod-{id}.scope/container\n", "id"),
        ("0::/\n", None),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
        ("0::/docker/{id}aa\n", None),
    ],
)
def test_the_container_is_read_from_the_cgroup(text: str, container: str | None) -> None:
    long_id = "0123456789ab" + "c" * 52
    assert container_in(text.format(id=long_id)) == (long_id[:12] if container else None)


def test_a_process_out_of_sight_has_no_owner(tmp_path: Path) -> None:
    assert owner(4711, tmp_path) == (None, None)
    assert owner(os.getpid())[1] is not None
