"""What the sidecar says of its host and GPUs, renewed when a GPU comes back: after a driver reload it may be another driver."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

import msgspec

from server.gpu.poller import Poller
from server.gpu.reader import Library
from server.gpu.wire import Info, boot_id, now


class About:
    """Called, it gives the newest info without a call to NVML. `renewed` is told each later one (the file wants a line of it)."""

    def __init__(
        self,
        library: Library,
        pollers: Sequence[Poller],
        rate: float,
        memory_rate: float,
        renewed: Callable[[Info], object] = lambda _: None,
    ) -> None:
        self._library, self._pollers, self._renewed = library, pollers, renewed
        self._lock = threading.Lock()
        stamp = now()
        driver, nvml = library.versions()
        self._info = Info(
            mono_ns=stamp.mono_ns,
            wall_ns=stamp.wall_ns,
            host=socket.gethostname(),
            boot_id=boot_id(),
            driver=driver,
            nvml=nvml,
            rate_hz=rate,
            memory_rate_hz=memory_rate,
            gpus=tuple(poller.describe() for poller in pollers),
        )
        for poller in pollers:
            poller.found = self._found

    def __call__(self) -> Info:
        return self._info

    def _found(self, poller: Poller) -> None:
        """In the thread of the GPU that came back: nobody else waits for these calls."""
        described = poller.describe()
        driver, nvml = self._library.versions()
        stamp = now()
        with self._lock:
            gpus = tuple(
                described if other is poller else old for other, old in zip(self._pollers, self._info.gpus, strict=True)
            )
            self._info = msgspec.structs.replace(
                self._info, mono_ns=stamp.mono_ns, wall_ns=stamp.wall_ns, driver=driver, nvml=nvml, gpus=gpus
            )
        self._renewed(self._info)
