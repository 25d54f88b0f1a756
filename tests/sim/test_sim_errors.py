"""Bad requests are refused in vLLM's words, with vLLM's statuses."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from simulated import Simulated, body, photo, simulated


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulated(tmp_path_factory.mktemp("sim"), "--time-scale", "0.02", "--model", "tiny", "--api-key", "k") as one:
        one.client.headers["authorization"] = "Bearer k"
        yield one


def refused(server: Simulated, data: bytes) -> tuple[int, str, str, str | None]:
    response = server.chat(data)
    error = response.json()["error"]
    assert error["code"] == response.status_code
    return response.status_code, error["type"], error["message"], error["param"]


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(out, "PNG")
    return out.getvalue()


def with_url(url: str) -> bytes:
    data = json.loads(body(photo(1, 256, 190)))
    data["messages"][0]["content"][0]["image_url"]["url"] = url
    return json.dumps(data).encode()


TORN = photo(1, 256, 190)[:-900]
WRAPPED = base64.encodebytes(photo(1, 256, 190)).decode()
CASES: dict[str, tuple[bytes, int, str, str]] = {
    "unknown model": (body(None, model="nope"), 404, "NotFoundError", "The model `nope` does not exist"),
    "too long a text": (body(None, text="word " * 5000), 400, "BadRequestError", "maximum context length is 4096 tokens"),
    "max_tokens": (body(None, max_tokens=99999), 400, "BadRequestError", "max_tokens=99999 cannot be greater than max_model_len=4096"),
    "max_completion_tokens wins": (body(None, max_tokens=5, max_completion_tokens=0), 400, "BadRequestError", "max_tokens must be at least 1, got 0"),
    "min over max": (body(None, max_tokens=5, min_tokens=6), 400, "BadRequestError", "min_tokens must be less than or equal to max_tokens=5"),
    "temperature": (body(None, temperature=-1), 400, "BadRequestError", "temperature must be non-negative"),
    "not a number": (body(None, max_tokens="many"), 400, "Bad Request", "1 validation error"),
    "bad base64": (with_url("data:image/jpeg;base64,!!!!"), 400, "BadRequestError", "Non-base64 digit found"),
    "wrapped base64": (with_url("data:image/jpeg;base64," + WRAPPED), 400, "BadRequestError", "Non-base64 digit found"),
    "not an image": (body(b"hello, this is no picture"), 400, "BadRequestError", "Failed to load image: cannot identify image file"),
    "torn image": (body(TORN), 400, "BadRequestError", "Failed to load image: image file is truncated"),
    "too many tokens": (body(png(4208, 3120)), 400, "BadRequestError", "exceeds model's maximum context length (4096)"),
    "aspect": (body(png(3000, 10)), 400, "BadRequestError", "Failed to apply Qwen2VLProcessor"),
    "remote": (with_url("http://127.0.0.1:9/x.jpg"), 500, "InternalServerError", "Cannot connect"),
    "stream options": (body(None, stream_options={"include_usage": True}), 400, "BadRequestError", "Stream options can only be defined"),
    "broken JSON": (b"{nope", 400, "Bad Request", "1 validation error"),
    "no messages": (body(None, messages=[]), 400, "Bad Request", "1 validation error"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refusals(server: Simulated, case: str) -> None:
    data, status, kind, words = CASES[case]
    got = refused(server, data)
    assert got[:2] == (status, kind)
    assert words in got[2]


def test_a_mislabelled_png_is_read_by_its_bytes(server: Simulated) -> None:
    assert server.chat(body(png(300, 200))).status_code == 200


def test_the_key_guards_v1_only(server: Simulated) -> None:
    stranger: dict[str, Any] = {"headers": {"authorization": "Bearer wrong"}}
    refusal = server.client.get("/v1/models", **stranger)
    assert (refusal.status_code, refusal.json()) == (401, {"error": "Unauthorized"})
    assert {
        server.client.get(path, **stranger).status_code for path in ("/health", "/metrics", "/version", "/ping")
    } == {200}


def test_other_content_types_are_refused(server: Simulated) -> None:
    response = server.client.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "Bad Request")
