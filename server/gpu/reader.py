"""NVML behind two small classes: `Library` (started, restarted) and `Device` (one GPU or MIG instance, read field by field).

`nvml` is the `pynvml` module of nvidia-ml-py, or a scripted one in tests. Nothing here runs at import.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

from server.gpu.wire import GpuInfo, Process, Sample, Stamp

# NVML return codes (nvml.h, nvmlReturn_t).
UNINITIALIZED, NOT_FOUND, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND = 1, 6, 9, 13
GPU_IS_LOST, RESET_REQUIRED, LIB_RM_VERSION_MISMATCH, GPU_NOT_FOUND = 15, 16, 18, 28
DRIVER_GONE = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH})
GPU_GONE = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND}) | DRIVER_GONE
# NVML_VALUE_NOT_AVAILABLE (-1) as it looks in unsigned fields.
NOT_AVAILABLE = frozenset({2**32 - 1, 2**64 - 1})
# valueType of a field value -> name in its union (nvmlValueType_t).
FIELD_TYPES = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class NoGpu(Exception):
    """There is nothing to watch here; the text says why and what to do."""


class GpuGone(Exception):
    """The GPU, or the driver under it, no longer answers. `driver` tells a reload from one lost card."""

    def __init__(self, reason: str, driver: bool) -> None:
        super().__init__(reason)
        self.driver = driver


def reason(error: Any) -> str:
    text = str(error)
    if error.value == FUNCTION_NOT_FOUND:
        return f"{text} (the driver is older than this call)"
    if error.value == LIB_RM_VERSION_MISMATCH:
        return f"{text} (the driver was updated: restart the sidecar once it is loaded)"
    return text


class Fields:
    """Collects readings of one sample: a value, or a reason for its absence. Raises GpuGone when the GPU does not answer at all."""

    def __init__(self, nvml: Any) -> None:
        self.error = nvml.NVMLError
        self.values: dict[str, Any] = {}
        self.absent: dict[str, str] = {}

    def call(self, names: Iterable[str], get: Callable[[], Any]) -> Any:
        """What `get` returns, or None with the reason noted for every name."""
        try:
            return get()
        except self.error as error:
            if error.value in GPU_GONE:
                raise GpuGone(reason(error), driver=error.value in DRIVER_GONE) from error
            self.absent.update(dict.fromkeys(names, reason(error)))
            return None
        except (ValueError, TypeError, AttributeError) as error:
            # A binding that lacks the call, or an answer that it cannot decode: this field's trouble, not the thread's end.
            self.absent.update(dict.fromkeys(names, f"{type(error).__name__}: {error}"))
            return None

    def put(self, name: str, value: int | None) -> None:
        if value is None or value < 0 or value in NOT_AVAILABLE:
            self.absent.setdefault(name, "N/A")
        else:
            self.values[name] = int(value)

    def read(self, name: str, get: Callable[[], Any]) -> None:
        value = self.call((name,), get)
        if name not in self.absent:
            self.put(name, value)


class Device:
    """One GPU, or one MIG instance of it (then most fields but memory are NotSupported: that is NVML's answer, not ours)."""

    def __init__(self, nvml: Any, handle: Any, gpu: int, uuid: str | None, lost: str | None = None) -> None:
        self.nvml, self.handle, self.gpu, self.uuid = nvml, handle, gpu, uuid
        self.lost = lost
        """Why there is no handle (then None) from the start on."""

    def _sample(self, stamp: Stamp, fields: Fields) -> Sample:
        return Sample(
            mono_ns=stamp.mono_ns,
            wall_ns=stamp.wall_ns,
            gpu=self.gpu,
            uuid=self.uuid,
            absent=fields.absent,
            **fields.values,
        )

    def _memory(self, fields: Fields) -> None:
        n, h = self.nvml, self.handle
        first = fields.call(("used_v1",), lambda: n.nvmlDeviceGetMemoryInfo(h))
        second = fields.call(
            ("used_v2", "reserved", "total"), lambda: n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2)
        )
        if first is not None:
            fields.put("used_v1", first.used)
        if second is not None:
            fields.put("used_v2", second.used)
            fields.put("reserved", second.reserved)
            fields.put("total", second.total)
        elif first is not None:
            fields.absent.pop("total", None)
            fields.put("total", first.total)

    def memory(self, stamp: Stamp) -> Sample:
        """Only the memory fields: current at every call, unlike the others, which the driver refreshes every 100 to 200 ms."""
        fields = Fields(self.nvml)
        self._memory(fields)
        return self._sample(stamp, fields)

    def fast(self, stamp: Stamp, extra: dict[str, Any] | None = None) -> Sample:
        """Every field that costs microseconds; `extra` holds what a slower thread has read since the last sample."""
        n, h, fields = self.nvml, self.handle, Fields(self.nvml)
        self._memory(fields)
        rates = fields.call(("gpu_util", "mem_util"), lambda: n.nvmlDeviceGetUtilizationRates(h))
        if rates is not None:
            fields.put("gpu_util", rates.gpu)
            fields.put("mem_util", rates.memory)
        fields.read("power_mw", lambda: n.nvmlDeviceGetPowerUsage(h))
        fields.read("power_instant_mw", lambda: self._field(n.NVML_FI_DEV_POWER_INSTANT))
        fields.read("sm_mhz", lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM))
        fields.read("mem_mhz", lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM))
        fields.read("temp_c", lambda: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU))
        fields.read("reasons", self._reasons)
        if extra:
            fields.absent.update(extra.get("absent", {}))
            fields.values.update({key: value for key, value in extra.items() if key != "absent"})
        return self._sample(stamp, fields)

    def _field(self, number: int) -> int:
        value = self.nvml.nvmlDeviceGetFieldValues(self.handle, [number])[0]
        if value.nvmlReturn:
            raise self.nvml.NVMLError(value.nvmlReturn)
        return int(getattr(value.value, FIELD_TYPES.get(value.valueType, "uiVal")))

    def _reasons(self) -> int:
        """Drivers before R535 know the mask by its older name only."""
        try:
            return int(self.nvml.nvmlDeviceGetCurrentClocksEventReasons(self.handle))
        except self.nvml.NVMLError as error:
            if error.value != FUNCTION_NOT_FOUND:
                raise
        return int(self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self.handle))

    def energy(self, stamp: Stamp) -> Sample:
        """The energy counter, mJ since the driver was loaded. Costs milliseconds: only at phase borders, never in a polling thread."""
        fields = Fields(self.nvml)
        fields.read("energy_mj", lambda: self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        return self._sample(stamp, fields)

    def processes(self) -> tuple[tuple[Process, ...] | None, dict[str, str]]:
        """Processes with a compute context, by host PID; None with a reason where the driver does not say."""
        fields = Fields(self.nvml)
        found = fields.call(("processes",), lambda: self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle))
        if found is None:
            return None, fields.absent
        known = [(int(p.pid), p.usedGpuMemory) for p in found]
        return tuple(
            Process(pid=pid, used_bytes=None if used is None or used in NOT_AVAILABLE else int(used))
            for pid, used in known
        ), {}

    def info(self) -> GpuInfo:
        n, h, fields = self.nvml, self.handle, Fields(self.nvml)
        self._memory(fields)
        fields.read("power_limit_mw", lambda: n.nvmlDeviceGetEnforcedPowerLimit(h))
        name = fields.call(("name",), lambda: n.nvmlDeviceGetName(h))
        capability = fields.call(("compute_capability",), lambda: n.nvmlDeviceGetCudaComputeCapability(h))
        mode = fields.call(("mig",), lambda: n.nvmlDeviceGetMigMode(h))
        return GpuInfo(
            gpu=self.gpu,
            uuid=self.uuid,
            name=name,
            compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
            mig=None if mode is None else ("enabled" if mode[0] else "disabled"),
            memory_apis=tuple(api for api in ("v1", "v2") if f"used_{api}" in fields.values),
            total=fields.values.get("total"),
            reserved=fields.values.get("reserved"),
            power_limit_mw=fields.values.get("power_limit_mw"),
            absent=fields.absent,
        )


class Library:
    """NVML as a whole. `generation` rises with each restart, so that several GPUs that see one driver reload restart it once."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.generation = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        try:
            self.nvml.nvmlInit()
        except self.nvml.NVMLError as error:
            raise NoGpu(f"NVML cannot start here: {reason(error)}.") from error

    def restart(self, seen: int) -> None:
        """Starts NVML again unless another thread has done so since `seen`. Raises NoGpu while the driver is away."""
        with self._lock:
            if self.generation != seen:
                return
            self.stop()
            self.start()
            self.generation += 1

    def stop(self) -> None:
        """A driver that went away has nothing to shut down, and says so: that is no error of ours."""
        with contextlib.suppress(self.nvml.NVMLError):
            self.nvml.nvmlShutdown()

    def versions(self) -> tuple[str | None, str | None]:
        """Driver and NVML version, each None when not told."""
        fields = Fields(self.nvml)
        try:
            return (
                fields.call(("driver",), self.nvml.nvmlSystemGetDriverVersion),
                fields.call(("nvml",), self.nvml.nvmlSystemGetNVMLVersion),
            )
        except GpuGone:  # a reload just now: the polling threads report it
            return None, None

    def open(self, gpu: int, uuid: str | None) -> Device:
        """A fresh handle of a GPU seen before. By UUID, because a reload may renumber."""
        n = self.nvml
        try:
            handle = n.nvmlDeviceGetHandleByUUID(uuid) if uuid else n.nvmlDeviceGetHandleByIndex(gpu)
        except n.NVMLError as error:
            raise GpuGone(reason(error), driver=error.value in DRIVER_GONE) from error
        return Device(n, handle, gpu, uuid or self._uuid(handle))

    def devices(self, chosen: Iterable[str] = ("all",)) -> list[Device]:
        """The GPUs named by index, UUID (of a MIG instance too) or `all`, in that order. Raises NoGpu for a name that is not there."""
        found: list[Device] = []
        for name in chosen:
            found += self._all() if name == "all" else [self._named(name)]
        if not found:
            raise NoGpu("NVML runs, but sees no GPU.")
        return list({(d.gpu, d.uuid): d for d in found}.values())

    def _named(self, name: str) -> Device:
        n = self.nvml
        try:
            handle = n.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else n.nvmlDeviceGetHandleByUUID(name)
            parent = n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if name.startswith("MIG-") else handle
            gpu = int(name) if name.isdecimal() else int(n.nvmlDeviceGetIndex(parent))
            return Device(n, handle, gpu, self._uuid(handle))
        except GpuGone as gone:
            raise NoGpu(f"the GPU {name!r} is there, but does not answer: {gone}.") from gone
        except n.NVMLError as error:
            raise NoGpu(f"there is no GPU {name!r} here ({reason(error)}); {self._seen()}.") from error

    def _all(self) -> list[Device]:
        """Every GPU, each followed by its MIG instances. One that does not answer now is kept, to be opened later."""
        n, found = self.nvml, []
        try:
            count = int(n.nvmlDeviceGetCount())
        except n.NVMLError as error:
            raise NoGpu(f"NVML runs, but cannot count GPUs: {reason(error)}.") from error
        for gpu in range(count):
            try:
                device = self.open(gpu, None)
            except GpuGone as gone:
                found.append(Device(n, None, gpu, None, lost=str(gone)))
                continue
            found += [device, *self._instances(device.handle, gpu)]
        return found

    def _instances(self, handle: Any, gpu: int) -> list[Device]:
        n, found = self.nvml, []
        try:
            count = n.nvmlDeviceGetMaxMigDeviceCount(handle) if n.nvmlDeviceGetMigMode(handle)[0] else 0
        except n.NVMLError:
            return []  # no MIG on this GPU or in this driver
        for number in range(count):
            try:
                instance = n.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            except n.NVMLError:
                continue  # numbers have gaps: NOT_FOUND is the way NVML says so
            found.append(Device(n, instance, gpu, self._uuid(instance)))
        return found

    def _uuid(self, handle: Any) -> str | None:
        value = Fields(self.nvml).call(("uuid",), lambda: self.nvml.nvmlDeviceGetUUID(handle))
        return None if value is None else str(value)

    def _seen(self) -> str:
        return "seen: " + (", ".join(f"{d.gpu} = {d.uuid}" for d in self._all()) or "none")
