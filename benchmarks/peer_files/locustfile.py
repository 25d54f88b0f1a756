"""What a locust user has to write for a streaming image chat: send, read events, note the time of the first token."""

import json
import os
import time
from pathlib import Path

import gevent
from locust import FastHttpUser, constant, events, task

BODIES = [path.read_bytes() for path in sorted(Path(os.environ["BODIES"]).glob("[0-9]*.json"))]
LIMIT = int(os.environ["REQUESTS"])
HEADERS = {"content-type": "application/json"}
times: list[float] = []
begun = ended = 0


class Chat(FastHttpUser):
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
            # `iter_content` and `read` wait for a full block; only the line reader gives a token when it is there.
            while event := bytes(answer._response.readline(b"\n\n")):
                if event == b"data: [DONE]\n\n":
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


@events.quitting.add_listener
def write(environment: object, **_: object) -> None:
    Path(os.environ["REPORT"]).write_text(json.dumps(times))
