"""The Docker SDK behind a few blocking calls. Whoever calls them from an event loop does so in a thread."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

ASK_LIMIT_S = 20.0
STOP_LIMIT_S = 40


class NoEngine(Exception):
    """No container engine can be asked, and why."""


class Engine:
    """Two connections: one for questions, with a time limit, and one for streams, which may be silent for hours."""

    def __init__(self, questions: docker.DockerClient, streams: docker.DockerClient) -> None:
        self._questions = questions
        self._streams = streams

    @classmethod
    def connect(cls) -> Engine:
        """The engine of DOCKER_HOST or of this host. Raises NoEngine."""
        try:
            questions = docker.from_env(timeout=int(ASK_LIMIT_S))
            questions.ping()
            return cls(questions, docker.from_env(timeout=None))  # type: ignore[arg-type]  # None is what requests takes for no limit
        except (DockerException, OSError) as error:
            place = os.environ.get("DOCKER_HOST") or "/var/run/docker.sock"
            raise NoEngine(f"{_plain(error)} ({place})") from None

    def close(self) -> None:
        self._questions.close()
        self._streams.close()

    def version(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._questions.version()
        return answer

    def info(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._questions.info()
        return answer

    def composed(self) -> list[dict[str, Any]]:
        """`docker inspect` of every container that Compose made, running or not."""
        found = []
        for container in self._questions.api.containers(all=True, filters={"label": "com.docker.compose.service"}):
            with contextlib.suppress(NotFound):  # gone in between
                found.append(self.inspect(container["Id"]))
        return found

    def running(self) -> list[dict[str, Any]]:
        """`docker inspect` of every container that runs."""
        found = []
        for container in self._questions.api.containers():
            with contextlib.suppress(NotFound):
                found.append(self.inspect(container["Id"]))
        return found

    def inspect(self, container: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._questions.api.inspect_container(container)
        return answer

    def digests(self, image: str) -> list[str]:
        try:
            return list(self._questions.images.get(image).attrs.get("RepoDigests") or ())
        except (ImageNotFound, APIError):
            return []

    def start(self, container: str) -> None:
        """Raises NoEngine with the engine's word when it refuses (a port taken, no GPU runtime)."""
        try:
            self._questions.api.start(container)
        except DockerException as error:
            raise NoEngine(_plain(error)) from None

    def stop(self, container: str) -> None:
        with contextlib.suppress(NotFound):
            self._questions.api.stop(container, timeout=STOP_LIMIT_S // 2)

    def logs(self, container: str, since_ns: int | None) -> Iterator[bytes]:
        """Chunks of stamped log lines, for as long as the container runs. `close()` of what is returned ends it from another thread."""
        since = None if since_ns is None else since_ns / 1e9
        stream: Iterator[bytes] = self._streams.containers.get(container).logs(
            stream=True, follow=True, timestamps=True, since=since
        )
        return stream

    def tail(self, container: str, lines: int) -> list[str]:
        try:
            text = self._questions.api.logs(container, tail=lines)
        except DockerException:
            return []
        return [line for line in text.decode(errors="replace").splitlines() if line.strip()]

    def endings(self, containers: list[str]) -> Iterator[dict[str, Any]]:
        """Events of containers that end or start. `close()` as for `logs`."""
        stream: Iterator[dict[str, Any]] = self._streams.events(
            decode=True,
            filters={"type": "container", "container": containers, "event": ["die", "oom", "start", "health_status"]},
        )
        return stream


def _plain(error: Exception) -> str:
    """The reason without the layers that passed it on."""
    if isinstance(error, APIError) and error.explanation:
        return str(error.explanation)
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]  # not None here
    return str(cause) or str(error)
