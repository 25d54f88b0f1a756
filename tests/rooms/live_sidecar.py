"""A sidecar of scripted GPUs in this process, on a real socket."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import uvicorn
from scripted_nvml import NOT_SUPPORTED, ScriptedNvml, gpu

from server.gpu.about import About
from server.gpu.hub import Hub
from server.gpu.poller import Poller, Threads
from server.gpu.reader import Library
from server.gpu.web import energy_of, make_app
from server.nvml_sidecar import listen


class Running:
    """Two GPUs, of which the second gives no power, at 20 Hz with memory at 100 Hz."""

    def __init__(self) -> None:
        self.nvml = ScriptedNvml(gpu(0), gpu(1, power=NOT_SUPPORTED))
        library = Library(self.nvml)
        library.start()
        self.hub = Hub()
        pollers = [Poller(library, device, self.hub.emit) for device in library.devices()]
        about = About(library, pollers, 20, 100)
        self.info = about()
        self.threads = Threads(20, 100)
        app = make_app(self.hub, about, energy_of(pollers))
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        sock = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.http = threading.Thread(target=lambda: asyncio.run(self.server.serve(sockets=[sock])), daemon=True)
        self.threads.start(pollers)
        self.http.start()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=10)

    def wait_for_lines(self, count: int) -> None:
        end = time.monotonic() + 20
        while self.hub.lines < count and time.monotonic() < end:
            time.sleep(0.01)

    def stop(self) -> None:
        self.threads.stop()
        self.server.should_exit = True
        self.http.join(10)
