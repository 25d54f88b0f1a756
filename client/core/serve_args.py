"""What a server was started with (`vllm serve` arguments) -> a dict, spelled as vLLM itself reads it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from client.core.counters import IMAGE, PREFIX

PRECISION_ARGS = (
    "--quantization",
    "--model",
    "--served-model-name",
    "--port",
    "--host",
    "--kv-cache-dtype",
    "--dtype",
    "--quantization-config",
)
"""Engine arguments in which the arms of a precision comparison may differ, with the value that follows them."""
SHORT = {
    "-q": "--quantization",
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
}
SET = "set"
"""The value of a flag that has none."""
_NO = frozenset({"false", "0", "no", "off"})


def read_arguments(args: tuple[str, ...]) -> dict[str, str]:
    """`--a 1 --b=2 --c` -> {--a: 1, --b: 2, --c: "set"}."""
    found: dict[str, str] = {}
    key = ""
    for part in args:
        if part.startswith("-") and not part[1:2].isdigit():
            name, equals, value = part.partition("=")
            key = _spelled(name)
            found[key] = value if equals else SET
        elif key:
            found[key] = part if found[key] == SET else f"{found[key]} {part}"
    return found


def _spelled(name: str) -> str:
    """vLLM's parser takes --max_model_len for --max-model-len; of --compilation-config.use_inductor only what stands before the dot."""
    flag, dot, rest = name.partition(".")
    return SHORT.get(flag, flag.replace("_", "-") + dot + rest)


DEFAULTS = {"--tensor-parallel-size": "1", "--pipeline-parallel-size": "1", "--data-parallel-size": "1"}
"""Said or not, they are the same."""


def beyond_precision(args: tuple[str, ...]) -> dict[str, str]:
    """Without those that precision may change, nor those that say what goes without saying; one value in one spelling."""
    found = {key: _one_spelling(value) for key, value in read_arguments(args).items() if key not in PRECISION_ARGS}
    return {key: value for key, value in found.items() if DEFAULTS.get(key) != value}


def _one_spelling(value: str) -> str:
    """0.90 is 0.9, {"image": 1} is {"image":1}, and a flag that is set is true."""
    if value.lower() in (SET, "true"):
        return SET
    try:
        return json.dumps(json.loads(value), sort_keys=True)
    except ValueError:
        return value


def caches_off(args: tuple[str, ...], cache_config: Mapping[str, str], told: Mapping[str, object]) -> frozenset[str]:
    """Of PREFIX and IMAGE, those whose caches that are known to be off: by the arguments, by the page's cache configuration, or by the arguments
    that the server repeated in its log (`told`, spelled with underscores)."""
    given: dict[str, str] = {key.lstrip("-").replace("-", "_"): value for key, value in read_arguments(args).items()}
    given = {key: str(value) for key, value in told.items()} | given
    config = str(cache_config.get("enable_prefix_caching", ""))
    found = set()
    if "no_enable_prefix_caching" in given or _no(given.get("enable_prefix_caching", config)):
        found.add(PREFIX)
    unused = given.get("disable_mm_preprocessor_cache", "false")
    if _nothing(given.get("mm_processor_cache_gb")) or not _no(unused):
        found.add(IMAGE)
    return frozenset(found)


def _no(text: str) -> bool:
    return text.strip().lower() in _NO


def _nothing(text: str | None) -> bool:
    try:
        return text is not None and float(text) == 0
    except ValueError:
        return False
