"""The newest readings as Prometheus text, under the names that dashboards made for dcgm-exporter look for.

A field that cannot be read has no series: dcgm-exporter's large sentinel numbers are not imitated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric, UntypedMetricFamily

from server.gpu.wire import EVERYTHING, Info, Sample

MIB = 1024 * 1024
Value = Callable[[Sample], float | None]


def _mib(value: int | None) -> float | None:
    return None if value is None else value / MIB


def _free(s: Sample) -> float | None:
    if s.total is None or s.used_v2 is None or s.reserved is None:
        return None
    return (s.total - s.used_v2 - s.reserved) / MIB


def _watts(value: int | None) -> float | None:
    return None if value is None else value / 1000


DCGM: tuple[tuple[str, str, Value], ...] = (
    ("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", lambda s: s.sm_mhz),
    ("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", lambda s: s.mem_mhz),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", lambda s: s.temp_c),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W; a 1 s average on most GPUs).", lambda s: _watts(s.power_mw)),
    ("DCGM_FI_DEV_POWER_USAGE_INSTANT", "Power draw at this moment (in W).", lambda s: _watts(s.power_instant_mw)),
    ("DCGM_FI_DEV_GPU_UTIL", "Time with any kernel running (in %).", lambda s: s.gpu_util),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "Time with memory being read or written (in %).", lambda s: s.mem_util),
    ("DCGM_FI_DEV_FB_USED", "Memory used, without the driver's reserve: NVML v2 (in MiB).", lambda s: _mib(s.used_v2)),
    ("DCGM_FI_DEV_FB_FREE", "Memory free (in MiB).", _free),
    ("DCGM_FI_DEV_FB_RESERVED", "Memory reserved by the driver (in MiB).", lambda s: _mib(s.reserved)),
    ("DCGM_FI_DEV_FB_TOTAL", "Memory in all (in MiB).", lambda s: _mib(s.total)),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "Clock event reasons (bit mask).", lambda s: s.reasons),
)
ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"


class Collector:
    """What `generate_latest` asks. `newest` gives the newest merged sample of each GPU."""

    def __init__(self, newest: Callable[[], Iterable[Sample]], info: Info) -> None:
        self.newest, self.info = newest, info
        self.names = {(g.gpu, g.uuid): g.name for g in info.gpus}

    def labels(self, sample: Sample) -> dict[str, str]:
        return {
            "gpu": str(sample.gpu),
            "UUID": sample.uuid or "",
            "device": f"nvidia{sample.gpu}",
            "modelName": self.names.get((sample.gpu, sample.uuid)) or "",
            "Hostname": self.info.host,
            "fake": "true" if self.info.fake else "false",
        }

    def collect(self) -> Iterator[Metric]:
        samples = list(self.newest())
        for name, text, value in DCGM:
            yield from self._family(GaugeMetricFamily(name, text), samples, value)
        # A counter by nature; typed "untyped" because the client library would append _total to dcgm-exporter's name.
        energy = UntypedMetricFamily(ENERGY, "Energy since the driver was loaded (in mJ), as last read.")
        yield from self._family(energy, samples, lambda s: s.energy_mj)
        used = GaugeMetricFamily(
            "halfweight_gpu_memory_used_v1_bytes", "Memory used with the driver's reserve: NVML v1."
        )
        yield from self._family(used, samples, lambda s: s.used_v1)
        up = GaugeMetricFamily("halfweight_gpu_up", "1 while the GPU answers, 0 once it is lost.")
        yield from self._family(up, samples, lambda s: 0 if EVERYTHING in s.absent else 1)

    def _family(self, family: Metric, samples: Iterable[Sample], value: Value) -> Iterator[Metric]:
        for sample in samples:
            number = value(sample)
            if number is not None:
                family.add_sample(family.name, self.labels(sample), number)
        if family.samples:
            yield family


def page(newest: Callable[[], Iterable[Sample]], info: Info) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(newest, info))
    return generate_latest(registry)
