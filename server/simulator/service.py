"""The server behind the endpoints: settings, caches of processed pictures, engine, counters, GPU; and one chat request's life."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from server.simulator import answer
from server.simulator.ask import Ask, Refusal, read_ask
from server.simulator.engine import Engine, Observer, Request, Step
from server.simulator.faults import Faults
from server.simulator.frontend import Frontend
from server.simulator.gpu import SimulatedGpu
from server.simulator.logprobs import Weights
from server.simulator.metrics import Metrics, cache_config
from server.simulator.profile import Profile
from server.simulator.prompt import lay_out
from server.simulator.startlog import say, stats_line
from server.simulator.timing import Timing
from server.simulator.vision import Glance, glance, look

STATS_PERIOD_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    profile: Profile
    served: str
    seed: int = 0
    utilization: float = 0.5
    max_model_len: int = 4096
    time_scale: float = 1.0
    api_key: str | None = None
    prefix_caching: bool = True
    processor_cache_gb: float = 4.0
    prompt_details: bool = False
    answer_form: str = "unit"
    faults: Faults = field(default_factory=lambda: Faults(()))


Eye = Callable[[bytes], Awaitable[answer.Box | None]]
"""Looks at a picture's bytes; raises Refusal."""


class Talk:
    """One answer on its way: the engine counts tokens in, the response takes them out."""

    def __init__(
        self, ask: Ask, pieces: list[str], reason: str, stop: str | None, weights: Weights | None = None
    ) -> None:
        self._weights = weights
        self.ask = ask
        self.pieces = pieces
        self.reason = reason
        self.stop = stop
        self.ready = 0
        self.given = 0
        self.news = asyncio.Event()
        self.request: Request | None = None

    def on_tokens(self, count: int) -> None:
        self.ready += count
        self.news.set()

    async def next(self) -> tuple[str, int]:
        """(text, tokens) of what came since the last call; tokens that came together leave together."""
        while self.given == self.ready:
            self.news.clear()
            await self.news.wait()
        first, self.given = self.given, self.ready
        return "".join(self.pieces[first : self.given]), self.given - first

    def logprobs(self, first: int, end: int) -> dict[str, Any] | None:
        """The `logprobs` of these tokens; None when none were asked for."""
        return None if self._weights is None else {"content": self._weights.content(first, end)}

    @property
    def over(self) -> bool:
        return self.given >= len(self.pieces)


class Service(Observer):
    def __init__(self, settings: Settings, eye: Eye | None = None) -> None:
        self.settings = settings
        profile = settings.profile
        self._model = profile.model
        self.timing = Timing(profile, settings.seed, settings.time_scale)
        self._frontend = Frontend(self.timing)
        self._blocks = profile.kv_blocks(settings.utilization)
        self.engine = Engine(self._model, self.timing, self._blocks, settings.prefix_caching, self)
        self.gpu = SimulatedGpu(profile, settings.utilization, settings.seed)
        self.metrics = self._new_metrics()
        self._processed: OrderedDict[str, int] = OrderedDict()
        self._threads = ThreadPoolExecutor(1, "eye")
        self._eye = eye or self._look
        self._talks: dict[Request, Talk] = {}
        self._background: list[asyncio.Task[None]] = []
        self.chats = 0
        self.dead = False

    def _new_metrics(self) -> Metrics:
        s = self.settings
        config = cache_config(self._blocks, self._model.block_size, s.utilization, s.prefix_caching, s.max_model_len)
        return Metrics(s.served, config)

    def start(self) -> None:
        self._background = [
            asyncio.create_task(work) for work in (self.engine.run(), self.gpu.run(), self._throttle(), self._report())
        ]

        for task in self._background:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part that broke is a bug of ours: as a vLLM whose engine died, the server answers no more and says why in its log."""
        if not task.cancelled() and task.exception() is not None:
            say("EngineCore", "core.py:1", f"EngineCore encountered a fatal error: {task.exception()!r}", "ERROR")
            self.dead = True

    def stop(self) -> None:
        for task in self._background:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _report(self) -> None:
        """The periodic line of the log; nothing is said while nothing happens."""
        before = self.metrics.totals()
        while True:
            await asyncio.sleep(STATS_PERIOD_S)
            now = self.metrics.totals()
            if now != before or self.engine.running or self.engine.waiting:
                say("APIServer", "loggers.py:271", stats_line(self.engine, before, now, STATS_PERIOD_S))
            before = now

    async def _throttle(self) -> None:
        fault = self.settings.faults.get("throttle")
        if fault is not None:
            factor, seconds = fault.arguments
            await asyncio.sleep(seconds)
            self.timing.slow, self.gpu.clock_factor = factor, 1 / max(1.0, factor)

    def restart_counters(self) -> None:
        """As if the server had been restarted: new series, empty caches."""
        self.metrics = self._new_metrics()
        self._processed.clear()
        self.engine.forget_caches()

    # --- one request ---
    async def begin(self, body: bytes, content_type: str) -> Talk:
        """Everything up to the moment at which the engine has the request. Raises Refusal."""
        s = self.settings
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        ask = read_ask(body, content_type, s.served, s.max_model_len)
        seen = [glance(picture.data) for picture in ask.pictures]
        keys = [picture.uuid or one.digest for picture, one in zip(ask.pictures, seen, strict=True)]
        prompt = lay_out(ask, [(key, one.tokens) for key, one in zip(keys, seen, strict=True)], self._model.block_size)
        self._check_length(ask, prompt.tokens)
        looks = [asyncio.ensure_future(self._eye(picture.data)) for picture in ask.pictures]
        new = tuple(one.megapixels for key, one in zip(keys, seen, strict=True) if not self._is_processed(key, one))
        if seen:
            self.metrics.pictures(len(seen), len(seen) - len(new))
        self._frontend.in_flight += 1
        try:
            await self._frontend.admit(arrived, len(body), sum(one.megapixels for one in seen), new)
            tables = [await one for one in looks]
        except BaseException:
            self._frontend.in_flight -= 1
            raise
        talk = self._answer(ask, seen[-1].digest if seen else None, tables[-1] if seen else None)
        room = s.max_model_len - prompt.tokens
        if len(talk.pieces) > room:
            talk.pieces, talk.reason, talk.stop = talk.pieces[:room], "length", None
        request = Request(prompt.tokens, prompt.block_keys, prompt.images, len(talk.pieces), talk.on_tokens, arrived)
        talk.request = request
        self._talks[request] = talk
        loop.call_later(self.timing.ingest(), self._add, request)
        return talk

    async def _look(self, data: bytes) -> answer.Box | None:
        """In a thread, beside the modelled time of the API server, so that it disturbs no token."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, look, data)

    def _add(self, request: Request) -> None:
        if request.aborted:
            self.finished(request)
        else:
            self.engine.add(request)

    def give_up(self, talk: Talk) -> None:
        """The client is gone."""
        if talk.request is not None and not talk.request.closed:
            self.engine.abort(talk.request)

    def _answer(self, ask: Ask, digest: str | None, table: answer.Box | None) -> Talk:
        s = self.settings
        max_new = ask.max_tokens or s.max_model_len
        text = answer.SMALL_TALK
        if digest is not None:
            told = answer.noisy(table or answer.GUESS, digest, s.profile.precision, s.seed, ask.temperature, ask.seed)
            text = answer.write_boxes([told], s.answer_form)
        pieces, reason = answer.as_tokens(text, max_new, ask.min_tokens, ask.ignore_eos)
        pieces, stop = answer.cut_at_stop(pieces, ask.stop)
        if s.faults.hits("early-stop", self.chats):
            pieces, reason = pieces[: max(1, len(pieces) // 2)], "stop"
        weights = None
        if ask.logprobs is not None:
            key = f"{s.seed}:{digest}"
            weights = Weights(pieces, key, s.profile.precision, ask.logprobs, as_ids=ask.tokens_as_ids)
        return Talk(ask, pieces, "stop" if stop else reason, stop, weights)

    def _check_length(self, ask: Ask, tokens: int) -> None:
        limit = self.settings.max_model_len
        if tokens < limit:
            return
        if ask.pictures:
            raise Refusal(f"Input length ({tokens}) exceeds model's maximum context length ({limit}).")
        raise Refusal(
            f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {tokens} input tokens, "
            "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
            f"(parameter=input_tokens, value={tokens})",
            "input_tokens",
        )

    def _is_processed(self, key: str, seen: Glance) -> bool:
        """Asks the cache of processed pictures, and remembers this one."""
        budget = self.settings.processor_cache_gb * (1 << 30)
        known = key in self._processed
        if budget > 0:
            self._processed[key] = seen.tokens * self._model.processed_bytes_per_token
            self._processed.move_to_end(key)
            while sum(self._processed.values()) > budget:
                self._processed.popitem(last=False)
        return known

    # --- what the engine tells ---
    def prefix(self, queried: int, hit: int) -> None:
        self.metrics.prefix(queried, hit)

    def step(self, step: Step, seconds: float) -> None:
        self.metrics.step(step, seconds)
        self.gpu.worked(step, seconds)

    def first_token(self, request: Request) -> None:
        self.metrics.first_token(request)

    def token(self, request: Request, gap: float) -> None:
        self.metrics.token(request, gap)

    def preempted(self) -> None:
        self.metrics.preempted()

    def finished(self, request: Request) -> None:
        self._frontend.in_flight -= 1
        talk = self._talks.pop(request)
        reason = "abort" if request.aborted else talk.reason
        self.metrics.ended(request, reason, talk.ask.max_tokens or self.settings.max_model_len)
