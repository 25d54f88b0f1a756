"""One start-up of a server while its log is being read: what each line adds to it."""

from __future__ import annotations

from typing import Any

from client.core.engine_args import read_args
from client.core.loglines import LogLine, plain
from client.core.wordings import (
    BANNER,
    BANNER_MODEL,
    GRAPHS_IN_BUDGET,
    GRAPHS_OUTSIDE,
    KERNEL,
    ROOT_CAUSE,
    SECOND_HAND,
    SECRET,
    STARTS,
    USAGE_MISTAKE,
    WORDINGS,
)

STARTING = (
    "GiB", "took ", "takes ", "GB", "KV cache", "blocks: ", "tokens per request", "Kernel", "uantizing", "version ", " args: ",
    "Initializing a", "model len", "native support", "Encoder cache", "_memory", "CUDA graph memory", "Chunked prefill", "gpu_memory_utilization=", "Error", "Exception",
    "Exit", "error: ", "startup complete", "Starting vLLM", "Uvicorn running", "throughput", "args: Namespace", "█",
)  # fmt: skip
"""A line that holds none of these tells nothing while a server starts."""
SERVING = ("vLLM API server version", " args: ", "args: Namespace", "Initializing a", "█")
"""Nor does a line without one of these once it serves: requests, and what users write into them, are not looked at."""

TEXTS = {
    "version",
    "model",
    "quantization",
    "cache_dtype",
    "dtype",
    "device",
    "quantized_layers",
    "marlin_warning",
    "encoder_profile",
}
MAX_ERRORS = 5

_READY = (
    "Application startup complete",
    "Starting vLLM API server",
    "Starting vLLM server",
    "Uvicorn running on",
    "Engine 000: Avg prompt throughput",
    "Avg prompt throughput",
)
_ARGS = ("non-default args: ", "args: Namespace(")
_INTEGERS = {"kv_cache_tokens", "max_model_len", "num_gpu_blocks", "tensor_parallel", "batched_tokens"}
_SIGNED = {"kv_cache_gib", "non_torch_gib"}
_MOST = {"utilization": 1.0, "tensor_parallel": 4096.0}
_MOST_BY_UNIT = {"_gib": 1e5, "_s": 1e7}
_MEASURED = {"weights_gib", "kv_cache_gib", "kv_cache_tokens", "num_gpu_blocks"}


class StartUp:
    """`found`: field -> process -> (value, line). Within one process the first line that tells a thing counts."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, tuple[Any, str]]] = {}
        self.kernels: list[str] = []
        self.kernel_line = ""
        self.args: dict[str, Any] = {}
        self.args_line: str | None = None
        self.graphs_in_budget: bool | None = None
        self.complete = False
        self.serving = False
        self.errors: list[str] = []
        self.loose: list[str] = []
        self.second_hand: list[str] = []
        self.notes: list[str] = []
        self._engines: set[str] = set()
        self._measured = False
        self._error_process: str | None = None

    @property
    def failures(self) -> list[str]:
        """Exceptions, the likeliest root cause first: logged as errors, then printed loose, then those that only pass on another's."""
        return self.errors + self.loose + self.second_hand

    @property
    def empty(self) -> bool:
        return not (self.found or self.args_line or self.failures or self.kernels)

    @property
    def in_error(self) -> bool:
        """An exception was just told: its next lines belong to it, whatever they hold."""
        return self._error_process is not None and not self.serving

    def ends_at(self, line: LogLine) -> bool:
        """Whether this line belongs to another start-up, later in the same log."""
        message = line.message
        if message.startswith(("vLLM API server version", *_ARGS)) or BANNER.search(message, 0, 200):
            return bool(self._engines or self._measured or self.failures or self.complete)
        if _engine_line(message):
            again = line.process in self._engines and (self._measured or bool(self.failures))
            return self.complete or again
        return False

    def take(self, line: LogLine) -> None:
        message = plain(line.message).strip()
        if not message:
            return
        if _engine_line(message):
            self._engines.add(line.process)
        for wording in WORDINGS if message.startswith(STARTS) else ():
            if message.startswith(wording.starts) and (found := wording.pattern.search(message)):
                for field, text in found.groupdict().items():
                    if text is not None:
                        self._keep(field, text, line.process, message)
        self._take_names(line, message)
        self._take_state(message)
        self._take_error(line, message)

    def _take_names(self, line: LogLine, message: str) -> None:
        for pattern, field in ((BANNER, "version"), (BANNER_MODEL, "model")):
            if banner := pattern.search(message, 0, 600):
                self._keep(field, banner[1], line.process, banner[0].lstrip("█▄▀ "))
        if message.startswith(_ARGS) and self.args_line is None:
            self.args, self.args_line = read_args(message), mask(message)[:2000]
        if kernel := KERNEL.match(message):
            name = f"{kernel[1]} for {kernel[2]}"
            self.kernel_line = self.kernel_line or message[:300]
            if name not in self.kernels and len(self.kernels) < 20:
                self.kernels.append(name)

    def _take_state(self, message: str) -> None:
        if message.startswith(GRAPHS_IN_BUDGET):
            self.graphs_in_budget = True
        if message.startswith(GRAPHS_OUTSIDE):
            self.graphs_in_budget = False
        if message.startswith(_READY):
            self.serving = self.complete = True
        if message.startswith("init engine ("):
            self.complete = True

    def _take_error(self, line: LogLine, message: str) -> None:
        """Keeps exceptions, and joins to one the lines of the same process that follow it without being a traceback."""
        root = ROOT_CAUSE.match(message) or USAGE_MISTAKE.match(message)
        if root and line.level in ("", "ERROR", "CRITICAL"):
            text = mask(message)[:1000]
            kept = self.errors if line.level else self.loose
            if any(words in message for words in SECOND_HAND):
                kept = self.second_hand
            if text not in kept and len(kept) < MAX_ERRORS:
                kept.append(text)
                self._error_process = line.process if kept is self.errors else None
            return
        if self._error_process is None:
            return
        same = line.process == self._error_process and line.level in ("ERROR", "CRITICAL")
        if same and not line.message.startswith((" ", "Traceback")):
            self.errors[-1] = f"{self.errors[-1]} {mask(message)}"[:1000]
        else:
            self._error_process = None

    def _keep(self, field: str, text: str, process: str, message: str) -> None:
        by_process = self.found.setdefault(field, {})
        if process in by_process or len(by_process) >= 1024:
            return
        value = typed(field, text)
        if value is None:
            note = f"Ignored an impossible {field} in: {message[:160]}"
            if note not in self.notes and len(self.notes) < 10:
                self.notes.append(note)
            return
        by_process[process] = (value, mask(message)[:2000])
        self._measured = self._measured or field in _MEASURED


def mask(message: str) -> str:
    """Hides what looks like a key or a token."""
    return SECRET.sub(r"\1***", message)


def typed(field: str, text: str) -> Any:
    """The value with its type, or None when it is impossible: too large for any machine, or negative where that means nothing."""
    if field in TEXTS:
        return text.lower() if field == "device" else text
    if field == "prefix_caching":
        return text == "True"
    number = float(text.replace(",", ""))
    most = _MOST.get(field) or next((most for unit, most in _MOST_BY_UNIT.items() if field.endswith(unit)), 1e12)
    if abs(number) > most or (number < 0 and field not in _SIGNED):
        return None
    return int(number) if field in _INTEGERS else number


def _engine_line(message: str) -> bool:
    return message.startswith("Initializing a") and " engine (v" in message[:60]
