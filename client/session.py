"""One run with everything it needs, opened in order and closed in the opposite one: transport, servers' introductions, pictures, fleet, GPU."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from client.campaign import Campaign
from client.core.blocks import workers_needed
from client.core.evidence import GpuEvidence
from client.core.plan import RunPlan, Target, TargetKind
from client.core.records import GpuSample, Phase, RequestRecord, ServerSnapshot, without_tokens
from client.core.replays import Replay
from client.core.secrets import NO_MASK, Mask
from client.core.sidecar import sidecar_applies
from client.generator import LocalFleet
from client.preflight import Introduction, Preflight
from client.probe import probe
from client.progress import Progress
from client.rundir import RunDir
from client.serverless import WorkersPoll
from client.telemetry import MetricsScraper, SidecarClient
from client.transport import LoadClient, new_client
from client.workers import ClientKit, Fleet
from client.workload import Bodies, Pictures

NO_METRICS = "RunPod serverless passes no /metrics on"

if TYPE_CHECKING:
    from client.containers import ServerContainers


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line decided beside the plan. `keys` maps a target's name to its API key and never leaves the process."""

    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    mask: Mask = NO_MASK
    """Covers the keys, and what else must be written nowhere."""
    ca_file: str | None = None
    wait_s: float = 0.0
    model_config: str | None = None
    allow_outside: bool = False
    docker: bool = False
    """Whether the container engine of this host is asked for the servers' containers."""
    isolate: bool = False
    project: str | None = None
    """The Compose project that is meant, where several have such servers."""


async def introduce(
    plan: RunPlan,
    asked: Asked,
    progress: Progress,
    containers: ServerContainers | None = None,
    *,
    probing: bool = False,
) -> tuple[Introduction, ...]:
    """Every target, met. Raises TargetError for the first that cannot be used. `probing` sends each a text and an image request too."""
    progress.stage("meeting the targets")
    client = new_client(ca_file=asked.ca_file)
    try:
        with _scrapers(plan.targets, asked) as scrapers:
            preflight = Preflight(
                client,
                asked.keys,
                lambda name: _page(scrapers[name]),
                WorkersPoll(client, plan.targets, asked.keys),
                asked.wait_s,
                partial(probe, client, plan, asked.keys) if probing else None,
            )
            if containers is None:
                return await preflight.meet_all(plan.targets)
            if not containers.isolate:
                return await containers.guard(preflight.meet_all(plan.targets))
            return await containers.guard(_meet_in_turn(preflight, plan.targets, containers, progress))
    finally:
        await client.aclose()


async def _meet_in_turn(
    preflight: Preflight, targets: tuple[Target, ...], containers: ServerContainers, progress: Progress
) -> tuple[Introduction, ...]:
    """Each is started once before anything is measured: one that cannot start costs no measurement. The baseline comes last and stays up."""
    met: list[Introduction] = []
    for target in reversed(targets):
        progress.stage(f"starting {target.name} to meet it")
        await containers.up(target.name)
        met.insert(0, await preflight.meet(target))
    return tuple(met)


async def measure(
    plan: RunPlan,
    asked: Asked,
    met: tuple[Introduction, ...],
    pictures: Pictures,
    run_dir: RunDir,
    progress: Progress,
    replay: Replay | None = None,
    containers: ServerContainers | None = None,
) -> bool:
    """The whole campaign. Returns whether a person or a signal ended it early. `plan.targets` are the targets as introduced.

    Raises TargetError when a server's container ended under it.
    """
    seen: list[Callable[[RequestRecord], None]] = [] if containers is None else [containers.see]

    def see(record: RequestRecord) -> None:
        if record.phase is Phase.QUALITY:
            run_dir.append("answers", answer_line(record))
        for listener in seen:
            listener(record)

    with _scrapers(plan.targets, asked) as scrapers:
        async with (
            _gpus(plan.targets, run_dir, progress) as gpus,
            _asking(asked) as asking,
            _fleet(plan, asked, pictures, run_dir, see) as sent_by,
        ):
            campaign = Campaign(
                plan,
                run_dir,
                {one.target.name: one for one in met},
                *sent_by,
                lambda name: _page(scrapers[name]),
                gpus.energy,
                progress,
                replay,
                containers if containers is not None and containers.isolate else None,
                WorkersPoll(asking, plan.targets, asked.keys),
            )
            seen.append(campaign.see)
            progress.follow(lambda: sent_by[0].in_flight)
            if containers is not None:
                loop = asyncio.get_running_loop()
                containers.on_failure(lambda: loop.call_soon_threadsafe(campaign.interrupt))
            with _signals(campaign):
                await campaign.run()
            if containers is not None:
                containers.raise_failure()
            return campaign.interrupted


def answer_line(record: RequestRecord) -> dict[str, object]:
    """One raw answer of the quality pass."""
    return {
        "target": record.target,
        "pass": record.block,
        "image_id": record.image_id,
        "outcome": record.outcome,
        "finish_reason": record.finish_reason,
        "text": record.text,
    } | ({"tokens": record.tokens} if record.tokens else {})


@contextlib.asynccontextmanager
async def _fleet(
    plan: RunPlan, asked: Asked, pictures: Pictures, run_dir: RunDir, see: Callable[[RequestRecord], None]
) -> AsyncIterator[tuple[Fleet | LocalFleet, Fleet | Bodies]]:
    """What sends, and what knows the pictures: one process, or as many as the load needs."""
    workers = plan.load.workers or workers_needed(plan.load, os.cpu_count() or 1)
    kit = ClientKit(plan, pictures, asked.keys, asked.ca_file)
    if workers > 1:
        fleet = Fleet(workers, kit, run_dir.path, see, retries=plan.load.retries)
        yield fleet, fleet
        return

    def keep(record: RequestRecord) -> None:
        run_dir.append("requests", without_tokens(record))
        see(record)

    tools = kit()
    try:
        bodies = tools.bodies[plan.targets[0].name]
        assert isinstance(bodies, Bodies)
        yield LocalFleet(tools.doors, tools.bodies, keep, retries=plan.load.retries), bodies
    finally:
        await tools.close()


@contextlib.asynccontextmanager
async def _asking(asked: Asked) -> AsyncIterator[LoadClient]:
    """For small questions beside the load, on connections of its own."""
    client = new_client(ca_file=asked.ca_file)
    try:
        yield client
    finally:
        await client.aclose()


async def _page(scraper: MetricsScraper) -> ServerSnapshot:
    return await asyncio.to_thread(scraper.snapshot)


@contextlib.contextmanager
def _scrapers(targets: tuple[Target, ...], asked: Asked) -> Iterator[dict[str, MetricsScraper]]:
    scrapers = {
        target.name: MetricsScraper(
            target.name,
            target.base_url,
            ca_file=asked.ca_file,
            api_key=asked.keys.get(target.name),
            absent=NO_METRICS if target.kind is TargetKind.RUNPOD_SERVERLESS else None,
        )
        for target in targets
    }
    try:
        yield scrapers
    finally:
        for scraper in scrapers.values():
            scraper.close()


@contextlib.contextmanager
def _signals(campaign: Campaign) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops sending and keeps what was measured; a second one ends the process as before the campaign."""
    loop = asyncio.get_running_loop()
    caught = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def give_back() -> None:
        for number, handler in caught.items():
            if loop.remove_signal_handler(number):
                signal.signal(number, handler)

    def stop() -> None:
        give_back()
        campaign.interrupt()

    for number in caught:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        give_back()


def _sidecar_of(target: Target) -> str | None:
    return target.base_url if target.simulated else target.sidecar_url


class _Gpus:
    """The sidecars of a run: one client for each address, its samples going straight to a file of the run directory."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._clients: dict[str, SidecarClient] = {}
        self._by_target: dict[str, str] = {}
        self._refused: list[GpuEvidence] = []

    def open(self, targets: tuple[Target, ...], progress: Progress) -> None:
        for target in targets:
            url = _sidecar_of(target)
            if url is None:
                continue
            client = self._clients.get(url) or SidecarClient(url)
            problem = None if url in self._clients else client.open()
            applies, why = sidecar_applies(target, url, client.elsewhere)
            if not applies:
                progress.note(f"{target.name}: {why}")
                self._refused.append(GpuEvidence(target=target.name, source=url, why=why))
                if url not in self._clients:
                    client.close()
                continue
            if url not in self._clients:
                if problem is not None:
                    progress.note(problem)
                self._clients[url] = client
                owner = target.name if len({_sidecar_of(one) for one in targets} - {None}) > 1 else ""
                client.start(partial(self._take, f"gpu-{len(self._clients) - 1}", owner, progress))
            self._by_target[target.name] = url
        # Now, too: without its header nobody reads the samples of a run that is killed.
        self._write_headers(opening=True)

    def _take(self, file: str, owner: str, progress: Progress, sample: GpuSample) -> None:
        self._run_dir.append(file, sample)
        progress.gpu(owner, sample)

    def close(self) -> None:
        for client in self._clients.values():
            client.stop()
        self._write_headers()
        for client in self._clients.values():
            client.close()

    def _write_headers(self, *, opening: bool = False) -> None:
        headers = [self._evidence(url, client, opening) for url, client in self._clients.items()] + self._refused
        for number, evidence in enumerate(headers):
            self._run_dir.write_file(f"gpu-{number}.json", msgspec.json.format(msgspec.json.encode(evidence), indent=1))

    def _evidence(self, url: str, client: SidecarClient, opening: bool) -> GpuEvidence:
        owners = [name for name, address in self._by_target.items() if address == url]
        evidence = client.evidence(owners[0] if len(owners) == 1 else None)
        evidence = msgspec.structs.replace(evidence, shared_by=tuple(owners) if len(owners) > 1 else ())
        # `why` is about the samples of this client: they are in the file, not in the header, and at first still to come.
        fine = client.samples > 0 or (opening and client.why is None)
        return msgspec.structs.replace(evidence, why=None) if fine else evidence

    async def energy(self, target: str) -> int | None:
        client = self._clients.get(self._by_target.get(target, ""))
        return None if client is None else await asyncio.to_thread(client.energy_total_mj)


@contextlib.asynccontextmanager
async def _gpus(targets: tuple[Target, ...], run_dir: RunDir, progress: Progress) -> AsyncIterator[_Gpus]:
    gpus = _Gpus(run_dir)
    await asyncio.to_thread(gpus.open, targets, progress)
    try:
        yield gpus
    finally:
        await asyncio.to_thread(gpus.close)
