"""The generator in several processes: each takes its share of every block, all start at one instant, each writes its own records."""

from client.workers.fleet import Fleet
from client.workers.kit import ClientKit, Kit

__all__ = ["ClientKit", "Fleet", "Kit"]
