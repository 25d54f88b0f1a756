"""The body of a chat completion with one picture, without ever running a JSON encoder over the picture.

Base64 needs no JSON escaping, so a body is head + base64 + tail, where head and tail are encoded once for each model.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec

from client.core.plan import Workload

_PLACE = "\x00picture\x00"
_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
)


def mime_type(data: bytes) -> str:
    """The MIME type that the first bytes tell, whatever a file name says. ValueError for anything but JPEG, PNG, GIF, WebP."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError("neither JPEG, PNG, GIF nor WebP by its first bytes")


class BodyTemplate(msgspec.Struct, frozen=True):
    """Everything of a body except the picture; `head` ends inside the data URI and holds the model name."""

    head: bytes
    tail: bytes

    def fill(self, encoded: bytes) -> bytes:
        return b"".join((self.head, encoded, self.tail))


def body_template(
    workload: Workload, model: str, *, seed: int | None = None, continuous_usage: bool = False, mime: str = "image/jpeg"
) -> BodyTemplate:
    """The two ends of a streaming request. `ignore_eos` (vLLM's own field) is there only when it was asked for.

    `continuous_usage` asks for token counts in every chunk: useful to tell tokens from chunks, and larger on the wire.
    """
    picture = {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{_PLACE}"}}
    messages: list[dict[str, Any]] = []
    if workload.system_prompt is not None:
        messages.append({"role": "system", "content": workload.system_prompt})
    messages.append({"role": "user", "content": [picture, {"type": "text", "text": workload.prompt}]})
    request: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": workload.max_tokens,
        "temperature": workload.temperature,
    }
    if continuous_usage:
        request["stream_options"]["continuous_usage_stats"] = True
    if seed is not None:
        request["seed"] = seed
    if workload.ignore_eos:
        request["ignore_eos"] = True
    # The messages come last: whatever a prompt or a model name holds, the place is cut where the picture stands.
    front = json.dumps(request)[:-1] + ', "messages": ['
    for message in messages[:-1]:
        front += json.dumps(message) + ", "
    before, _, after = json.dumps(messages[-1]).partition(json.dumps(_PLACE)[1:-1])
    return BodyTemplate(head=(front + before).encode(), tail=(after + "]}").encode())


def chat_body(
    workload: Workload, model: str, jpeg: bytes, *, seed: int | None = None, continuous_usage: bool = False
) -> bytes:
    """One request as it goes over the wire: ASCII JSON, the picture as a base64 data URI without line breaks."""
    template = body_template(workload, model, seed=seed, continuous_usage=continuous_usage, mime=mime_type(jpeg))
    return template.fill(base64.b64encode(jpeg))


def with_logprobs(body: bytes, top: int) -> bytes:
    """The same request, asking for the `top` likeliest tokens at each position, by their ids (vLLM's own field).

    Special tokens are all the same empty text to a reader of texts; their ids tell them apart.
    """
    asked = b'{"logprobs": true, "top_logprobs": %d, "return_tokens_as_token_ids": true, ' % top
    return asked + body.removeprefix(b"{")


def text_body(model: str, prompt: str, max_tokens: int) -> bytes:
    """A streaming request without a picture, to see whether a server answers at all."""
    request = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "messages": [{"role": "user", "content": prompt}],
    }
    return json.dumps(request).encode()
