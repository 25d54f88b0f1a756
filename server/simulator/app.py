"""The HTTP endpoints of the simulated server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server.simulator import metrics, wire
from server.simulator.ask import Refusal
from server.simulator.service import Service, Talk
from server.simulator.startlog import VERSION, say

CHAT_PATH = "/v1/chat/completions"
FINGERPRINT = "vllm-0.20.2-simulated"
FAULT_AFTER = 3
"""Tokens of a stream before its fault strikes."""


class Chat:
    """POST /v1/chat/completions, straight on ASGI: a chunk leaves as soon as its token is there."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        service.chats += 1
        number = service.chats
        faults = service.settings.faults
        restart = faults.get("restart-counters")
        if restart is not None and number == int(restart.arguments[0]) + 1:
            service.restart_counters()
        body = await HttpRequest(scope, receive).body()
        try:
            if faults.has("unhealthy") or faults.hits("http-500", number):
                raise Refusal("SIMULATED fault: internal error.", None, 500, "InternalServerError")
            if service.dead:
                raise Refusal("EngineCore encountered an issue. See its log.", None, 500, "InternalServerError")
            content_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
            talk = await service.begin(body, content_type)
        except Refusal as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        gone = asyncio.create_task(_watch(receive))
        answer = asyncio.create_task(self._reply(talk, number, scope, send))
        done, _ = await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
        for task in {gone, answer} - done:
            task.cancel()
        service.give_up(talk)
        if answer in done:
            answer.result()

    async def _reply(self, talk: Talk, number: int, scope: Scope, send: Send) -> None:
        writer = wire.Answer(self._service.settings.served, FINGERPRINT)
        if talk.ask.stream:
            await self._stream(talk, number, writer, send)
            return
        text, given = "", 0
        while not talk.over:
            piece, count = await talk.next()
            text, given = text + piece, given + count
        counts = self._counts(talk, given)
        body = writer.whole(text, talk.reason, talk.stop, counts, talk.logprobs(0, talk.given))
        await JSONResponse(body)(scope, _nothing, send)

    async def _stream(self, talk: Talk, number: int, writer: wire.Answer, send: Send) -> None:
        faults = self._service.settings.faults
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
            }
        )
        given = 0
        while not talk.over:
            text, count = await talk.next()
            data = writer.role(self._running(talk, 0)) if given == 0 else b""
            given += count
            weights = talk.logprobs(talk.given - count, talk.given)
            if faults.hits("empty", number):
                data += writer.last("", "stop", None, self._running(talk, 0))
                given = 0
                await _chunk(send, data)
                break
            if talk.over:
                data += writer.last(text, talk.reason, talk.stop, self._running(talk, given), weights)
            else:
                data += writer.token(text, self._running(talk, given), weights)
            await _chunk(send, data)
            if given - count < FAULT_AFTER <= given and await self._strike(number, writer, send):
                return
        if talk.ask.include_usage:
            await _chunk(send, writer.totals(self._counts(talk, given)))
        await _chunk(send, wire.DONE, more=False)

    async def _strike(self, number: int, writer: wire.Answer, send: Send) -> bool:
        """Lets the faults of this request happen; True when its stream is over by that."""
        faults = self._service.settings.faults
        stall = faults.get("stall")
        if stall is not None and stall.hits(number):
            await asyncio.sleep(stall.arguments[1])
        if faults.hits("stream-error", number):
            fact = wire.error("SIMULATED fault: error in the stream.", "InternalServerError", None, 500)
            await _chunk(send, f"data: {wire.dumps(fact)}\n\n".encode() + wire.DONE, more=False)
            return True
        if faults.hits("truncate", number):
            await _chunk(send, b"", more=False)
            return True
        if faults.hits("reset", number):
            _reset(send)
            return True
        return False

    def _counts(self, talk: Talk, given: int) -> dict[str, Any]:
        request = talk.request
        assert request is not None
        return wire.usage(
            request.prompt_tokens, given, request.cached if self._service.settings.prompt_details else None
        )

    def _running(self, talk: Talk, given: int) -> dict[str, Any] | None:
        return self._counts(talk, given) if talk.ask.continuous_usage else None


async def _chunk(send: Send, data: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _nothing() -> Any:
    raise AssertionError("the answer of a finished request reads nothing more")


async def _watch(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _reset(send: Send) -> None:
    """Ends the connection with RST: uvicorn's `send` is a method of the object that has the transport."""
    transport = send.__self__.transport  # type: ignore[attr-defined]  # uvicorn gives no public way to its transport
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if refusal.status == 404:
        fact = f"Error with model error=ErrorInfo(message={refusal.message!r}, type={refusal.kind!r}, param={refusal.param!r}, code={refusal.status})"
        say("APIServer", "serving.py:218", fact, "ERROR")
    body = wire.error(refusal.message, refusal.kind, refusal.param, refusal.status)
    await JSONResponse(body, refusal.status)(scope, receive, send)


class Door:
    """Asks for the key on paths under /v1, as vLLM does (everything else stays open), and leads chat requests straight to `Chat`:
    past Starlette's wrappers a chunk costs less, and uvicorn's own `send` is what a reset needs."""

    def __init__(self, chat: Chat, others: ASGIApp, key: str | None) -> None:
        self._chat = chat
        self._others = others
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._key is not None and scope["path"].startswith("/v1"):
            given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            if given != f"Bearer {self._key}":
                await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
                return
        chat = scope["type"] == "http" and scope["path"] == CHAT_PATH and scope["method"] == "POST"
        await (self._chat if chat else self._others)(scope, receive, send)


def build_app(service: Service) -> ASGIApp:
    s = service.settings

    async def health(_: HttpRequest) -> Response:
        return Response(status_code=503 if service.dead or s.faults.has("unhealthy") else 200)

    async def version(_: HttpRequest) -> Response:
        return JSONResponse({"version": VERSION})

    async def models(_: HttpRequest) -> Response:
        card = {
            "id": s.served,
            "object": "model",
            "created": 0,
            "owned_by": "halfweight-sim",
            "root": s.served,
            "parent": None,
            "max_model_len": s.max_model_len,
            "permission": [],
        }
        return JSONResponse({"object": "list", "data": [card]})

    async def metrics_page(_: HttpRequest) -> Response:
        if s.faults.has("drop-metrics"):
            return JSONResponse({"detail": "Not Found"}, 404)
        return Response(service.metrics.page(service.engine), headers={"content-type": metrics.CONTENT_TYPE})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    routes = [
        Route("/v1/models", models),
        Route("/health", health),
        Route("/ping", health, methods=["GET", "POST"]),
        Route("/version", version),
        Route("/metrics", metrics_page),
        *service.gpu.routes(),
    ]
    return Door(Chat(service), Starlette(routes=routes, lifespan=lifespan), s.api_key)
