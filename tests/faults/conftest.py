"""Faults are played by the scripted peer of the room tests and by the simulator's own processes."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("rooms", "sim")]


LIMIT_S = 300
"""A test here starts whole commands, each with a limit of its own (`rig.Bench.end`): on a busy machine they need longer than others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A campaign of minutes that kills, freezes and fills: a stage of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LIMIT_S))
