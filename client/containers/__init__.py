"""The room of the container engine: the only door to the docker package. Finds the servers of a run, follows their logs, notices their end."""

from __future__ import annotations

from client.containers.engine import Engine, NoEngine
from client.containers.keeper import ServerContainers, attach

__all__ = ["Engine", "NoEngine", "ServerContainers", "attach"]
