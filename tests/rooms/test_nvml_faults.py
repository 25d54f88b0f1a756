"""Every way in which NVML fails to answer, against a scripted NVML: a field is absent by itself, a GPU is lost by itself."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripted_nvml import (
    GIB,
    GONE,
    LOST,
    MIB,
    MISMATCH,
    NO_PERMISSION,
    NOT_SUPPORTED,
    TOO_OLD,
    Error,
    ScriptedNvml,
    gpu,
    process,
)

from server.gpu.poller import Poller
from server.gpu.reader import Library, NoGpu
from server.gpu.wire import EVERYTHING, Process, Sample, Stamp

READINGS = [
    "used_v1",
    "used_v2",
    "reserved",
    "total",
    "gpu_util",
    "mem_util",
    "power_mw",
    "power_instant_mw",
    "sm_mhz",
    "mem_mhz",
    "temp_c",
    "reasons",
]


class Hand:
    """A clock moved by hand, in seconds."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> Stamp:
        return Stamp(round(self.s * 1e9), round(self.s * 1e9) + 1)


class Bench:
    """Pollers of a scripted NVML, with what they emitted."""

    def __init__(self, nvml: ScriptedNvml, *which: str, proc: Path | None = None) -> None:
        self.nvml, self.clock, self.seen = nvml, Hand(), list[Sample]()
        self.library = Library(nvml)
        self.library.start()
        self.pollers = [
            Poller(self.library, d, self.seen.append, self.clock, proc) for d in self.library.devices(which or ("all",))
        ]

    def round(self, after_s: float = 0.1) -> list[Sample]:
        self.clock.s += after_s
        self.seen.clear()
        for poller in self.pollers:
            poller.step()
        return list(self.seen)


def one(**changes: Any) -> Sample:
    return Bench(ScriptedNvml(gpu(**changes))).round()[0]


def test_a_healthy_gpu_gives_every_field_and_no_excuse() -> None:
    sample = one()
    assert sample.absent == {}
    assert {name: getattr(sample, name) for name in READINGS} == {
        "used_v1": 37 * GIB + 480 * MIB,
        "used_v2": 37 * GIB,
        "reserved": 480 * MIB,
        "total": 80 * GIB,
        "gpu_util": 97,
        "mem_util": 41,
        "power_mw": 402_000,
        "power_instant_mw": 411_000,
        "sm_mhz": 1755,
        "mem_mhz": 2619,
        "temp_c": 61,
        "reasons": 4,
    }


@pytest.mark.parametrize("error", [NOT_SUPPORTED, NO_PERMISSION, TOO_OLD, Error(999)])
@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("memory_v1", ["used_v1"]),
        ("memory_v2", ["used_v2", "reserved"]),
        ("utilization", ["gpu_util", "mem_util"]),
        ("power", ["power_mw"]),
        ("power_instant", ["power_instant_mw"]),
        ("sm", ["sm_mhz"]),
        ("mem", ["mem_mhz"]),
        ("temperature", ["temp_c"]),
    ],
)
def test_one_call_that_fails_takes_only_its_fields(key: str, fields: list[str], error: Error) -> None:
    sample = one(**{key: error})
    assert sorted(sample.absent) == sorted(fields)
    assert all(sample.absent.values())
    for name in READINGS:
        assert (getattr(sample, name) is None) == (name in fields), name


def test_without_memory_api_v2_the_total_comes_from_v1() -> None:
    sample = one(memory_v2=TOO_OLD)
    assert sample.total == 80 * GIB
    assert sample.used_v2 is None
    assert "older" in sample.absent["used_v2"]


def test_no_memory_at_all_is_absent_not_zero() -> None:
    sample = one(memory_v1=NOT_SUPPORTED, memory_v2=NOT_SUPPORTED)
    assert set(sample.absent) == {"used_v1", "used_v2", "reserved", "total"}
    assert sample.sm_mhz == 1755


@pytest.mark.parametrize("sentinel", [2**32 - 1, 2**64 - 1, -1])
def test_the_drivers_sentinels_are_absent(sentinel: int) -> None:
    sample = one(power=sentinel, temperature=sentinel)
    assert sample.power_mw is None
    assert sample.absent == {"power_mw": "N/A", "temp_c": "N/A"}


def test_an_old_driver_gives_reasons_by_their_old_name() -> None:
    assert one(reasons=TOO_OLD, throttle_reasons=0x44).reasons == 0x44
    assert set(one(reasons=TOO_OLD, throttle_reasons=TOO_OLD).absent) == {"reasons"}
    assert set(one(reasons=NO_PERMISSION).absent) == {"reasons"}


def test_a_lost_gpu_says_so_and_hides_no_other() -> None:
    bench = Bench(ScriptedNvml(gpu(0), gpu(1)))
    bench.nvml.gpus[0]["everything"] = LOST
    bench.nvml.gpus[0]["handle"] = LOST
    first, second = bench.round()
    assert first.absent == {EVERYTHING: "GPU is lost"}
    assert first.used_v2 is None
    assert second.used_v2 == 37 * GIB
    assert [s.gpu for s in bench.round(0.1)] == [1], "while it waits, the lost one says nothing more"


def test_a_lost_gpu_is_tried_again_with_growing_pauses_and_comes_back() -> None:
    bench = Bench(ScriptedNvml(gpu()))
    table = bench.nvml.gpus[0]
    table["everything"] = table["handle"] = LOST
    spoke = [tick for tick in range(400) if bench.round(0.1)]
    pauses = [round((b - a) / 10) for a, b in pairwise(spoke)]
    assert pauses == [1, 2, 4, 8, 16]
    del table["everything"], table["handle"]
    bench.round(40)
    assert bench.round()[0].used_v2 == 37 * GIB
    assert bench.pollers[0].lost is None


@pytest.mark.parametrize("error", [GONE, MISMATCH])
def test_a_driver_reload_restarts_nvml_once_for_all_gpus(error: Error) -> None:
    nvml = ScriptedNvml(gpu(0), gpu(1))
    bench = Bench(nvml)
    for table in nvml.gpus:
        table["everything"] = table["handle"] = error
    assert all(EVERYTHING in s.absent for s in bench.round())
    nvml.init = Error(9)
    assert all("cannot start" in s.absent[EVERYTHING] for s in bench.round(2)), "the driver is not loaded yet"
    nvml.init = None
    for table in nvml.gpus:
        del table["everything"], table["handle"]
    nvml.calls.clear()
    assert [s.used_v2 for s in bench.round(40)] == [37 * GIB, 37 * GIB]
    assert nvml.calls.count("init") == 1


def test_two_gpus_that_saw_the_same_reload_restart_nvml_once() -> None:
    bench = Bench(ScriptedNvml(gpu(0), gpu(1)))
    seen = bench.library.generation
    bench.nvml.calls.clear()
    bench.library.restart(seen)
    bench.library.restart(seen)
    assert bench.nvml.calls == ["shutdown", "init"]


def test_a_gpu_that_never_failed_gets_a_new_handle_after_a_restart() -> None:
    bench = Bench(ScriptedNvml(gpu(0), gpu(1)))
    old = bench.pollers[1].device
    bench.library.restart(bench.library.generation)
    assert [s.gpu for s in bench.round()] == [0, 1]
    assert bench.pollers[1].device is not old


def test_a_gpu_that_is_lost_at_the_start_is_still_listed() -> None:
    bench = Bench(ScriptedNvml(gpu(0, handle=LOST), gpu(1)))
    assert [EVERYTHING in s.absent for s in bench.round()] == [True, False]
    assert [s.gpu for s in bench.round()] == [1]
    del bench.nvml.gpus[0]["handle"]
    found = bench.round(2)
    assert [(s.gpu, s.used_v2) for s in found] == [(0, 37 * GIB), (1, 37 * GIB)]
    assert found[0].uuid is not None


def test_processes_travel_with_the_next_sample_once(tmp_path: Path) -> None:
    (tmp_path / "4711").mkdir()
    (tmp_path / "4711" / "comm").write_text("VLLM::EngineCor\n")
    (tmp_path / "4711" / "cgroup").write_text(f"0::/system.slice/docker-{'ab12' * 16}.scope\n")
    bench = Bench(ScriptedNvml(gpu(processes=[process(4711, 36 * GIB), process(9, None)])), proc=tmp_path)
    bench.pollers[0].slow()
    assert bench.round()[0].processes == (
        Process(pid=4711, used_bytes=36 * GIB, container="ab12ab12ab12", name="VLLM::EngineCor"),
        Process(pid=9),
    )
    assert bench.round()[0].processes is None


def test_processes_that_are_not_told_have_their_reason() -> None:
    bench = Bench(ScriptedNvml(gpu(processes=NO_PERMISSION)))
    bench.pollers[0].slow()
    sample = bench.round()[0]
    assert sample.processes is None
    assert sample.absent == {"processes": "Insufficient Permissions"}


def test_energy_is_its_own_line_and_never_polled() -> None:
    bench = Bench(ScriptedNvml(gpu()))
    bench.round()
    assert "energy" not in bench.nvml.calls
    sample = bench.pollers[0].energy()
    assert (sample.energy_mj, sample.used_v2) == (123_456_789, None)
    assert bench.seen[-1] == sample
    bench.nvml.gpus[0]["energy"] = NOT_SUPPORTED
    assert bench.pollers[0].energy().absent == {"energy_mj": "Not Supported"}
    bench.nvml.gpus[0]["energy"] = LOST
    assert bench.pollers[0].energy().absent == {"energy_mj": "GPU is lost"}


def test_memory_readings_ask_for_memory_only() -> None:
    bench = Bench(ScriptedNvml(gpu()))
    bench.nvml.calls.clear()
    bench.pollers[0].step(full=False)
    assert set(bench.nvml.calls) == {"memory_v1", "memory_v2"}
    assert bench.seen[-1].used_v2 == 37 * GIB
    assert bench.seen[-1].power_mw is None
    assert bench.seen[-1].absent == {}


def test_gpus_are_chosen_by_index_uuid_or_all() -> None:
    nvml = ScriptedNvml(gpu(0), gpu(1), gpu(2))
    last = nvml.gpus[2]["uuid"]
    assert [p.device.gpu for p in Bench(nvml).pollers] == [0, 1, 2]
    assert [p.device.gpu for p in Bench(nvml, "1").pollers] == [1]
    assert [p.device.gpu for p in Bench(nvml, last, "0", "0").pollers] == [2, 0]
    with pytest.raises(NoGpu, match=r"no GPU '7' here .*seen: 0 = GPU-00000000"):
        Bench(nvml, "7")


def mig_gpu() -> dict[str, Any]:
    refused = dict.fromkeys(
        ("utilization", "power", "power_instant", "sm", "mem", "temperature", "reasons", "energy"), NOT_SUPPORTED
    )
    instances = {n: gpu(n, uuid=f"MIG-{n}", **refused) for n in (0, 3)}
    return gpu(0, mig=[1, 1], memory_v1=NO_PERMISSION, memory_v2=NO_PERMISSION, instances=instances)


def test_mig_instances_follow_their_gpu_and_keep_their_memory() -> None:
    samples = Bench(ScriptedNvml(mig_gpu())).round()
    assert [s.uuid for s in samples] == ["GPU-00000000-0000-0000-0000-000000000000", "MIG-0", "MIG-3"]
    assert [s.used_v2 for s in samples] == [None, 37 * GIB, 37 * GIB]
    assert [s.power_mw for s in samples] == [402_000, None, None]
    assert samples[1].absent["power_mw"] == "Not Supported"


def test_a_mig_instance_is_chosen_by_its_uuid() -> None:
    bench = Bench(ScriptedNvml(gpu(0), mig_gpu() | {"uuid": "GPU-b"}), "MIG-3")
    assert [(s.gpu, s.uuid) for s in bench.round()] == [(1, "MIG-3")]


def test_info_names_what_cannot_be_told() -> None:
    bench = Bench(ScriptedNvml(gpu(memory_v2=TOO_OLD, power_limit=NOT_SUPPORTED, mig=NOT_SUPPORTED)))
    info = bench.pollers[0].device.info()
    assert (info.name, info.compute_capability, info.memory_apis) == ("NVIDIA H100 80GB HBM3", "9.0", ("v1",))
    assert info.power_limit_mw is None
    assert info.mig is None
    assert set(info.absent) == {"used_v2", "reserved", "power_limit_mw", "mig"}
    bench.nvml.version_error = NOT_SUPPORTED
    assert bench.library.versions() == (None, None)


@pytest.mark.parametrize("trouble", [UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), AttributeError("no such call")])
def test_a_binding_that_stumbles_costs_one_field(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = ScriptedNvml(gpu(0))
    library = Library(nvml)
    library.start()
    (device,) = library.devices()

    def stumble(*_: object) -> int:
        raise trouble

    monkeypatch.setattr(nvml, "nvmlDeviceGetTemperature", stumble, raising=False)
    found = device.fast(Stamp(1, 1))
    assert (found.temp_c, type(trouble).__name__ in found.absent["temp_c"]) == (None, True)
    assert found.power_mw is not None
