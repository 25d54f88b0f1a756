"""`python -m client.bench`: argv -> RunPlan -> campaign -> findings -> reports -> exit code."""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C while half a second of imports runs ends it as a shell expects, without a traceback

import asyncio
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from client import host
from client.campaign import first_request_failed
from client.cli import build_parser
from client.config import build_plan
from client.core.blocks import arm_plan, starts_of
from client.core.body import chat_body
from client.core.evidence import ServerEvidence
from client.core.plan import RunPlan, Target, TargetKind
from client.core.records import Outcome, Phase
from client.core.replays import Replay, saved_blocks
from client.core.runpod import warnings
from client.core.secrets import Mask, secrets_in
from client.core.sidecar import host_of
from client.errors import HalfweightError, UsageError
from client.launch import SimulatedServers
from client.loop import run_loaded
from client.preflight import Introduction, told
from client.progress import Progress, Quiet, choose
from client.remote import read_keys, unused_proxies
from client.rundir import MAX_WHOLE_BYTES, Manifest, RunDir, read_run
from client.session import Asked, introduce, measure
from client.workload import Pictures, open_pictures

if TYPE_CHECKING:
    from client.containers import ServerContainers


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    progress: Progress = Quiet()
    mask = Mask()
    try:
        with _ending_by_signal() as check:
            plan = build_plan(arguments, os.environ)
            keys = read_keys(plan.targets, os.environ)
            mask = Mask([*keys.values(), *(s for target in plan.targets for s in secrets_in(target.engine_args))])
            progress = choose(arguments.quiet, mask)
            asked = Asked(
                keys,
                mask,
                arguments.ca_file,
                arguments.wait,
                arguments.model_config,
                arguments.allow_outside,
                docker=arguments.docker == "auto" and plan.simulate is None,
                isolate=arguments.isolate,
                project=os.environ.get("COMPOSE_PROJECT_NAME"),
            )
            if arguments.preflight_only:
                return preflight_only(plan, asked, progress)
            return run(plan, asked, Path(arguments.out), progress, check)
    except HalfweightError as error:
        return _ended(progress, f"halfweight: {mask.text(str(error))}", error.exit_code)
    except KeyboardInterrupt as interrupt:
        return _ended(progress, f"halfweight: interrupted. {interrupt}".strip(), 130)
    except Exception:
        words = "halfweight: this is a bug of ours: please report it with the lines above."
        return _ended(progress, f"{mask.text(traceback.format_exc())}{words}", 1)


def _ended(progress: Progress, words: str, code: int) -> int:
    progress.close()
    print(shown(words), file=sys.stderr)
    return code


Check = Callable[[], None]
"""Raises KeyboardInterrupt when a signal came. Libraries swallow exceptions where they look for an attribute or import what may be missing."""


@contextlib.contextmanager
def _ending_by_signal() -> Iterator[Check]:
    """Ctrl-C and SIGTERM end a run also while targets are met and reports are written: children are ended, words are said."""
    came: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # somebody else's program: its signals are its own
        yield check
        return
    ours = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in ours}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def shown(text: str) -> str:
    """A message may repeat what a server said: no control characters but line breaks reach the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def run(plan: RunPlan, asked: Asked, out: Path, progress: Progress, check: Check) -> int:
    """Measures, writes the run directory, prints the verdict; returns the exit code. Raises HalfweightError, or KeyboardInterrupt with what was kept."""
    replay = None if plan.load.replay_of is None else arrivals_of(Path(plan.load.replay_of))
    stages = arm_plan(plan.load, plan.seed, replay=replay, starts=starts_of(asked.isolate, plan.targets))
    pictures = open_pictures(
        plan.workload,
        plan.seed,
        stages.images + plan.quality,
        allow_outside=asked.allow_outside,
        counted=all(slots.duration_ns is None for level in stages.levels for slots in level),
    )
    facts, versions = host.facts(), host.versions()  # they take a moment, in which a signal would leave an empty folder
    run_dir = RunDir.create(out, mask=asked.mask)
    try:
        manifest = Manifest(
            run_id=run_dir.run_id,
            started_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            plan=plan,
            anchor=host.anchor(),
            host=facts,
            versions=versions,
            command=tuple(sys.argv[1:]),
            pictures=pictures.note,
            distinct_pictures=pictures.distinct,
        )
        return _run(manifest, run_dir, asked, pictures, progress, replay, check)
    except KeyboardInterrupt:
        if run_dir.discard_if_empty():
            raise
        raise KeyboardInterrupt(
            f"What was recorded is in {run_dir.path}/: python -m client.report {run_dir.path}"
        ) from None


def _run(
    manifest: Manifest,
    run_dir: RunDir,
    asked: Asked,
    pictures: Pictures,
    progress: Progress,
    replay: Replay | None,
    check: Check,
) -> int:
    plan = manifest.plan
    run_dir.write_manifest(manifest)
    try:
        with _servers(plan, run_dir, progress) as placed, _containers(plan, asked, run_dir, progress) as containers:
            met = asyncio.run(introduce(placed, asked, progress, containers))
            placed = msgspec.structs.replace(placed, targets=tuple(one.target for one in met))
            for line in at_once(placed, met, pictures):
                progress.note(line)
            manifest = msgspec.structs.replace(manifest, plan=placed)
            check()
            run_dir.write_manifest(manifest)
            for one in met:
                run_dir.write_server(with_files(one.server, one.target, asked.model_config))
            progress.note(f"Pictures: {pictures.note}.")
            if plan.simulate is None and (proxies := unused_proxies(os.environ)) is not None:
                progress.note(proxies)
            interrupted = run_loaded(measure(placed, asked, met, pictures, run_dir, progress, replay, containers))
    except HalfweightError as error:
        run_dir.close()
        progress.close()
        if not run_dir.discard_if_empty():
            _report_what_there_is(run_dir.path, error)
        raise
    run_dir.close()
    ended = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    run_dir.write_manifest(
        msgspec.structs.replace(manifest, ended_utc=ended, interrupted=interrupted, complete=not interrupted)
    )
    # Imported when it is needed: a run must not wait for scipy before its first request.
    from client.report import exit_code, show, write_reports

    progress.stage("analysing")
    findings = write_reports(run_dir.path)
    check()
    progress.close()
    show(findings, run_dir.path)
    return exit_code(findings)


def _report_what_there_is(path: Path, error: HalfweightError) -> None:
    """A run that ends by an error keeps what was measured, and says where."""
    from client.report import show, write_reports

    try:
        findings = write_reports(path)
        if any(target.requests_sent for target in findings.targets.values()):
            show(findings, path)
    except HalfweightError:
        pass  # the first error is the one to tell
    error.hint = f"{error.hint} What was recorded is in {path}/.".strip()


def at_once(plan: RunPlan, met: tuple[Introduction, ...], pictures: Pictures) -> Iterator[str]:
    """What a person should know before load is sent: limits on the way, the state of workers, what cannot be measured."""
    descriptors, wanted = host.raise_descriptor_limit(), plan.load.concurrency // max(1, plan.load.workers)
    if wanted > descriptors - 64:
        yield (
            f"A process may open {descriptors} descriptors here, and {wanted} requests at once need more: the others end as "
            "client_limit. Raise `ulimit -n`, or give more --workers."
        )
    for one in met:
        yield from plainly(one.target)
        body = None if one.target.kind is TargetKind.PLAIN else _largest_body(plan, pictures)
        yield from warnings(one.target, plan, body)
        yield from one.notes
        if not one.target.simulated:
            yield from (f"{one.target.name}: cannot be measured from here: {item}." for item in one.missing)


def plainly(target: Target) -> Iterator[str]:
    """A key that anybody on the way can read."""
    keyed = target.api_key_env is not None or target.api_key_file is not None
    if keyed and target.base_url.startswith("http://") and host_of(target.base_url) != "localhost":
        yield f"{target.name}: its key travels over http://, not encrypted: whoever is on the way can read it. Use https:// or a tunnel."


def _largest_body(plan: RunPlan, pictures: Pictures) -> int:
    """Bytes of the largest of the first few requests."""
    return max(len(chat_body(plan.workload, "", pictures.case(i).jpeg)) for i in range(min(3, len(pictures))))


@contextlib.contextmanager
def _servers(plan: RunPlan, run_dir: RunDir, progress: Progress) -> Iterator[RunPlan]:
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


@contextlib.contextmanager
def _containers(plan: RunPlan, asked: Asked, run_dir: RunDir, progress: Progress) -> Iterator[ServerContainers | None]:
    """What the container engine knows of the servers, written down in the end whatever happens. None without an engine."""
    if not asked.docker or not (asked.isolate or host.has_engine()):
        yield None
        return
    from client.containers import attach  # only here: a run without an engine must not wait for the docker package

    containers = attach(
        plan.targets,
        run_dir.server_dir,
        isolate=asked.isolate,
        project=asked.project,
        wait_s=asked.wait_s,
        keys=asked.mask,
    )
    if containers is None:
        yield None
        return
    try:
        yield containers
    finally:
        containers.close()
        for facts in containers.facts():
            run_dir.write_container(facts)
            if facts.starts and (told := facts.starts[-1].seconds()):
                progress.note(
                    f"{facts.name}: " + ", ".join(f"{what} after {value:.1f} s" for what, value in told.items()) + "."
                )


def with_files(server: ServerEvidence, target: Target, model_config: str | None) -> ServerEvidence:
    """With the start-up log and the config.json that the user named. Raises UsageError when one cannot be read."""
    log, config = target.server_log, model_config
    return msgspec.structs.replace(
        server,
        log_text=None if log is None else _text(Path(log), f"--server-log {target.name}={log}"),
        model_config=None if config is None else _text(Path(config), f"--model-config {config}"),
    )


def _text(path: Path, flag: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_WHOLE_BYTES).decode(errors="replace")
    except OSError as error:
        raise UsageError(f"{flag}: {error.strerror}.", "Give a file that can be read.") from None


def arrivals_of(path: Path) -> Replay:
    """The intended times of a saved run's baseline, its blocks apart. A second try of a request is no arrival of its own."""
    records = read_run(path).records
    name = records.targets[0] if records.targets else None
    arrivals = []
    for phase in (Phase.MEASURE, Phase.EDGE):
        rows = records.where(name, phase)
        rows = rows[records["attempt"][rows] == 0]
        columns = (records["block"][rows].tolist(), records["intended_ns"][rows].tolist())
        arrivals += [(block, phase, intended_ns) for block, intended_ns in zip(*columns, strict=True)]
    found = saved_blocks(arrivals)
    if not found:
        raise UsageError(f"--replay {path}: that run has no measured request.", "Name another run directory.")
    return found


def preflight_only(plan: RunPlan, asked: Asked, progress: Progress) -> int:
    if plan.simulate is not None:
        raise UsageError("--preflight-only has nothing to ask with --simulate.", "Leave one of them out.")
    met = asyncio.run(introduce(plan, asked, progress, probing=True))
    progress.close()
    for one in met:
        print(asked.mask.text(told(one)))
    for one in met:
        for record in one.probes:
            if record.outcome is not Outcome.OK:
                raise first_request_failed(one.target.name, record, plan)
    return 0


if __name__ == "__main__":
    sys.exit(main())
