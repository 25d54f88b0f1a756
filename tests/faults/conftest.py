"""Faults are played by the scripted peer of the room tests and by the simulator's own processes."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("rooms", "sim")]
