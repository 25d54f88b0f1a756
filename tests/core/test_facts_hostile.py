"""Facts from logs that mean harm: secrets, absurd figures, any text, lines that are costly to read."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serverlog import WORDED, recorded, told

from client.core.facts import TargetFacts, read_cache_config, read_lines, read_log


def test_a_negative_cache_is_kept_and_said() -> None:
    facts = read_log("Available KV cache memory: -2.81 GiB\n")
    assert facts.kv_cache_gib == -2.81
    assert any("-2.81 GiB" in note for note in facts.notes)


def test_impossible_figures_are_left_out_and_said() -> None:
    facts = read_log(
        "Model loading took -3.0 GiB and 1 seconds\nGPU KV cache size: 999,999,999,999,999 tokens\ngpu_memory_utilization=7.5\n"
    )
    assert (facts.weights_gib, facts.kv_cache_tokens, facts.utilization) == (None, None, None)
    assert len(facts.notes) >= 3


def test_secrets_never_leave_the_log() -> None:
    line = "non-default args: {'model': 'm', 'api_key': ['sk-hush'], 'hf_token': 'hf_hush', 'max_num_batched_tokens': 8192}\n"
    facts = read_log(line)
    assert "hush" not in msgspec.json.encode(facts).decode()
    assert facts.engine_args["max_num_batched_tokens"] == 8192


def test_nothing_that_a_terminal_obeys_comes_out() -> None:
    log = (
        "non-default args: {'model': 'a\\x1b]0;owned\\x07\\u202eb', '\\x9b1m': 1}\n"
        "INFO 11-25 00:00:00 [a.py:1] Initializing an LLM engine (v0.6.3) with config: model='m\x1b[2Jx\x07y'\n"
        "ERROR 11-25 00:00:00 [a.py:1] ValueError: \x1b]0;owned\x07 bad\n"
    )
    text = msgspec.json.encode(read_log(log)).decode()
    assert not any(sign in text for sign in ("\\u001b", "\\u0007", "\x9b", "\u202e"))
    assert read_log(log).model == "mxy"


@given(st.text(max_size=2000))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_facts(text: str) -> None:
    assert isinstance(read_log(text), TargetFacts)
    read_cache_config(text)
    read_cache_config("vllm:cache_config_info{" + text)


NUMBERISH = st.from_regex(r"-?[0-9.,e+]{1,24}", fullmatch=True)


@given(
    st.sampled_from([message for message, _ in WORDED]),
    st.lists(NUMBERISH, min_size=8, max_size=8),
    st.integers(0, 400),
)
@settings(max_examples=400, deadline=None)
def test_no_wording_gives_an_absurd_figure_silently(message: str, numbers: list[str], cut: int) -> None:
    """Every number of a real line is replaced by nonsense, and the line is cut anywhere."""
    parts = iter(numbers * 20)
    mangled = "".join(next(parts) if piece.isdigit() else piece for piece in _split_digits(message))[: cut or None]
    facts = read_log(mangled)
    for field, value in msgspec.structs.asdict(facts).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if field in ("kv_cache_gib", "non_torch_gib"):
            assert value >= 0 or field != "kv_cache_gib" or facts.notes
            assert abs(value) <= 1e5
        else:
            assert 0 <= value <= 1e12


def _split_digits(text: str) -> list[str]:
    pieces: list[str] = []
    for character in text:
        if pieces and pieces[-1].isdigit() and character.isdigit():
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


HOSTILE = [
    "(" * 60_000, "[" * 60_000, "{" * 60_000, " " * 60_000, "\x1b[" * 30_000, "a" * 60_000 + "Error: ", "non-default args: " + "{'a': " * 10_000,
    "non-default args: " + "[" * 60_000, "args: Namespace(" + "a=" * 30_000, "args: Namespace(" + "a='" * 20_000, "Selected " + "Kernel" * 10_000 + " for x",
    "init engine (" + ") took " * 8_000, "Free memory on device " + "(" * 60_000, "Quantizing 1 layers of types: " + "x" * 60_000,
    "Memory profiling takes " + "1" * 60_000, "█ version " + "1." * 30_000, "INFO " * 12_000, "Initializing an LLM engine (v0.6.3) " + "model='" * 8_000,
    "{\"message\": \"" + "\\u0000" * 9_000 + "\"}", "{\"message\": " * 5_000, "api_key" * 8_000 + " took GiB non-default args: ", "token: " * 8_000 + "GiB",
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_lines_cost_no_more_than_their_length(line: str) -> None:
    """60 kB each, ten times: well under the second even on a slow machine; a quadratic pattern would take minutes."""
    begin = time.process_time()
    read_log("\n".join([line] * 10))
    assert time.process_time() - begin < 3.0


def test_a_huge_line_is_cut() -> None:
    begin = time.process_time()
    assert told("Model loading took 5.0 GiB and 1 seconds " + "x" * 20_000_000) == {"weights_gib": 5.0, "load_s": 1.0}
    assert time.process_time() - begin < 2.0


def test_a_long_log_is_read_in_linear_time_and_flat_memory() -> None:
    """20 MB of what a busy server writes, as a stream."""
    access = '(APIServer pid=1) INFO:     127.0.0.1:51236 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
    begin = time.process_time()
    facts = read_lines(
        line
        for text in (recorded("vllm-0.20.2-h100-fp8").splitlines(), (access for _ in range(220_000)))
        for line in text
    )
    assert facts.weights_gib == 8.79
    assert time.process_time() - begin < 5.0
