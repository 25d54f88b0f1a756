"""The engine: continuous batching over one paged KV cache, as vLLM's V1 scheduler does it.

Each step takes running requests first (one token each, or the next chunk of a prompt), then waiting ones while the token budget,
the limit of requests and the KV pool allow. Steps follow one another at absolute times: a late wake-up never adds up.

With asynchronous scheduling the tokens of a step are handed out only when the next step is launched. Launching a plain decode step
costs nothing worth counting; launching the vision encoder takes most of the step, and the tokens wait for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from server.simulator.pool import BlockKey, Holding, KvPool
from server.simulator.profile import Model
from server.simulator.timing import Timing

STOPPED_S = 0.25
"""Later than this, the process was held up (SIGSTOP, a starved machine): the clock of the engine starts again from now."""


@dataclass(slots=True, frozen=True)
class Image:
    """One picture in a prompt: `end` is the prompt position after its last token."""

    key: str
    tokens: int
    end: int


@dataclass(slots=True, eq=False)
class Request:
    """A request in the engine. Times are seconds of the event loop's clock; None: has not happened."""

    prompt_tokens: int
    block_keys: Sequence[BlockKey]
    images: Sequence[Image]
    max_new: int
    on_tokens: Callable[[int], None]
    """Called with the number of new tokens; the request is over when `generated` has reached `max_new`."""
    arrived: float = 0.0
    queued: float | None = None
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    computed: int = 0
    generated: int = 0
    cached: int = 0
    """Prompt tokens that the prefix cache answered."""
    aborted: bool = False
    closed: bool = False
    preempted: int = 0
    holding: Holding = field(default_factory=Holding)

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.generated

    @property
    def done(self) -> bool:
        return self.aborted or self.generated >= self.max_new


@dataclass(slots=True)
class Step:
    decodes: list[Request] = field(default_factory=list)
    prefills: list[tuple[Request, int]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    fresh: list[Request] = field(default_factory=list)
    """Those that got a token from this step."""

    @property
    def prefill_tokens(self) -> int:
        return sum(tokens for _, tokens in self.prefills)

    @property
    def tokens(self) -> int:
        return len(self.decodes) + self.prefill_tokens

    @property
    def context(self) -> int:
        return sum(s.length for s in self.decodes) + sum(s.computed for s, _ in self.prefills)


class Observer:
    """What the engine tells the outside; the default listens to nothing."""

    def prefix(self, queried: int, hit: int) -> None: ...
    def step(self, step: Step, seconds: float) -> None: ...
    def first_token(self, request: Request) -> None: ...
    def token(self, request: Request, gap: float) -> None: ...
    def finished(self, request: Request) -> None: ...
    def preempted(self) -> None: ...


class Engine:
    def __init__(self, model: Model, timing: Timing, blocks: int, caching: bool, observer: Observer) -> None:
        self._model = model
        self._timing = timing
        self._caching = caching
        self.pool = KvPool(blocks, caching)
        self._observer = observer
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._encoded: OrderedDict[str, int] = OrderedDict()
        self._wake = asyncio.Event()

    def add(self, request: Request) -> None:
        request.queued = asyncio.get_running_loop().time()
        self.waiting.append(request)
        self._wake.set()

    def abort(self, request: Request) -> None:
        """The client went away: the request leaves at the next step."""
        request.aborted = True
        self._wake.set()

    def forget_caches(self) -> None:
        self.pool.forget()
        self._encoded.clear()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due: Step | None = None
        now = loop.time()
        while True:
            self._drop_aborted()
            if due is None and not self.waiting and not self.running:
                self._wake.clear()
                await self._wake.wait()
                now = loop.time()
                continue
            step = self._schedule(now)
            took = self._duration(step) if step.tokens else 0.0
            if due is not None:
                if step.images:
                    await _until(now + took * self._timing.launch_share)
                self._hand_out(due)
                due = None
            if not step.tokens:
                await asyncio.sleep(0)
                continue
            self._observer.step(step, took)
            now += took
            late = await _until(now)
            if late > STOPPED_S:
                now += late
            self._advance(step)
            due = step

    def _duration(self, step: Step) -> float:
        text_only = bool(step.prefills) and not any(r.images for r, _ in step.prefills)
        forward = self._timing.forward(len(step.decodes), step.prefill_tokens, step.context, text_only)
        return self._timing.encode(step.images) + forward

    # --- one step ---
    def _schedule(self, now: float) -> Step:
        step = Step()
        budget = self._model.max_batched_tokens
        for request in list(self.running):
            if request not in self.running or request.done:
                continue
            want = min(budget, request.length - request.computed) if request.computed < request.length - 1 else 1
            if want <= 0 or not self._make_room(request, request.computed + want):
                continue
            budget -= want
            self._put(step, request, want)
        while self.waiting and budget > 0 and len(self.running) < self._model.max_seqs:
            request = self.waiting[0]
            hit = self._match(request)
            want = min(budget, request.length - hit)
            blocks = -(-(hit + want) // self._model.block_size)
            self.pool.take(request.holding, request.block_keys[: hit // self._model.block_size])
            if not self.pool.grow(request.holding, blocks):
                self.pool.release(request.holding)
                break
            self.waiting.popleft()
            self._admit(request, hit, now)
            budget -= want
            self._put(step, request, want)
        return step

    def _match(self, request: Request) -> int:
        """Prompt tokens that cached blocks hold; at least one token is always computed, to have something to sample from."""
        if not self._caching:
            return 0
        whole = (request.prompt_tokens - 1) // self._model.block_size
        return self.pool.cached_prefix(request.block_keys[:whole]) * self._model.block_size

    def _admit(self, request: Request, hit: int, now: float) -> None:
        if not request.preempted:
            request.cached = hit
            if self._caching:
                self._observer.prefix(request.prompt_tokens, hit)
        request.scheduled = request.scheduled or max(now, request.queued or now)
        request.computed = hit
        self.running.append(request)

    def _put(self, step: Step, request: Request, tokens: int) -> None:
        if request.computed >= request.length - 1 and request.generated:
            step.decodes.append(request)
            return
        end = request.computed + tokens
        for image in request.images:
            if request.computed < image.end and image.end - image.tokens < end and not self._known(image):
                step.images.append(image.tokens)
        step.prefills.append((request, tokens))

    def _known(self, image: Image) -> bool:
        """Whether the encoder's output is at hand; if not it will be after this step."""
        if image.key in self._encoded:
            self._encoded.move_to_end(image.key)
            return True
        self._encoded[image.key] = image.tokens
        while sum(self._encoded.values()) > self._model.encoder_cache_tokens and len(self._encoded) > 1:
            self._encoded.popitem(last=False)
        return False

    def _make_room(self, request: Request, tokens: int) -> bool:
        """Blocks for so many tokens; the youngest running requests are preempted until they are there."""
        while not self.pool.grow(request.holding, -(-tokens // self._model.block_size)):
            victim = self.running.pop()
            self.pool.release(victim.holding)
            victim.computed = 0
            victim.preempted += 1
            self.waiting.appendleft(victim)
            self._observer.preempted()
            if victim is request:
                return False
        return True

    def _advance(self, step: Step) -> None:
        """Books what a step has computed and frees what is finished, before the next one is scheduled."""
        for request, tokens in step.prefills:
            request.computed += tokens
            full = min(request.computed, request.prompt_tokens) // self._model.block_size
            self.pool.publish(request.holding, request.block_keys[len(request.holding.shared) : full])
            if request.computed >= request.length:
                request.generated += 1
                step.fresh.append(request)
        for request in step.decodes:
            request.computed += 1
            request.generated += 1
            step.fresh.append(request)
        for request in [r for r in self.running if r.done]:
            self.running.remove(request)
            self.pool.release(request.holding)

    def _hand_out(self, step: Step) -> None:
        now = asyncio.get_running_loop().time()
        for request in step.fresh:
            if request.aborted:
                self._close(request)
                continue
            if request.first_token is None:
                request.first_token = now
                self._observer.first_token(request)
            elif request.last_token is not None:
                self._observer.token(request, now - request.last_token)
            request.last_token = now
            request.on_tokens(1)
            if request.done:
                self._close(request)

    def _drop_aborted(self) -> None:
        for request in [r for r in self.running if r.aborted]:
            self.running.remove(request)
            self.pool.release(request.holding)
            self._close(request)
        for request in [r for r in self.waiting if r.aborted]:
            self.waiting.remove(request)
            self._close(request)

    def _close(self, request: Request) -> None:
        if not request.closed:
            request.closed = True
            self._observer.finished(request)


async def _until(when: float) -> float:
    """Sleeps until `when` and lets others run even if that is past; returns the lateness in seconds."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, when - loop.time()))
    return loop.time() - when
