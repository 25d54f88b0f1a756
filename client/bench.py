"""`python -m client.bench`: argv -> RunPlan -> campaign -> findings -> reports -> exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from client import host
from client.cli import build_parser
from client.config import build_plan
from client.core.blocks import arm_plan
from client.core.evidence import ServerEvidence
from client.core.plan import RunPlan, Target
from client.errors import HalfweightError, UsageError
from client.launch import SimulatedServers
from client.preflight import Introduction
from client.progress import Progress, choose
from client.report import exit_code, show, write_reports
from client.rundir import Manifest, RunDir
from client.session import Asked, introduce, measure
from client.workload import open_pictures


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    progress = choose(arguments.quiet)
    try:
        plan = build_plan(arguments, os.environ)
        keys = {t.name: os.environ[t.api_key_env] for t in plan.targets if t.api_key_env}
        asked = Asked(keys, arguments.ca_file, arguments.wait)
        if arguments.preflight_only:
            return preflight_only(plan, asked, progress)
        return run(plan, asked, Path(arguments.out), progress)
    except HalfweightError as error:
        progress.close()
        print(f"halfweight: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        progress.close()
        print("halfweight: interrupted.", file=sys.stderr)
        return 130


def run(plan: RunPlan, asked: Asked, out: Path, progress: Progress) -> int:
    """Measures, writes the run directory, prints the verdict; returns the exit code. Raises HalfweightError."""
    pictures = open_pictures(plan.workload, plan.seed, arm_plan(plan.load, plan.seed).images)
    run_dir = RunDir.create(out)
    manifest = Manifest(
        run_id=run_dir.run_id,
        started_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        plan=plan,
        anchor=host.anchor(),
        host=host.facts(),
        versions=host.versions(),
    )
    run_dir.write_manifest(manifest)
    try:
        with _servers(plan, run_dir, progress) as placed:
            met = asyncio.run(introduce(placed, asked, progress))
            placed = msgspec.structs.replace(placed, targets=tuple(one.target for one in met))
            manifest = msgspec.structs.replace(manifest, plan=placed)
            run_dir.write_manifest(manifest)
            for one in met:
                run_dir.write_server(with_log(one.server, one.target))
            progress.note(f"Pictures: {pictures.note}.")
            interrupted = asyncio.run(measure(placed, asked, met, pictures, run_dir, progress))
    except HalfweightError:
        run_dir.discard_if_empty()
        raise
    finally:
        run_dir.close()
    ended = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    run_dir.write_manifest(
        msgspec.structs.replace(manifest, ended_utc=ended, interrupted=interrupted, complete=not interrupted)
    )
    progress.stage("analysing")
    findings = write_reports(run_dir.path)
    progress.close()
    show(findings, run_dir.path)
    return exit_code(findings)


@contextlib.contextmanager
def _servers(plan: RunPlan, run_dir: RunDir, progress: Progress):  # type: ignore[no-untyped-def]
    """Yields the plan with the addresses of its servers; starts them when they are simulated."""
    if plan.simulate is None:
        yield plan
        return
    progress.stage(f"starting the simulated {plan.simulate} pair")
    logs = {target.name: run_dir.server_dir(target.name) / "server.log" for target in plan.targets}
    with SimulatedServers(plan.simulate, plan.targets, logs, plan.seed) as servers:
        yield msgspec.structs.replace(
            plan,
            targets=tuple(msgspec.structs.replace(t, base_url=servers.address(t.name)) for t in plan.targets),
        )


def with_log(server: ServerEvidence, target: Target) -> ServerEvidence:
    """The start-up log that the user named. Raises UsageError when it cannot be read."""
    if target.server_log is None:
        return server
    try:
        text = Path(target.server_log).read_text(errors="replace")
    except OSError as error:
        raise UsageError(
            f"--server-log {target.name}={target.server_log}: {error.strerror}.", "Give a file that can be read."
        ) from None
    return msgspec.structs.replace(server, log_text=text)


def preflight_only(plan: RunPlan, asked: Asked, progress: Progress) -> int:
    if plan.simulate is not None:
        raise UsageError("--preflight-only has nothing to ask with --simulate.", "Leave one of them out.")
    met = asyncio.run(introduce(plan, asked, progress))
    progress.close()
    for one in met:
        print(_told(one))
    return 0


def _told(one: Introduction) -> str:
    trip = "unknown" if one.round_trip_ns is None else f"{one.round_trip_ns / 1e6:.1f} ms"
    lines = [
        f"{one.target.name}: {one.target.base_url}",
        f"  model {one.target.model} (served: {', '.join(one.server.served_models) or 'not told'})",
        f"  server version {one.server.version or 'not told'}, context {one.server.max_model_len or 'not told'} tokens",
        f"  round trip {trip}",
    ]
    lines += [f"  cannot be measured from here: {item}" for item in one.missing]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
