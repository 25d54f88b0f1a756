"""A scripted NVML at the binding's boundary: the functions of `pynvml` that the sidecar calls, answering from a table.

Errors and constants are the real binding's, so codes, classes and texts are NVML's own. A value in the table is returned,
an `Error` is raised, and a callable is asked each time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 1024**3
MIB = 1024**2


class Error:
    def __init__(self, code: int) -> None:
        self.code = code


NOT_SUPPORTED = Error(pynvml.NVML_ERROR_NOT_SUPPORTED)
NO_PERMISSION = Error(pynvml.NVML_ERROR_NO_PERMISSION)
TOO_OLD = Error(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
LOST = Error(pynvml.NVML_ERROR_GPU_IS_LOST)
GONE = Error(pynvml.NVML_ERROR_UNINITIALIZED)
MISMATCH = Error(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)


def process(pid: int, used: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def gpu(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Answers of one healthy H100 at rest. Keys are the table's own short names; see `ScriptedNvml`."""
    table: dict[str, Any] = {
        "uuid": f"GPU-{number:08d}-0000-0000-0000-000000000000",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_v1": SimpleNamespace(total=80 * GIB, used=37 * GIB + 480 * MIB, free=42 * GIB),
        "memory_v2": SimpleNamespace(total=80 * GIB, used=37 * GIB, reserved=480 * MIB, free=42 * GIB),
        "utilization": SimpleNamespace(gpu=97, memory=41),
        "power": 402_000,
        "power_instant": 411_000,
        "power_limit": 700_000,
        "sm": 1755,
        "mem": 2619,
        "temperature": 61,
        "reasons": 0x4,
        "throttle_reasons": 0x4,
        "processes": [process(4711, 36 * GIB)],
        "energy": 123_456_789,
        "capability": (9, 0),
        "mig": [0, 0],
        "instances": {},
    }
    return table | changes


class ScriptedNvml:
    """`gpus` may be changed while polling goes on; `init` decides whether NVML starts. Counts calls in `calls`."""

    def __init__(self, *gpus: dict[str, Any], init: Error | None = None) -> None:
        self.gpus = list(gpus)
        self.init = init
        self.running = False
        self.calls: list[str] = []
        self.version_error: Error | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvmlDeviceGet"):
            raise AssertionError(f"the script has no {name}")
        return getattr(pynvml, name)

    def _answer(self, value: Any) -> Any:
        if callable(value) and not isinstance(value, SimpleNamespace):
            value = value()
        if isinstance(value, Error):
            raise pynvml.NVMLError(value.code)
        return value

    def _get(self, handle: dict[str, Any] | None, key: str) -> Any:
        self.calls.append(key)
        if not self.running:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        if handle is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        if "everything" in handle:
            self._answer(handle["everything"])
        return self._answer(handle[key])

    def nvmlInit(self) -> None:  # noqa: N802 - the binding's name
        self.calls.append("init")
        self._answer(self.init)
        self.running = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.calls.append("shutdown")
        if not self.running:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        self.running = False

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return str(self._answer(self.version_error) or "580.159.04")

    def nvmlSystemGetNVMLVersion(self) -> str:  # noqa: N802
        return str(self._answer(self.version_error) or "13.580.159.04")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:  # noqa: N802
        if not self.running:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        if not 0 <= index < len(self.gpus):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        self._answer(self.gpus[index].get("handle"))
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> dict[str, Any]:  # noqa: N802
        if not self.running:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        for table in self.gpus:
            for candidate in (table, *table["instances"].values()):
                if candidate["uuid"] == uuid:
                    self._answer(table.get("handle"))
                    return candidate
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetIndex(self, handle: dict[str, Any]) -> int:  # noqa: N802
        return self.gpus.index(handle)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return next(g for g in self.gpus if handle in g["instances"].values())

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: dict[str, Any]) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: dict[str, Any], number: int) -> dict[str, Any]:  # noqa: N802
        if number not in handle["instances"]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        found: dict[str, Any] = handle["instances"][number]
        return found

    def nvmlDeviceGetMemoryInfo(self, handle: dict[str, Any], version: int | None = None) -> Any:  # noqa: N802
        return self._get(handle, "memory_v2" if version == pynvml.nvmlMemory_v2 else "memory_v1")

    def nvmlDeviceGetFieldValues(self, handle: dict[str, Any], fields: list[int]) -> list[Any]:  # noqa: N802
        assert fields == [pynvml.NVML_FI_DEV_POWER_INSTANT]
        try:
            value = self._get(handle, "power_instant")
        except pynvml.NVMLError as error:
            # The call itself succeeds; each field has its own return code.
            return [SimpleNamespace(nvmlReturn=error.value, valueType=1, value=SimpleNamespace(uiVal=0))]
        return [SimpleNamespace(nvmlReturn=0, valueType=1, value=SimpleNamespace(uiVal=value))]

    def nvmlDeviceGetClockInfo(self, handle: dict[str, Any], kind: int) -> Any:  # noqa: N802
        return self._get(handle, {pynvml.NVML_CLOCK_SM: "sm", pynvml.NVML_CLOCK_MEM: "mem"}[kind])

    def nvmlDeviceGetTemperature(self, handle: dict[str, Any], sensor: int) -> Any:  # noqa: N802
        return self._get(handle, "temperature")


def _getter(key: str) -> Callable[[ScriptedNvml, dict[str, Any]], Any]:
    return lambda self, handle: self._get(handle, key)


for _name, _key in {
    "nvmlDeviceGetUUID": "uuid",
    "nvmlDeviceGetName": "name",
    "nvmlDeviceGetUtilizationRates": "utilization",
    "nvmlDeviceGetPowerUsage": "power",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit",
    "nvmlDeviceGetCurrentClocksEventReasons": "reasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons": "throttle_reasons",
    "nvmlDeviceGetComputeRunningProcesses": "processes",
    "nvmlDeviceGetTotalEnergyConsumption": "energy",
    "nvmlDeviceGetCudaComputeCapability": "capability",
    "nvmlDeviceGetMigMode": "mig",
}.items():
    assert hasattr(pynvml, _name), f"the binding has no {_name}"
    setattr(ScriptedNvml, _name, _getter(_key))
