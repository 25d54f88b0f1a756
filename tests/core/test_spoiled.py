"""What a gate that spoils a whole run does to answers and memory: decided code by code, and the same in every report."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest
from test_sabotage import CASES

from client.core import gates
from client.core.analysis import analyse
from client.core.findings import Estimate, Findings, Gate, Memory, Parity, Quality, Severity, Word, to_json
from client.core.gates import invalid
from client.core.names import NAMES
from client.core.verdict import ANSWERS, BESIDES, MEMORY, STANDS, spoils
from client.reports import markdown, terminal
from client.reports.tables import main_rows

WORSE = Parity(
    word=Word.WORSE,
    sentence="Less accurate: the loss is real.",
    iou_difference=Estimate(value=-0.47, low=-0.64, high=-0.28, n=30, unit="iou"),
    notes=("At IoU 0.5 the candidate loses 15 images.",),
    needs_images=40,
)
BYTES = {
    "bf16": Memory(kv_cache_tokens=1000, kv_cache_gib=4.9, weights_gib=15.5, requests_at_once=10.0, process_gib=20.0),
    "fp8": Memory(kv_cache_tokens=2400, kv_cache_gib=11.6, weights_gib=8.8, requests_at_once=24.0, process_gib=21.0),
}
SCORED = Quality(scores={"mean_iou": Estimate(value=0.9, low=0.8, high=0.95, n=30, unit="iou")}, answers=30)
FOUND = {
    "quality": {"bf16": SCORED, "fp8": SCORED},
    "parity": {"fp8": WORSE},
    "memory": BYTES,
    "memory_story": {"fp8": ("6.7 GiB became KV cache.",)},
}
SPOILING = [name for name, case in CASES.items() if case[1] is Severity.INVALID and case[0] in STANDS]


def of_the_run(gate: Gate) -> bool:
    return gate.severity is Severity.INVALID and not gate.metrics


def test_every_gate_of_the_whole_run_is_decided() -> None:
    """Read from the source: an `invalid` without metrics."""
    found = set()
    for module in sorted(Path(gates.__file__).parent.glob("*gates.py")):
        for call in ast.walk(ast.parse(module.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("invalid", "raised"):
                metrics = len(call.args) > 4 or any(word.arg == "metrics" for word in call.keywords)
                if not metrics and isinstance(call.args[0], ast.Constant):
                    found.add(call.args[0].value)
    assert len(found) > 12
    assert found == set(STANDS)


def test_what_a_code_leaves_standing_and_what_one_of_metrics_spoils_beside_them() -> None:
    late, wrong, other = (invalid(code, "", "") for code in ("generator_late", "engine_arguments", "a_new_one"))
    assert [spoils(late, name) for name in ("mean_iou", "kv_cache_tokens", "e2e_p50", "joules_per_request")] == [False, False, True, True]  # fmt: skip
    for gate in (wrong, other):
        assert all(spoils(gate, name) for name in NAMES)
    pictures = invalid("prompt_tokens", "", "", (), ("e2e_p50",))
    assert spoils(pictures, "mean_iou")
    assert not spoils(pictures, "kv_cache_tokens")
    assert set(BESIDES) == {"prompt_tokens"}


def findings_of(name: str) -> Findings:
    return analyse(CASES[name][2](), msgspec.structs.replace(CASES[name][3], **FOUND))


@pytest.mark.parametrize("name", SPOILING)
def test_accuracy_and_memory_of_a_spoiled_run(name: str) -> None:
    """15 of 30 requests timed out, the run was INVALID, and "worse: the loss is real" stood in every report; KV cache was "higher: +138 %"
    of servers with other engine arguments."""
    findings = findings_of(name)
    runwide = [gate for gate in findings.gates if of_the_run(gate)]
    if not runwide:
        pytest.skip("spoils some metrics only")
    answers, memory = (all(place in STANDS[gate.code] for gate in runwide) for place in (ANSWERS, MEMORY))
    pair = findings.comparison
    assert pair is not None
    assert (pair.parity.word is Word.WORSE) == answers
    assert pair.parity.iou_difference == WORSE.iou_difference, "the numbers stay"
    for text in (markdown.render(findings), to_json(findings).decode()):
        assert ("the loss is real" in text) == answers
    assert ("worse: −0.4700" in terminal.render(findings)) == answers
    rows = {row[0]: row[-1] for row in main_rows(findings)}
    assert (rows["Accuracy, mean IoU"] == "invalid") != answers
    for label in ("Model weights", "KV cache", "KV cache, tokens", "Its processes on the GPU"):
        assert (rows[label] == "invalid") != memory
    assert (pair.effects["kv_cache_tokens"].word is Word.HIGHER) == memory
    assert ("became KV cache" in " ".join(pair.memory_story)) == memory


def test_both_kinds_are_among_the_cases() -> None:
    codes = {CASES[name][0] for name in SPOILING}
    assert {"errors", "engine_arguments", "version_mismatch", "gpu_clocks", "server_restarted"} <= codes


def test_sizes_that_were_set_are_invalid_in_the_table_too() -> None:
    """`memory_settings` spoiled the effect on the KV cache, and its row said "+140 %"."""
    findings = findings_of("other memory settings")
    rows = {row[0]: row[-1] for row in main_rows(findings)}
    assert rows["KV cache, tokens"] == "invalid"
    assert rows["Model weights"] != "invalid"
    assert findings.comparison is not None
    assert findings.comparison.parity == WORSE


def test_what_was_not_measured_stays_so() -> None:
    findings = analyse(CASES["other engine arguments"][2]())
    assert findings.comparison is not None
    assert findings.comparison.parity.word is Word.NOT_MEASURED
