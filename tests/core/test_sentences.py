"""The sentence on the load says what was sent."""

from __future__ import annotations

import made

from client.core.plan import Arrival, LoadProfile
from client.core.sentences import load_sentence


def test_a_ramp_says_how_often_it_runs() -> None:
    load = LoadProfile(arrival=Arrival.CONSTANT, rate_per_s=1, rate_end_per_s=9, requests=None, duration_s=60)
    ramp = "a ramp from 1 to 9 requests per second"
    assert load_sentence(made.plan(load=load)) == f"{ramp}, 4 times, constant arrivals (open loop), 60 s per arm"
    once = LoadProfile(arrival=Arrival.CONSTANT, rate_per_s=1, rate_end_per_s=9, requests=1)
    assert load_sentence(made.plan(load=once)).startswith(f"{ramp}, constant arrivals")
