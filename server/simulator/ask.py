"""Reading a chat request, with vLLM's own refusals: every mistake becomes a `Refusal` with its status and words."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from server.simulator.logprobs import MOST

SYSTEM_PROMPT = "You are a helpful assistant."
"""What the chat template of Qwen2-VL puts first when the request brings no system message."""


class Refusal(Exception):
    def __init__(
        self, message: str, param: str | None = None, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.kind = kind


@dataclass(slots=True)
class Picture:
    data: bytes
    uuid: str | None


@dataclass(slots=True)
class Ask:
    """`parts` holds the prompt in order: (role, content) with content a list of texts and pictures."""

    model: str | None
    parts: list[tuple[str, list[str | Picture]]]
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    cache_salt: str = ""
    logprobs: int | None = None
    """How many tokens to list at each position; None: no log probabilities."""
    tokens_as_ids: bool = False
    pictures: list[Picture] = field(default_factory=list)


def read_ask(body: bytes, content_type: str, served: str, max_model_len: int) -> Ask:
    if content_type.split(";")[0].strip() != "application/json":
        fact = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise Refusal(fact, kind="Bad Request")
    data = _json(body)
    model = data.get("model")
    if model is not None and model != served:
        raise Refusal(f"The model `{model}` does not exist. Valid aliases: {served}.", "model", 404, "NotFoundError")
    ask = Ask(model=model, parts=_messages(data.get("messages")))
    ask.pictures = [item for _, content in ask.parts for item in content if isinstance(item, Picture)]
    _sampling(ask, data, max_model_len)
    _options(ask, data)
    return ask


def _json(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except UnicodeDecodeError as error:
        raise Refusal(f"1 validation error:\n  {error}", kind="Bad Request") from None
    except json.JSONDecodeError as error:
        place = f"body.{error.pos}"
        detail = f"{{'type': 'json_invalid', 'loc': '{place}', 'msg': 'JSON decode error', 'input': '<dict of 0 items>', 'ctx': {{'error': {error.msg!r}}}}}"
        raise Refusal(f"1 validation error:\n  {detail}", place, kind="Bad Request") from None
    if not isinstance(data, dict):
        raise Refusal("1 validation error:\n  Input should be a valid dictionary", "body", kind="Bad Request")
    return data


def _messages(messages: Any) -> list[tuple[str, list[str | Picture]]]:
    if not isinstance(messages, list) or not messages:
        raise Refusal(
            "1 validation error:\n  'messages': a list with at least one item is needed", "messages", kind="Bad Request"
        )
    parts: list[tuple[str, list[str | Picture]]] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal("1 validation error:\n  'messages': each needs a role", "messages", kind="Bad Request")
        content = message.get("content")
        if isinstance(content, str):
            parts.append((message["role"], [content]))
        elif isinstance(content, list):
            parts.append((message["role"], [_part(part) for part in content]))
        else:
            raise Refusal(
                "1 validation error:\n  'content': text or a list of parts is needed", "messages", kind="Bad Request"
            )
    return parts


def _part(part: Any) -> str | Picture:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "image_url":
        value = part.get("image_url")
        url = value.get("url") if isinstance(value, dict) else value
        if isinstance(url, str):
            uuid = part.get("uuid")
            return Picture(_from_url(url), uuid if isinstance(uuid, str) else None)
    raise Refusal(f"Unknown part type: {kind}")


def _from_url(url: str) -> bytes:
    if not url.startswith("data:"):
        scheme = url.split(":", 1)[0]
        if scheme in ("http", "https"):
            raise Refusal(
                "Cannot connect: a simulated server fetches no picture from elsewhere.",
                None,
                500,
                "InternalServerError",
            )
        raise Refusal("The URL must be either a HTTP, data or file URL.")
    head, _, payload = url.partition(",")
    if not head.endswith(";base64"):
        raise Refusal("Only base64 data URLs are supported for now.", None, 501, "NotImplementedError")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(str(error).replace("Only base64 data is allowed", "Non-base64 digit found")) from None


def _sampling(ask: Ask, data: dict[str, Any], max_model_len: int) -> None:
    name = "max_completion_tokens" if data.get("max_completion_tokens") is not None else "max_tokens"
    ask.max_tokens = _whole(data, name)
    if ask.max_tokens is not None and ask.max_tokens < 1:
        raise _bad_value("max_tokens", ask.max_tokens, f"max_tokens must be at least 1, got {ask.max_tokens}.")
    if ask.max_tokens is not None and ask.max_tokens > max_model_len:
        fact = f"max_tokens={ask.max_tokens} cannot be greater than max_model_len={max_model_len}. Please request fewer output tokens."
        raise _bad_value("max_tokens", ask.max_tokens, fact)
    ask.min_tokens = _whole(data, "min_tokens") or 0
    if ask.min_tokens < 0:
        raise _bad_value(
            "min_tokens", ask.min_tokens, f"min_tokens must be greater than or equal to 0, got {ask.min_tokens}."
        )
    if ask.max_tokens is not None and ask.min_tokens > ask.max_tokens:
        fact = f"min_tokens must be less than or equal to max_tokens={ask.max_tokens}, got {ask.min_tokens}."
        raise _bad_value("min_tokens", ask.min_tokens, fact)
    temperature = data.get("temperature")
    if temperature is not None:
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            raise _not_valid("temperature", "number", temperature)
        if temperature < 0:
            raise _bad_value("temperature", temperature, f"temperature must be non-negative, got {temperature}.")
        ask.temperature = float(temperature)
    ask.seed = _whole(data, "seed")
    ask.ignore_eos = data.get("ignore_eos") is True
    stop = data.get("stop")
    ask.stop = (stop,) if isinstance(stop, str) else tuple(s for s in stop or () if isinstance(s, str))
    if "" in ask.stop:
        raise _bad_value("stop", "", "stop cannot contain an empty string.")


def _options(ask: Ask, data: dict[str, Any]) -> None:
    ask.stream = data.get("stream") is True
    options = data.get("stream_options")
    if options is not None and not ask.stream:
        raise Refusal(
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)", "stream_options"
        )
    if isinstance(options, dict):
        ask.include_usage = options.get("include_usage") is True
        ask.continuous_usage = ask.include_usage and options.get("continuous_usage_stats") is True
    ask.cache_salt = data.get("cache_salt") or ""
    if data.get("n") not in (None, 1):
        raise Refusal("A simulated server gives one answer for each request (n=1).", "n")
    _logprobs(ask, data)
    if data.get("tools"):
        raise Refusal("A simulated server calls no tools.", "tools")


def _logprobs(ask: Ask, data: dict[str, Any]) -> None:
    top = _whole(data, "top_logprobs")
    asked = data.get("logprobs") is True
    if top is not None and top < 0 and top != -1:
        raise _bad_value("top_logprobs", top, "`top_logprobs` must be a positive value or -1.")
    if top and not asked:
        fact = "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)"
        raise Refusal(fact, "top_logprobs")
    if asked and (top or 0) > MOST:
        fact = f"Requested sample logprobs of {top}, which is greater than max allowed: {MOST} (parameter=logprobs, value={top})"
        raise Refusal(fact, "logprobs")
    ask.logprobs = (MOST if top == -1 else top or 0) if asked else None
    ask.tokens_as_ids = data.get("return_tokens_as_token_ids") is True


def _whole(data: dict[str, Any], name: str) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _not_valid(name, "integer", value)
    return value


def _not_valid(name: str, kind: str, value: Any) -> Refusal:
    detail = f"{{'type': '{kind}_type', 'loc': ('body', '{name}'), 'msg': 'Input should be a valid {kind}', 'input': {value!r}}}"
    return Refusal(f"1 validation error:\n  {detail}", name, kind="Bad Request")


def _bad_value(name: str, value: Any, fact: str) -> Refusal:
    return Refusal(f"{fact} (parameter={name}, value={value})", name)
