"""What a locust user has to write for a streaming image chat: send, read events, note the time of the first token."""

import json
import os
import time
from pathlib import Path

from locust import FastHttpUser, constant, events, task

BODIES = [path.read_bytes() for path in sorted(Path(os.environ["BODIES"]).glob("[0-9]*.json"))]
LIMIT = int(os.environ["REQUESTS"])
HEADERS = {"content-type": "application/json"}
times: list[float] = []
begun = 0


class Chat(FastHttpUser):
    wait_time = constant(0)

    @task
    def ask(self) -> None:
        global begun
        if begun >= LIMIT:
            self.environment.runner.quit()
            return
        body = BODIES[begun % len(BODIES)]
        begun += 1
        sent = time.perf_counter()
        first = None
        with self.client.post(
            "/v1/chat/completions", data=body, headers=HEADERS, stream=True, catch_response=True
        ) as answer:
            rest = b""
            while piece := answer.raw.read1(65536) if hasattr(answer.raw, "read1") else answer.raw.read(4096):
                rest += piece
                while b"\n\n" in rest:
                    event, rest = rest.split(b"\n\n", 1)
                    if event == b"data: [DONE]":
                        continue
                    choices = json.loads(event[6:])["choices"]
                    if first is None and choices and choices[0]["delta"].get("content"):
                        first = time.perf_counter()
            answer.success()
        if first is not None:
            times.append((first - sent) * 1e3)


@events.quitting.add_listener
def write(environment: object, **_: object) -> None:
    Path(os.environ["REPORT"]).write_text(json.dumps(times))
