"""The border: what a user may write, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.cli import build_parser
from client.config import base_url, build_plan
from client.core.plan import Arrival, Design, RunPlan
from client.errors import UsageError
from client.remote import unused_proxies


def plan(*argv: str, env: dict[str, str] | None = None) -> RunPlan:
    return build_plan(build_parser().parse_args(list(argv)), env or {})


def test_without_arguments_the_pair_is_compared() -> None:
    asked = plan()
    assert [target.name for target in asked.targets] == ["bf16", "fp8"]
    assert asked.design is Design.INTERLEAVED
    assert asked.load.requests == 30
    assert not asked.simulated


def test_one_server_at_a_time_asks_for_two_stays_of_thirty() -> None:
    assert plan("--design", "serial").load.requests == 60
    assert plan("--isolate").load.requests == 60
    assert plan("--isolate", "--requests", "12").load.requests == 12


def test_one_target_is_measured_alone() -> None:
    asked = plan("--target", "fp8")
    assert [target.name for target in asked.targets] == ["fp8"]
    assert asked.design is Design.SINGLE


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file() -> None:
    env = {"HALFWEIGHT_FP8_URL": "http://env:1", "HALFWEIGHT_BF16_URL": "http://env:2"}
    asked = plan("--url", "fp8=http://flag:9/v1/", env=env)
    assert asked.targets[0].base_url == "http://env:2"
    assert asked.targets[1].base_url == "http://flag:9"


def test_a_primary_that_the_run_can_measure_is_taken() -> None:
    assert plan("--primary", "e2e_p95", "--requests", "59").primary == "e2e_p95"
    assert plan("--primary", "e2e_p99", "--duration", "60").primary == "e2e_p99", "nobody knows yet how many it will be"
    assert plan("--primary", "goodput_per_s", "--slo", "e2e=2s").primary == "goodput_per_s"


def test_a_target_that_no_file_knows_needs_an_address() -> None:
    with pytest.raises(UsageError, match=r"no such target.*Known: bf16, fp8.*--url int4="):
        plan("--target", "int4")
    assert plan("--target", "int4", "--url", "http://h:1").targets[0].precision == "int4"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--requests", "0"], r"--requests 0: must be at least 1"),
        (["--concurrency", "0"], r"--concurrency 0"),
        (["--image-size", "big"], r"--image-size big: not a size"),
        (["--image-size", "9999999x1"], r"sides go from 56"),
        (["--requests", "5", "--duration", "5"], r"both say when to stop"),
        (["--rate", "5", "--concurrency", "5"], r"an open loop has no fixed number"),
        (["--rate", "0"], r"--rate 0.0: must be above 0"),
        (["--rate", "inf"], r"--rate inf"),
        (["--rate", "200000"], r"100,000 at most"),
        (["--rate", "0", "--rate-end", "0", "--duration", "5"], r"sends nothing"),
        (["--rate-end", "5", "--duration", "5"], r"no ramp"),
        (["--rate", "5", "--sweep", "rate=1,2"], r"each says which load"),
        (["--sweep", "concurrency=1,2", "--concurrency", "4"], r"--sweep and --concurrency together"),
        (["--replay", "x", "--concurrency", "4"], r"--replay and --concurrency together"),
        (["--replay", "x", "--arrival", "constant"], r"--arrival and --replay together"),
        (["--replay", "x", "--burstiness", "2"], r"--burstiness and --replay together"),
        (["--arrival", "constant"], r"--arrival without --rate"),
        (["--burstiness", "2"], r"--burstiness without --rate"),
        (["--max-in-flight", "2"], r"--max-in-flight without --rate"),
        (["--sweep", "concurrency=1,2", "--max-in-flight", "2"], r"--max-in-flight without --rate"),
        (["--rate", "5", "--arrival", "poisson", "--burstiness", "2"], r"only gamma arrivals"),
        (["--rate", "100000", "--duration", "604800"], r"more than one run holds"),
        (["--requests", "99999999999"], r"more than one run holds"),
        (["--sweep", "concurrency=1,2", "--requests", "15000000"], r"30,000,000 requests to each target"),
        (["--concurrency", "100001"], r"--concurrency 100001: must be 100,000 at most"),
        (["--workers", "3", "--concurrency", "2"], r"1 of them would have nothing to send"),
        (["--workers", "3", "--sweep", "concurrency=1,2"], r"1 of them would have nothing to send"),
        (["--workers", "3", "--rate", "5", "--max-in-flight", "2"], r"no place for each"),
        (["--workers", "1000", "--concurrency", "2000"], r"256 at most"),
        (["--simulate", "a100"], r"no such profile.*rtx-6000-ada, h100"),
        (["--url", "http://h:1"], r"one and the same server"),
        (["--url", "fp8=http://127.0.0.1:8000"], r"targets bf16 and fp8 are one and the same server"),
        (["--url", "fp8=http://localhost:8000/v1"], r"one and the same server"),
        (["--url", "fp8=ftp://h"], r"target fp8, url: .*no http"),
        (["--url", "fp8=http://user:secret@h"], r"must not stand in the URL"),
        (["--url", "fp8=http://h:0"], r"'h:0' is no host and port"),
        (["--url", "fp8=http://a..b"], r"is no host and port"),
        (["--url", f"fp8=http://{'a' * 64}.b"], r"is no host and port"),
        (["--url", "fp8=http://xn--"], r"is no host and port"),
        (["--url", "fp8=http://xn--a.b"], r"is no host and port"),
        (["--price", "fp8=-3"], r"target fp8, price_usd_per_hour"),
        (["--primary", "speed"], r"--primary speed: no such metric.*e2e_p50"),
        (["--primary", "error_rate"], r"--primary error_rate: no such metric"),
        (["--primary", "goodput_per_s"], r"without --slo.*--slo ttft=500ms"),
        (["--primary", "e2e_p99"], r"e2e_p99 with 30 requests: .*needs at least 299.*--requests 299"),
        (["--primary", "ttft_p95", "--requests", "58"], r"needs at least 59 .*use ttft_p50"),
        (["--fail-if", "fp8.e2e_p99 > 2s"], r'--fail-if "fp8.e2e_p99 > 2s" with 30 requests.*at least 299'),
        (["--fail-if", "fp8.goodput_per_s < 3"], r"without --slo"),
        (["--primary", "tpot_p50", "--max-tokens", "1"], r"a single token has no pace"),
        (["--min-effect", "lots"], r"cannot be read.*3%, or 0.03"),
        (["--min-effect", "0"], r"must lie above 0%"),
        (["--target", "fp8", "--model", "bf16=x"], r"names the target bf16, which is not measured"),
        (["--targets", "/nonexistent.toml"], r"cannot read /nonexistent.toml"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], r"NO_SUCH_VARIABLE is empty or not set"),
        (["--workers", "many"], r"not a number"),
        (["--temperature", "9"], r"must lie from 0 to 2"),
        (["--logprobs"], r"--logprobs without --quality"),
        (["--quality", "9", "--logprobs", "21"], r"--logprobs 21: servers list 1 to 20"),
        (["--quality", "9", "--logprobs", "-1"], r"--logprobs -1"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        plan(*argv)
    assert caught.value.hint
    assert "\n" not in caught.value.fact


def test_a_password_in_a_url_is_never_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        plan("--url", "fp8=http://user:hunter2@h")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[targets.x]\nurl = 3\n", r"target x, url"),
        ("[targets.x]\nurl = 'http://h'\ncolour = 'red'\n", r"target x, colour"),
        ("[targets.x]\n", r"target x, url: Field required"),
        ("targets = 3\n", r"no \[targets.NAME\] tables"),
        ("[targets\n", r"is no TOML"),
    ],
)
def test_a_wrong_targets_file_names_table_and_field(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "targets.toml"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        plan("--targets", str(file), "--target", "x")


def test_a_simulated_pair_needs_no_address() -> None:
    asked = plan("--simulate", "h100")
    assert asked.simulated
    assert all(target.simulated for target in asked.targets)


def test_open_loop_is_poisson_unless_said_otherwise() -> None:
    assert plan("--rate", "2").load.arrival is Arrival.POISSON
    assert plan().load.arrival is Arrival.CLOSED
    assert plan("--rate", "2", "--burstiness", "0.5").load.arrival is Arrival.GAMMA  # as in vLLM's benchmark
    assert plan("--sweep", "rate=1,2", "--arrival", "constant").load.arrival is Arrival.CONSTANT


def test_what_goes_together_is_planned() -> None:
    ramp = plan("--rate", "0", "--rate-end", "5", "--requests", "50").load
    assert (ramp.rate_per_s, ramp.rate_end_per_s, ramp.requests) == (0, 5, 50)
    assert plan("--rate", "5", "--rate-end", "0", "--duration", "5").load.rate_end_per_s == 0
    replay = plan("--replay", "x", "--max-in-flight", "4").load
    assert (replay.requests, replay.duration_s, replay.max_in_flight) == (None, None, 4)
    assert plan("--replay", "x", "--requests", "7").load.requests == 7
    assert plan("--workers", "2", "--sweep", "concurrency=1,2").load.workers == 2
    assert plan("--workers", "auto").load.workers == 0


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://h:8000/v1", "http://h:8000"),
        ("http://h:8000/v1/", "http://h:8000"),
        ("h:8000", "http://h:8000"),
        ("https://api.runpod.ai/v2/abc/openai/v1", "https://api.runpod.ai/v2/abc/openai"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("http://xn--bcher-kva.example./v1", "http://xn--bcher-kva.example."),
        ("http://host_name:1", "http://host_name:1"),
    ],
)
def test_base_urls_in_every_usual_form(text: str, url: str) -> None:
    assert base_url(text) == url


def test_tokens_are_asked_for_only_with_the_flag() -> None:
    assert plan("--quality", "9").logprobs == 0
    assert plan("--quality", "9", "--logprobs").logprobs == 5
    assert plan("--quality", "9", "--logprobs", "3").logprobs == 3


def test_a_proxy_in_the_environment_is_told_and_not_used() -> None:
    assert unused_proxies({"PATH": "/bin", "HTTPS_PROXY": ""}) is None
    told = unused_proxies({"http_proxy": "http://p:1", "ALL_PROXY": "socks5://p:2"})
    assert told is not None
    assert "http_proxy, ALL_PROXY is set and not used" in told


@pytest.mark.parametrize("text", ["'", '--model "x', "a\\"])
def test_quotes_that_are_open_are_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be split into arguments") as told:
        plan("--target", "fp8", "--engine-args", f"fp8={text}")
    assert "--engine-args" in str(told.value)
    with pytest.raises(UsageError, match="HALFWEIGHT_FP8_ARGS"):
        plan("--target", "fp8", env={"HALFWEIGHT_FP8_ARGS": text})
