"""`python -m client.bench`: argv -> RunPlan -> campaign -> findings -> reports -> exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from client.cli import build_parser
from client.config import build_plan
from client.errors import HalfweightError


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
