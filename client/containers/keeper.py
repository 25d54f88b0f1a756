"""The containers behind the targets of one run: who they are, their logs, their end; with `isolate`, which one of them is alive."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from client.containers.engine import Engine, NoEngine
from client.containers.follow import KEPT_LINES, EventWatch, LogFollower
from client.core import container as words
from client.core.container import ContainerFacts, Seen, StartMarks
from client.core.plan import Target
from client.core.records import Outcome, RequestRecord
from client.core.secrets import NO_MASK, Mask
from client.errors import TargetError, UsageError

LOOK_EVERY_S = 0.5
TAIL = 200
SETTLE_S = 0.3
"""After an end is told: the last lines of the log and the final state arrive a moment later."""
T = TypeVar("T")


class ContainerEnded(TargetError):
    """A target cannot be used, and its container says why."""


class _Server:
    """One target's container through all of its starts."""

    def __init__(self, target: Target, seen: Seen, log: Path, keys: Mask = NO_MASK) -> None:
        self.target = target
        self.seen = seen
        self.log = log
        self.keys = keys
        self.follower: LogFollower | None = None
        self.starts: list[StartMarks] = []
        self.facts = ContainerFacts(target=target.name, name=seen.name)
        self.healthy_ns: int | None = None
        self.first_token_ns: int | None = None
        self.followed_ns = 0
        self.watched = False
        """Whether somebody else looks after its next end: it is our own doing, or it is being started."""


class ServerContainers:
    """Everything here blocks except `up` and `guard`, and nothing is on the path of a request."""

    def __init__(self, engine: Engine, servers: dict[str, _Server], isolate: bool, wait_s: float) -> None:
        self.isolate = isolate
        self.failure: str | None = None
        self._engine = engine
        self._servers = servers
        self._by_id = {server.seen.id: server for server in servers.values()}
        self._wait_s = wait_s
        self._listeners: list[Callable[[], object]] = []
        self._serving: str | None = None
        self._answered = False
        self._lock = threading.Lock()
        self._events = EventWatch(engine, list(self._by_id), self._happened)
        for server in servers.values():
            attrs = engine.inspect(server.seen.id)
            server.facts = words.facts(server.target.name, attrs, engine.digests(attrs.get("Image", "")))
            if attrs["State"].get("Running") and not isolate:
                self._follow(server, attrs)

    # ------------------------------------------------------------ one server at a time

    async def up(self, target: str) -> bool:
        """Makes this target the one that serves. True when it was started for that. Raises TargetError when it does not become healthy."""
        if not self.isolate or self._serving == target:
            return False
        await asyncio.to_thread(self._switch, self._servers[target])
        return True

    def _switch(self, server: _Server) -> None:
        self._serving = None
        for other in self._servers.values():
            self._stop(other)
        server.watched = True
        try:
            self._engine.start(server.seen.id)
        except NoEngine as error:
            raise TargetError(
                f"the container {server.seen.name} of target {server.target.name} cannot be started: {error}.",
                "Mend that, and run again.",
            ) from None
        self._follow(server, self._engine.inspect(server.seen.id))
        self._await_health(server)
        server.watched = False
        self._serving = server.target.name

    def _stop(self, server: _Server) -> None:
        if not self._engine.inspect(server.seen.id)["State"].get("Running"):
            return
        server.watched = True
        self._engine.stop(server.seen.id)
        self._finish(server, ended=True)

    def _await_health(self, server: _Server) -> None:
        deadline = time.monotonic() + self._wait_s
        while True:
            state = self._engine.inspect(server.seen.id)["State"]
            health = (state.get("Health") or {}).get("Status")
            if not state.get("Running") or state.get("Restarting"):
                raise self._error(server, words.ending(state), "before it was healthy")
            if health == "healthy" or (health is None and server.follower and server.follower.marks.serving_ns):
                server.healthy_ns = words.healthy_since(state)
                return
            if health == "unhealthy":
                raise self._error(server, "became unhealthy", "before it served")
            if time.monotonic() >= deadline:
                raise self._error(server, f"was not healthy after {self._wait_s:.0f} s", "")
            time.sleep(LOOK_EVERY_S)

    # ------------------------------------------------------------ listening

    def on_failure(self, listener: Callable[[], object]) -> None:
        """`listener` is called, from another thread, when a server ends though nobody asked it to."""
        self._listeners.append(listener)
        if self.failure is not None:
            listener()

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """The work, given up with a TargetError as soon as a server's container ends under it; its own TargetErrors tell of the container too."""
        loop, failed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(failed.set)

        self.on_failure(tell)
        task = asyncio.create_task(work)
        alarm = asyncio.create_task(failed.wait())
        try:
            await asyncio.wait({task, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, TargetError):
                    await task
                self.raise_failure()
            return task.result()
        except ContainerEnded:
            raise
        except TargetError as error:
            self.raise_failure()
            raise await asyncio.to_thread(self._with_state, error) from None
        finally:
            alarm.cancel()
            self._listeners.remove(tell)

    def raise_failure(self) -> None:
        if self.failure is not None:
            kept = "What was measured before is kept. " if self._answered else ""
            raise ContainerEnded(self.failure, f"\n{kept}Mend the server, and run again.")

    def see(self, record: RequestRecord) -> None:
        """Takes the first good answer of each start for its first token, on the wall clock that the engine's host shares with ours."""
        self._answered = True
        server = self._servers.get(record.target)
        if server is None or server.first_token_ns is not None:
            return
        if record.outcome is Outcome.OK and record.first_token_ns is not None:
            server.first_token_ns = record.first_token_ns + time.time_ns() - time.monotonic_ns()

    def facts(self) -> tuple[ContainerFacts, ...]:
        """Complete only after `close`."""
        return tuple(
            msgspec.structs.replace(server.facts, starts=tuple(server.starts)) for server in self._servers.values()
        )

    def close(self) -> None:
        """Stops the server that isolation left alive, and all listening. Servers that were found alive stay alive."""
        for server in self._servers.values():
            with contextlib.suppress(Exception):  # the engine may be gone; closing must come to its end
                if self.isolate:
                    self._stop(server)
            self._finish(server, ended=False)
        self._events.close()
        self._engine.close()

    # ------------------------------------------------------------ inside

    def _follow(self, server: _Server, attrs: dict[str, Any]) -> None:
        started = words.stamp_ns(attrs["State"].get("StartedAt", ""))
        made = words.stamp_ns(attrs.get("Created", ""))
        server.healthy_ns = words.healthy_since(attrs["State"])
        server.first_token_ns, server.followed_ns = None, time.time_ns()
        server.starts.append(StartMarks(created_ns=made, started_ns=started))
        server.follower = LogFollower(self._engine, server.seen.id, started, server.log, server.keys)

    def _finish(self, server: _Server, *, ended: bool) -> None:
        if server.follower is None:
            return
        server.follower.close(ended=ended)
        server.starts[-1] = self._marked(server)
        server.follower = None

    @staticmethod
    def _marked(server: _Server) -> StartMarks:
        """Our first answer is the server's first only where we saw it begin to serve."""
        assert server.follower is not None
        marks = server.follower.marks
        witnessed = marks.serving_ns is not None and marks.serving_ns >= server.followed_ns
        return msgspec.structs.replace(
            server.starts[-1],
            weights_ns=marks.weights_ns,
            engine_ns=marks.engine_ns,
            serving_ns=marks.serving_ns,
            healthy_ns=server.healthy_ns,
            first_token_ns=server.first_token_ns if witnessed else None,
        )

    def _happened(self, container: str, action: str, event: dict[str, Any]) -> None:
        server = self._by_id.get(container)
        if server is None:
            return
        if action == "health_status: healthy" and server.healthy_ns is None:
            server.healthy_ns = int(event.get("timeNano", 0)) or None
        if action == "die" and not server.watched:
            time.sleep(SETTLE_S)
            self._fail(server)

    def _fail(self, server: _Server) -> None:
        with self._lock:
            if self.failure is not None:
                return
            how = words.ending(self._engine.inspect(server.seen.id)["State"])
            server.facts = msgspec.structs.replace(server.facts, ended=how)
            when = "under the run" if self._answered else "before it answered"
            self.failure = self._error(server, how, when).fact
        for listener in list(self._listeners):
            listener()

    def _error(self, server: _Server, how: str, when: str) -> ContainerEnded:
        lines = list(server.follower.last) if server.follower else []
        lines = lines or [line for line in self._engine.tail(server.seen.id, TAIL) if words.tells(line)][-KEPT_LINES:]
        said = "".join(f"\n    {line[:300]}" for line in lines) or " (nothing)"
        return ContainerEnded(
            f"target {server.target.name}: its container {server.seen.name} {how}{' ' + when if when else ''}. Its last lines:{said}",
            f"\nThe whole log: docker logs {server.seen.name}",
        )

    def _with_state(self, error: TargetError) -> TargetError:
        """When exactly one container is not well, a target's failure has its cause there."""
        for server in self._servers.values():
            if f"target {server.target.name}" not in error.fact:
                continue
            state = self._engine.inspect(server.seen.id)["State"]
            if not state.get("Running"):
                return self._error(server, words.ending(state), "")
            if (state.get("Health") or {}).get("Status") == "unhealthy":
                return self._error(server, "is unhealthy", "")
        return error


def attach(
    targets: tuple[Target, ...],
    logs: Callable[[str], Path],
    *,
    isolate: bool = False,
    project: str | None = None,
    wait_s: float = 0.0,
    keys: Mask = NO_MASK,
) -> ServerContainers | None:
    """The containers behind the targets; None when there are none, or no engine (ask `host.has_engine` first). `keys` are kept out of the copied logs. Raises UsageError where `isolate` cannot do without."""
    try:
        engine = Engine.connect()
    except NoEngine as error:
        if isolate:
            raise UsageError(
                f"--isolate starts and stops servers, but no Docker Engine can be asked: {error}.",
                "Start it, set DOCKER_HOST, or mount /var/run/docker.sock (docs/containers.md says what that means).",
            ) from None
        return None
    try:
        servers = dict(_find(engine, targets, logs, isolate, project, keys))
    except BaseException:
        engine.close()
        raise
    if not servers:
        engine.close()
        return None
    return ServerContainers(engine, servers, isolate, wait_s or 3600.0)


def _find(
    engine: Engine,
    targets: tuple[Target, ...],
    logs: Callable[[str], Path],
    isolate: bool,
    project: str | None,
    keys: Mask,
) -> Iterator[tuple[str, _Server]]:
    every = [one for attrs in engine.composed() if (one := words.seen(attrs)) is not None]
    for target in targets:
        found = words.behind(target, every, project)
        running = [one for one in found if one.running]
        found = running if len(running) == 1 else found
        if len(found) == 1:
            yield target.name, _Server(target, found[0], logs(target.name) / "server.log", keys)
        elif isolate:
            raise _cannot_choose(target, found)


def _cannot_choose(target: Target, found: list[Seen]) -> UsageError:
    if not found:
        return UsageError(
            f"--isolate: no container of a Compose service serves {target.name} at {target.base_url}.",
            "Make them first: docker compose -f docker-compose.yml -f docker-compose.isolate.yml create bf16 fp8",
        )
    names = ", ".join(one.name for one in found)
    return UsageError(
        f"--isolate: several containers could be {target.name} at {target.base_url}: {names}.",
        "Say which project is meant: COMPOSE_PROJECT_NAME=…, or take the stale one down (docker compose -p PROJECT down).",
    )
