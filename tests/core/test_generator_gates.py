"""How late is too late: in an open loop any late send is another load, in a closed loop only an idle lane is."""

from __future__ import annotations

import msgspec
import pytest

from client.core.analysis import analyse
from client.core.findings import Severity
from client.core.plan import Arrival, LoadProfile
from tests.core import made

OPEN = LoadProfile(requests=32, arrival=Arrival.POISSON, rate_per_s=2.0)
CLOSED = LoadProfile(requests=32)
LATE = 40 * made.MS


def test_waiting_for_a_cap_is_told_and_is_not_called_late() -> None:
    capped = made.health("fp8", held_back=7, held_p99_ns=1_300 * made.MS, requests=20)
    plan = made.plan(load=msgspec.structs.replace(OPEN, max_in_flight=4))
    found = analyse(made.evidence(made.campaign(), plan=plan, health=(made.health("bf16", requests=20), capped)))
    (gate,) = [gate for gate in found.gates if gate.code == "held_back"]
    assert gate.fact.startswith("7 arrivals of 40 waited for the client-side cap of 4, up to 1300.0 ms (p99)")
    assert not [gate for gate in found.gates if gate.code.startswith("generator_late")]


@pytest.mark.parametrize(
    ("load", "lags", "code", "severity", "valid"),
    [
        (OPEN, {"send_lag_p99_ns": LATE}, "generator_late", Severity.INVALID, False),
        (CLOSED, {"send_lag_p50_ns": LATE, "send_lag_p99_ns": LATE}, "generator_late", Severity.INVALID, True),
        (CLOSED, {"send_lag_p99_ns": LATE}, "generator_late_at_times", Severity.FLAG, True),
        (CLOSED, {"send_lag_p50_ns": made.MS // 10}, None, None, True),
    ],
)
def test_lateness_is_judged_by_what_it_changes(
    load: LoadProfile, lags: dict[str, int], code: str | None, severity: Severity | None, valid: bool
) -> None:
    evidence = made.evidence(
        made.campaign(), plan=made.plan(load=load), health=(made.health("bf16"), made.health("fp8", **lags))
    )
    found = analyse(evidence)
    late = [gate for gate in found.gates if gate.code.startswith("generator_late")]
    assert [gate.code for gate in late] == ([code] if code else [])
    assert [gate.severity for gate in late] == ([severity] if severity else [])
    assert found.valid is valid, "end-to-end latency counts from the send, so a closed loop keeps it"
