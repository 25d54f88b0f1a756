"""The requests of the benchmark: 64 photos of 110 KB as chat bodies, the same bytes for every tool, kept in the cache folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from client.core.body import chat_body
from client.core.pictures import synthetic
from client.core.plan import Workload

COUNT = 64
JPEG_BYTES = 110_400
"""Of each picture; its body is then 147.4 KB, as in the peers' figures."""
WORKLOAD = Workload(max_tokens=16, ignore_eos=True)
VERSION = "1"


def ensure(folder: Path) -> Path:
    """Folder of `NNN.json` bodies and the `NNN.jpg` in them, made once."""
    folder = folder / f"bodies-{VERSION}"
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        jpeg = _of_size(synthetic(0, number, WORKLOAD.width, WORKLOAD.height).jpeg)
        (folder / f"{number:03}.jpg").write_bytes(jpeg)
        (folder / f"{number:03}.json").write_bytes(chat_body(WORKLOAD, "tiny", jpeg))
    (folder / "complete").touch()
    return folder


def jsonl_for_peers(folder: Path, style: str) -> Path:
    """The same bodies as a JSONL file: `body` (whole requests), `vllm` or `aiperf` (prompt and data URL)."""
    path = folder / f"{style}.jsonl"
    lines = []
    for body in sorted(folder.glob("[0-9]*.json")):
        text, url = _parts(json.loads(body.read_bytes()))
        if style == "vllm":
            lines.append(json.dumps({"prompt": text, "image_files": [url]}))
        elif style == "aiperf":
            lines.append(json.dumps({"text": text, "image": url}))
        else:
            lines.append(body.read_text())
    path.write_text("\n".join(lines) + "\n")
    return path


def _parts(body: dict[str, object]) -> tuple[str, str]:
    text, url = "", ""
    for message in body["messages"]:  # type: ignore[attr-defined]  # our own JSON
        for part in message["content"] if isinstance(message["content"], list) else []:
            text = part.get("text", text)
            url = part.get("image_url", {}).get("url", url)
    return text, url


def _of_size(jpeg: bytes) -> bytes:
    """The best quality that fits, filled up with a comment segment to the byte."""
    image = Image.open(io.BytesIO(jpeg))
    low, high = 10, 95
    fitting = b""
    while low <= high:
        quality = (low + high) // 2
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        if len(out.getvalue()) <= JPEG_BYTES - 4:
            fitting, low = out.getvalue(), quality + 1
        else:
            high = quality - 1
    filling = JPEG_BYTES - len(fitting)
    comments = b""
    while filling:
        size = min(filling, 65_000)
        size = size if filling - size == 0 or filling - size >= 4 else size - 4
        comments += b"\xff\xfe" + (size - 2).to_bytes(2, "big") + b" " * (size - 4)
        filling -= size
    return fitting[:2] + comments + fitting[2:]
