"""The JSON and SSE forms of vLLM's chat completions: same keys, same order."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

DONE = b"data: [DONE]\n\n"


def dumps(value: Any) -> str:
    """As pydantic writes it: no spaces, characters outside ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def error(message: str, kind: str, param: str | None, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def usage(prompt: int, completion: int, cached: int | None) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return counts


class Answer:
    """Writes one answer, streamed or whole."""

    def __init__(self, model: str, fingerprint: str) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(8)}"
        self.created = int(time.time())
        self._model = model
        self._fingerprint = fingerprint
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}
        self._head = "data: " + dumps(head)[:-1]

    def role(self, running: dict[str, Any] | None) -> bytes:
        choices = (
            ',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        )
        return f'{self._head}{choices}{_usage(running)},"prompt_token_ids":null,"prompt_text":null}}\n\n'.encode()

    def token(self, text: str, running: dict[str, Any] | None, logprobs: dict[str, Any] | None = None) -> bytes:
        ends = f'"logprobs":{dumps(logprobs)},"finish_reason":null,"token_ids":null}}]'
        choices = f',"choices":[{{"index":0,"delta":{{"content":{dumps(text)}}},{ends}'
        return f"{self._head}{choices}{_usage(running)}}}\n\n".encode()

    def last(
        self,
        text: str,
        reason: str,
        stop: str | None,
        running: dict[str, Any] | None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        ends = f'"finish_reason":{dumps(reason)},"stop_reason":{dumps(stop)},"token_ids":null}}]'
        choices = f',"choices":[{{"index":0,"delta":{{"content":{dumps(text)}}},"logprobs":{dumps(logprobs)},{ends}'
        return f"{self._head}{choices}{_usage(running)}}}\n\n".encode()

    def totals(self, counts: dict[str, Any]) -> bytes:
        tail = dumps({"choices": [], "usage": counts, "system_fingerprint": self._fingerprint})
        return f"{self._head},{tail[1:]}\n\n".encode()

    def whole(
        self,
        text: str,
        reason: str,
        stop: str | None,
        counts: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": reason,
            "stop_reason": stop,
            "token_ids": None,
            "routed_experts": None,
        }
        details = counts.pop("prompt_tokens_details", None)
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self._model,
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": self._fingerprint,
            "usage": counts | {"prompt_tokens_details": details, "completion_tokens_details": None},
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }


def _usage(running: dict[str, Any] | None) -> str:
    if running is None:
        return ""
    return f',"usage":{dumps(running | {"completion_tokens_details": None})}'
