"""`python -m client.bench`: argv -> RunPlan -> campaign -> findings -> reports -> exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from client import host
from client.campaign import Campaign
from client.cli import build_parser
from client.config import build_plan
from client.core.plan import RunPlan
from client.errors import HalfweightError
from client.launch import SimulatedServers
from client.progress import Progress, choose
from client.report import exit_code, write_reports
from client.rundir import Manifest, RunDir
from client.session import Session


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        plan = build_plan(arguments, os.environ)
        if arguments.preflight_only:
            return asyncio.run(_preflight(plan, arguments.ca_file, arguments.wait))
        return run(plan, arguments.out, quiet=arguments.quiet, ca_file=arguments.ca_file, wait_s=arguments.wait)
    except HalfweightError as error:
        print(f"halfweight: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("halfweight: interrupted before anything was measured.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
