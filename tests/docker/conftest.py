from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from composed import SIM, Composed


@pytest.fixture
def composed(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Composed]]:
    """Makes projects, and takes each down afterwards: nothing of it may be left."""
    made: list[Composed] = []
    base = tmp_path_factory.mktemp("docker")
    for folder in (base, *base.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)  # the client's user must be able to pass through

    def make(*, files: tuple[str, ...] = SIM) -> Composed:
        one = Composed(
            f"{os.getpid()}-{len(made)}-{request.node.name[:20].strip('_[').replace('[', '-')}".lower(),
            base / str(len(made)),
            files=files,
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.down()
    assert [name for one in made for name in one.left()] == []
