"""Token evidence: read from a real answer, compared only behind the same text, and never larger than the true divergence."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core.tokens import TokenStep, kl_from_top, read_steps, shared_positions, token_agreement

# `choices[0].logprobs.content` of vLLM 0.32.0 on the CPU, tiny Qwen2-VL with random weights, top_logprobs 3 (first two entries).
RECORDED = [
    {
        "token": "",
        "logprob": -6.931464195251465,
        "bytes": [],
        "top_logprobs": [
            {"token": "", "logprob": -6.931464195251465, "bytes": []},
            {"token": "", "logprob": -6.931464195251465, "bytes": []},
            {"token": "", "logprob": -6.931464672088623, "bytes": []},
        ],
    },
    {
        "token": "\n",
        "logprob": -6.931464195251465,
        "bytes": [10],
        "top_logprobs": [
            {"token": "\n", "logprob": -6.931464195251465, "bytes": [10]},
            {"token": "", "logprob": -6.931464672088623, "bytes": []},
            {"token": "", "logprob": -6.931464672088623, "bytes": []},
        ],
    },
]


def step(token: str, **top: float) -> TokenStep:
    return TokenStep(token, {name: math.log(p) for name, p in top.items()})


def test_reads_a_recorded_answer() -> None:
    first, second = read_steps(RECORDED)
    assert (first.token, second.token) == ("", "\n")
    assert math.exp(first.top[""]) == pytest.approx(3 / 1024, rel=1e-3)
    assert math.exp(second.top["\n"]) == pytest.approx(1 / 1024, rel=1e-3)


def test_reading_stops_at_the_first_entry_that_is_not_one() -> None:
    assert read_steps(None) == ()
    good = {"token": "a", "top_logprobs": [{"token": "a", "logprob": -0.1}]}
    for bad in ({}, {"token": 3, "top_logprobs": []}, {"token": "a", "top_logprobs": [{"token": "a", "logprob": 4.0}]}):
        assert len(read_steps([good, bad, good])) == 1
    (impossible,) = read_steps([{"token": "a", "top_logprobs": [{"token": "a", "logprob": -9999.0}]}])
    assert math.exp(impossible.top["a"]) < 1e-40


def test_positions_end_where_the_texts_part() -> None:
    mine = [step("a", a=0.9), step("b", b=0.6, c=0.4), step("x", x=1.0)]
    yours = [step("a", a=0.8), step("c", b=0.4, c=0.6), step("x", x=1.0)]
    assert shared_positions(mine, yours) == [(mine[0], yours[0]), (mine[1], yours[1])]
    assert shared_positions(mine, []) == []


def test_divergence_by_hand() -> None:
    a, b = step("a", a=0.5, b=0.5), step("a", a=0.9, b=0.1)
    assert kl_from_top(a, b) == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), abs=1e-5)
    assert kl_from_top(a, a) == 0.0
    assert kl_from_top(step("a", a=1.0), step("b", b=1.0)) == 0.0, "nothing is known of the other's tokens"


weights = st.lists(st.floats(0.001, 1.0), min_size=6, max_size=6)


@given(p=weights, q=weights, shown=st.integers(1, 6))
def test_top_tokens_never_claim_more_than_the_true_divergence(p: list[float], q: list[float], shown: int) -> None:
    full_p, full_q = [v / sum(p) for v in p], [v / sum(q) for v in q]
    true = sum(a * math.log(a / b) for a, b in zip(full_p, full_q, strict=True))

    def top(full: list[float]) -> TokenStep:
        best = sorted(range(6), key=lambda k: -full[k])[:shown]
        return TokenStep("0", {str(k): math.log(full[k]) for k in best})

    seen = kl_from_top(top(full_p), top(full_q))
    assert 0.0 <= seen <= true + 1e-5
    if shown == 6:
        assert seen == pytest.approx(true, abs=1e-4)


def test_agreement_over_images() -> None:
    draw = random.Random(1)
    same, turned = step("a", a=0.7, b=0.2), step("a", a=0.3, b=0.6)
    pairs = [(f"{k}", [same] * 10, [turned if draw.random() < 0.1 else same for _ in range(10)]) for k in range(50)]
    found = token_agreement(pairs)
    turns = sum(b is turned for _, _, steps in pairs for b in steps)
    assert found.positions == 500
    assert found.top1.value == pytest.approx(1 - turns / 500)
    assert found.kl_nats.value == pytest.approx(turns / 500 * kl_from_top(same, turned))
    assert found.top1.low is not None
    assert found.top1.high is not None
    assert found.top1.low < 1 - turns / 500 < found.top1.high


def test_full_agreement_keeps_an_honest_interval_and_few_images_have_none() -> None:
    pairs = [(f"{k}", [step("a", a=0.9)], [step("a", a=0.9)]) for k in range(40)]
    found = token_agreement(pairs)
    assert (found.top1.value, found.kl_nats.value) == (1.0, 0.0)
    assert found.top1.low == pytest.approx(0.912, abs=0.001)
    few = token_agreement(pairs[:3])
    assert few.top1.value is None
    assert few.positions == 3
