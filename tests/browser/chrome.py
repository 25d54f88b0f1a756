"""A headless Chromium over its debugging pipe, which tells what a page did: messages, requests, sizes.

The pipe needs neither a driver program nor a port: Chromium reads commands from file descriptor 3 and writes answers to 4, each a JSON
text that ends with a zero byte (https://chromedevtools.github.io/devtools-protocol).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
LIMIT_S = 60.0


class Chrome:
    """One browser with one page. `open` shows a file and forgets what was seen before."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert program is not None, "Chromium is not installed: run scripts/stage-browser"
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        self._log = (profile / "chromium.log").open("wb")
        # The shell puts the two ends where Chromium looks for them; Python has no way to name descriptors for a child.
        command = f'exec "$0" "$@" 3<&{down} 4>&{up}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", command, program, *FLAGS, f"--user-data-dir={profile / 'profile'}", "about:blank"],
            pass_fds=(down, up),
            stdout=self._log,
            stderr=self._log,
        )
        os.close(down)
        os.close(up)
        self._number, self._buffer, self._session = 0, b"", None  # type: int, bytes, str | None
        self._seen: list[dict[str, Any]] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Runs one command and returns its result; what happens meanwhile is kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._seen.append(answer)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + LIMIT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium did not answer within {LIMIT_S:.0f} s"
            data = os.read(self._read, 1 << 20)
            assert data, f"Chromium ended: {self._tail()}"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(text))

    def _tail(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-2000:]

    def view(self, width: int, *, dark: bool = False, height: int = 900, script: bool = True) -> None:
        """A screen of this width in CSS pixels, in light or dark, with or without JavaScript."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setScriptExecutionDisabled", value=not script)

    def open(self, path: Path) -> None:
        """Returns when the page has loaded (its charts may still be on their way)."""
        self._load("about:blank")
        self._load(path.as_uri())

    def _load(self, url: str) -> None:
        self._seen.clear()
        self.send("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self._seen):
            self._seen.append(self._next())

    def drawn(self, limit_s: float = 30) -> str:
        """`drawn` or `failed`, once every chart has been tried."""
        end = time.monotonic() + limit_s
        while (state := self.js("document.documentElement.dataset.charts || ''")) == "":
            assert time.monotonic() < end, "the charts were not drawn in time"
            time.sleep(0.02)
        return str(state)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def messages(self) -> list[str]:
        """Everything that the page or the browser wrote to the console, and every error that nobody caught."""
        self.js("1")
        found = []
        for event in self._seen:
            params = event.get("params", {})
            match event.get("method"):
                case "Runtime.consoleAPICalled":
                    found.append(
                        f"{params['type']}: {[item.get('value', item.get('description')) for item in params['args']]}"
                    )
                case "Runtime.exceptionThrown":
                    found.append(f"exception: {params['exceptionDetails']}")
                case "Log.entryAdded":
                    found.append(f"{params['entry']['level']}: {params['entry']['text']}")
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for; its own file and the data inside it are none."""
        self.js("1")
        sent = (
            event["params"]["request"]["url"]
            for event in self._seen
            if event.get("method") == "Network.requestWillBeSent"
        )
        return [url for url in sent if not url.startswith(("file:", "data:", "blob:", "about:"))]

    def refused(self) -> list[str]:
        """Why the browser did not even begin a request: `csp` for each that the page's policy forbids."""
        failed = (event["params"] for event in self._seen if event.get("method") == "Network.loadingFailed")
        return [str(params["blockedReason"]) for params in failed if "blockedReason" in params]

    def press(self, key: str, code: int) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.js("({width: innerWidth, height: Math.min(document.documentElement.scrollHeight, 16000)})")
        clip = {"x": 0, "y": 0, "scale": 1, **size}
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        if self._process.poll() is None:
            self.send("Browser.close")
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)
        self._log.close()
