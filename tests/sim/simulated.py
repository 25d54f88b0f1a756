"""Child-process servers for the tests, and what is sent to them."""

from __future__ import annotations

import base64
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
PROMPT = "Detect the nutrition table. Provide bounding box in [x_min, y_min, x_max, y_max] format."


@dataclass
class Simulated:
    process: subprocess.Popen[str]
    port: int
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def chat(self, body: bytes, **headers: str) -> httpx.Response:
        return self.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"} | headers
        )

    def metric(self, name: str) -> float:
        """The sum over all label sets of one sample name."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0] == name)


@contextmanager
def simulated(folder: Path, *arguments: str, start_seconds: str = "0.05") -> Iterator[Simulated]:
    port_file, log = folder / "port", folder / "server.log"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "server.sim", "--port", "0", "--port-file", str(port_file), "--die-with-parent"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--start-seconds", start_seconds, *arguments],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        deadline = time.monotonic() + 20
        while not port_file.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        server = Simulated(process, int(port_file.read_text()), log)
        yield server
        server.client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def photo(number: int, width: int = 1024, height: int = 759) -> bytes:
    """A picture with a white table on noise; its pixels belong to its number."""
    noise = np.random.default_rng(number).normal(95, 20, (height // 4, width // 4, 3)).clip(0, 255).astype("uint8")
    picture = Image.fromarray(noise).resize((width, height))
    draw = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = (round(v) for v in (0.1 * width, 0.3 * height, 0.55 * width, 0.8 * height))
    draw.rectangle((x0, y0, x1, y1), fill=(240, 240, 232), outline=(10, 10, 10), width=3)
    for line in range(12):
        y = y0 + (line + 1) * (y1 - y0) // 13
        draw.text((x0 + 8, y - 6), "Energy      1234 kJ   12 %", fill=(20, 20, 20))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


def body(jpeg: bytes | None, text: str = PROMPT, **fields: Any) -> bytes:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if jpeg is not None:
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    base: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": 64, "temperature": 0}
    return json.dumps(base | fields).encode()


def streaming(jpeg: bytes | None, **fields: Any) -> bytes:
    return body(jpeg, stream=True, stream_options={"include_usage": True}, **fields)


def events(response: httpx.Response) -> list[Any]:
    """The payloads of an SSE body in order; `[DONE]` as a text."""
    payloads = [part.removeprefix("data: ") for part in response.text.split("\n\n") if part]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]
