"""A container engine that does what the test tells it: two containers, their logs, their ends. Stands at the seam `client.containers.Engine`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

STAMP = "1970-01-01T00:00:{:02d}.000000000Z"


class Stream:
    """What the docker package gives for logs and events: an iterator that another thread can close."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, item: Any) -> None:
        self.items.put(item)

    def close(self) -> None:
        self.items.put(StopIteration)

    def __iter__(self) -> Iterator[Any]:
        while (item := self.items.get()) is not StopIteration:
            yield item


class ScriptedContainer:
    def __init__(self, name: str, *, running: bool, health: str | None = "healthy") -> None:
        self.name = name
        self.health = health
        self.state: dict[str, Any] = {"Running": running, "StartedAt": STAMP.format(1), "ExitCode": 0}
        self.log = Stream()
        self.said: list[str] = []

    def say(self, second: int, text: str) -> None:
        self.said.append(text)
        self.log.put(f"{STAMP.format(second)} {text}\n".encode())


class ScriptedEngine:
    def __init__(self, *containers: ScriptedContainer) -> None:
        self.by_id = {one.name: one for one in containers}
        self.events = Stream()
        self.done: list[str] = []
        self.refuses: str | None = None
        self.start_ends_it = False
        self.closed = False

    def inspect(self, container: str) -> dict[str, Any]:
        one = self.by_id[container]
        health = {} if one.health is None else {"Health": {"Status": one.health, "Log": []}}
        return {
            "Id": one.name, "Name": f"/{one.name}", "Created": STAMP.format(0), "Image": "sha256:1", "Args": [],
            "Config": {"Image": "vllm", "Env": ["HF_TOKEN=x"], "Labels": {}}, "State": {**one.state, **health},
        }  # fmt: skip

    def digests(self, image: str) -> list[str]:
        return []

    def start(self, container: str) -> None:
        self.done.append(f"start {container}")
        if self.refuses is not None:
            from client.containers import NoEngine

            raise NoEngine(self.refuses)
        one = self.by_id[container]
        one.log = Stream()
        one.state = {
            "Running": not self.start_ends_it,
            "StartedAt": STAMP.format(len(self.done)),
            "ExitCode": 1 if self.start_ends_it else 0,
        }
        if self.start_ends_it:
            one.say(2, "CUDA out of memory")
            self.end(container, 1)

    def stop(self, container: str) -> None:
        self.done.append(f"stop {container}")
        self.end(container, 0)

    def end(self, container: str, code: int, *, oom: bool = False) -> None:
        """The container ends, and the engine tells of it."""
        one = self.by_id[container]
        one.state = {**one.state, "Running": False, "ExitCode": code, "OOMKilled": oom}
        one.log.close()
        self.events.put({"id": container, "Action": "die"})

    def logs(self, container: str, since_ns: int | None) -> Stream:
        return self.by_id[container].log

    def tail(self, container: str, lines: int) -> list[str]:
        return self.by_id[container].said[-lines:]

    def endings(self, containers: list[str]) -> Stream:
        return self.events

    def close(self) -> None:
        self.closed = True


def eventually(what: Any, limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
