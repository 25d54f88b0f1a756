"""A headless Chromium that reports what a page did: messages, requests, sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


class Chrome:
    """One browser. `open` shows a file and forgets what was seen before."""

    def __init__(self, profile: Path) -> None:
        options = Options()
        options.binary_location = shutil.which("chromium") or "/usr/bin/chromium"
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "/usr/bin/chromedriver"))
        self.driver.set_script_timeout(60)

    def view(self, width: int, *, dark: bool = False, height: int = 900) -> None:
        """A screen of this width in CSS pixels (a window would not go below 500)."""
        self._devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._devtools("Emulation.setEmulatedMedia", features=scheme)

    def open(self, path: Path) -> None:
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.as_uri())

    def drawn(self, limit_s: float = 30) -> str:
        """`drawn` or `failed`, once every chart has been tried."""
        return str(WebDriverWait(self.driver, limit_s, 0.02).until(lambda _: self.js("return document.documentElement.dataset.charts")))

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def messages(self) -> list[str]:
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and its own data left out."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [url for url in found if not url.startswith(("file:", "data:", "blob:"))]

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        height = int(self.js("return document.documentElement.scrollHeight"))
        width = int(self.js("return innerWidth"))
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16000), "scale": 1}
        found = self._devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        import base64

        path.write_bytes(base64.b64decode(found["data"]))

    def _devtools(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def close(self) -> None:
        self.driver.quit()
