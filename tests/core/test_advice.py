"""Each candidate of several is a question of its own."""

from __future__ import annotations

import made
import msgspec
from test_server_gates import THREE, three

from client.core.analysis import analyse
from client.core.findings import Severity, Word
from client.core.gates import about, flag, invalid
from client.core.table import RecordTable


def test_what_spoils_one_candidate_is_no_matter_of_another() -> None:
    """int4 alone gives longer answers."""
    evidence, pair = three(), made.campaign(per_block=16)
    third = [
        msgspec.structs.replace(r, target="int4", completion_tokens=30)
        for r in made.campaign(3, per_block=16)
        if r.target == "fp8"
    ]
    found = analyse(msgspec.structs.replace(evidence, records=RecordTable.from_records(pair + third)))
    assert [(g.code, g.severity, g.targets) for g in found.gates if g.code == "output_lengths"] == [
        ("output_lengths", Severity.INVALID, ("bf16", "int4"))
    ]
    words = {pair.candidate: pair.effects["e2e_p50"].word for pair in found.comparisons}
    assert words["int4"] is Word.INVALID
    assert words["fp8"] is not Word.INVALID
    assert "No recommendation between int4 and bf16" in found.recommendation.sentence
    assert "No recommendation between fp8 and bf16" not in found.recommendation.sentence


def test_which_gates_concern_a_comparison() -> None:
    pair, both = invalid("output_lengths", "f", "s", ("bf16", "int4")), invalid("gpu_clocks", "f", "s", ("fp8", "int4"))
    alone, run = flag("timeouts", "f", "s", ("fp8",)), invalid("other_question", "f", "s")
    gates = (pair, both, alone, run)
    assert THREE[0] == "bf16"
    versions = invalid("version_mismatch", "f", "s", THREE)
    assert about((versions,), "bf16", "fp8") == about((versions,), "bf16", "int4") == (versions,)
    assert about(gates, "bf16", "fp8") == (both, alone, run)
    assert about(gates, "bf16", "int4") == (pair, both, run)
