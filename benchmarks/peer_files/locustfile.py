"""What a locust user has to write for a streaming image chat: send, read events, note the time of the first token.

STACK says by which of locust's two HTTP clients: `fast` (geventhttpclient) or `requests`.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, HttpUser, constant, events, task

BODIES = [path.read_bytes() for path in sorted(Path(os.environ["BODIES"]).glob("[0-9]*.json"))]
LIMIT = int(os.environ["REQUESTS"])
FAST = os.environ["STACK"] == "fast"
HEADERS = {"content-type": "application/json"}
times: list[float] = []
begun = ended = 0


class Chat(FastHttpUser if FAST else HttpUser):
    wait_time = constant(0)

    @task
    def ask(self) -> None:
        global begun, ended
        if begun == LIMIT:
            time.sleep(0.05)
            return
        body = BODIES[begun % len(BODIES)]
        begun += 1
        sent = time.perf_counter()
        first = None
        with self.client.post(
            "/v1/chat/completions", data=body, headers=HEADERS, stream=True, catch_response=True
        ) as answer:
            for event in _events(answer):
                if event == b"data: [DONE]":
                    continue
                choices = json.loads(event[6:])["choices"]
                if first is None and choices and choices[0]["delta"].get("content"):
                    first = time.perf_counter()
            answer.success()
        if first is not None:
            times.append((first - sent) * 1e3)
        ended += 1
        if ended == LIMIT:
            gevent.spawn(self.environment.runner.quit)  # not from here: it waits for this very user to end


def _events(answer: Any) -> Iterator[bytes]:
    """Each when it is there. `iter_content(None)` gives what the server sent, when it sent it; the fast client's own
    waits for a full block, and only its line reader does not."""
    if not FAST:
        rest = b""
        for piece in answer.iter_content(None):
            *whole, rest = (rest + piece).split(b"\n\n")
            yield from whole
        return
    while event := bytes(answer._response.readline(b"\n\n")):
        yield event[:-2]


@events.quitting.add_listener
def write(environment: object, **_: object) -> None:
    Path(os.environ["REPORT"]).write_text(json.dumps(times))
