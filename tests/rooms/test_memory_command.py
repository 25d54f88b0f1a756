"""`python -m client.memory` as a person uses it: real files in, text and exit codes out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from client.core.loglines import MAX_LINE
from client.memory import main

GOLDEN = Path(__file__).parent.parent / "golden"
FP8 = str(GOLDEN / "logs" / "vllm-0.20.2-h100-fp8.log")
BF16 = str(GOLDEN / "logs" / "vllm-0.20.2-h100-bf16.log")
PAGE = str(GOLDEN / "logs" / "vllm-0.20.2-h100-fp8.metrics.txt")
CONFIG = str(GOLDEN / "config" / "qwen2-vl-7b.json")
TOTAL = "79.1787"


def column(text: str) -> list[float]:
    """The GiB of the parts table, its last one the budget."""
    rows = text.split("source\n")[1].split("\n\n")[0].splitlines()[1:]
    return [float(part) for row in rows for part in row.split("  ") if part.strip().replace(".", "", 1).isdigit()]


def test_the_table_adds_up_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for log in (FP8, BF16):
        assert main(["--server-log", log, "--gpu-gib", TOTAL]) == 0
        *parts, budget = column(capsys.readouterr().out)
        assert len(parts) == 4
        assert round(sum(parts), 2) == budget == 35.63


def test_log_page_and_config_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--server-log", FP8, "--metrics", PAGE, "--config", CONFIG, "--gpu-gib", TOTAL, "--capability", "9.0"])
        == 0
    )
    out = capsys.readouterr().out
    for piece in (
        "vLLM 0.20.2",
        "quantization fp8",
        "442,224 tokens of 57,344 bytes",
        "412 of 1,068 tokens have room",
        "1,024 at most, --max-num-seqs (default of vLLM 0.20.2 on a large GPU)",
        "native fp8",
        "16,582,751,232",
        "9,383,752,704",
    ):
        assert piece in out
    assert "CONTRADICTION" not in out
    assert "do not add up" not in out


def test_a_wrong_gpu_is_a_contradiction(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-log", FP8, "--capability", "8.6"]) == 0
    assert "CONTRADICTION" in capsys.readouterr().out


def test_the_difference_of_two_logs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-log", FP8, "--baseline-log", BF16, "--gpu-gib", TOTAL, "--gpu-name", "H100"]) == 0
    out = capsys.readouterr().out
    assert "from 315,888 to 442,224 (+40 %)" in out
    assert "H100 (79.2 GiB)" in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-log", FP8, "--config", CONFIG, "--gpu-gib", TOTAL, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["memory"]["weights_gib"] == 8.79
    assert told["memory"]["source"]["total_gib"] == "--gpu-gib"
    assert told["kernel"]["kind"] == "native fp8"
    assert told["estimate"]["weight_bytes"]["bf16"] == 16_582_751_232
    assert told["estimate"]["fits"]["fp8"]["requests"] == pytest.approx(412, abs=4)


def test_a_page_or_a_config_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--metrics", PAGE]) == 0
    out = capsys.readouterr().out
    assert "442,224 tokens" in out
    assert "give --gpu-gib" in out
    assert main(["--config", CONFIG, "--gpu-gib", "16"]) == 0
    assert "4.01 missing" in capsys.readouterr().out


def test_an_estimate_says_what_it_assumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--gpu-gib", "48"]) == 0
    out = capsys.readouterr().out
    assumed = out.split("Assumed\n")[1]
    for piece in ("48.00 GiB as torch sees it", "utilization 0.92", "3.2 GiB for activations", "--max-num-seqs 256"):
        assert piece in assumed
    assert "Budget 44.16 GiB" in out
    given = ["--utilization", "0.9", "--overhead-gib", "3", "--dtype", "float32"]
    assert main(["--config", CONFIG, "--gpu-gib", "79.2", *given]) == 0
    out = capsys.readouterr().out
    assumed = out.split("Assumed\n")[1]
    assert "utilization" not in assumed
    assert "activations" not in assumed
    assert "--max-num-seqs 1,024, vLLM's default on such a GPU (256 on an A100)" in assumed
    assert "33,165,502,464" in out


def test_an_estimate_takes_the_servers_own_figures_without_assuming(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-log", FP8, "--config", CONFIG, "--gpu-gib", TOTAL, "--json"]) == 0
    assumed = json.loads(capsys.readouterr().out)["estimate"]["assumptions"]
    assert len(assumed) == 1
    assert assumed[0].startswith("a card of 79.18 GiB")


def test_a_log_that_exceeds_its_card_gives_the_estimate_no_overhead_of_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-log", FP8, "--config", CONFIG, "--gpu-gib", "47.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["estimate"]["fits"]["bf16"]["overhead_gib"] == 3.2


def test_a_failed_start_is_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server-log", str(GOLDEN / "logs" / "vllm-0.32.0-cpu-fp8_per_block.log")]) == 0
    out = capsys.readouterr().out
    assert "START-UP FAILED: ValueError: Failed to find a kernel" in out.splitlines()[1]


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(Path(FP8).read_text()))
    assert main(["--server-log", "-"]) == 0
    assert "8.79" in capsys.readouterr().out


def test_a_log_in_utf_16_with_broken_bytes_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = tmp_path / "wide.log"
    wide.write_bytes(Path(FP8).read_text().encode("utf-16"))
    broken = tmp_path / "broken.log"
    broken.write_bytes(b"\xff\x00\xfe" + Path(FP8).read_bytes() + b"\xc3")
    for log in (wide, broken):
        assert main(["--server-log", str(log)]) == 0
        assert "442,224" in capsys.readouterr().out


def test_the_tail_of_a_huge_line_is_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "huge.log"
    log.write_text("x" * MAX_LINE + "Available KV cache memory: 99.0 GiB\n" + Path(FP8).read_text())
    assert main(["--server-log", str(log), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert (facts["kv_cache_gib"], facts["starts"]) == (23.62, 1)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "Nothing to read"),
        (["--server-log", "/no/such.log"], "/no/such.log cannot be read: No such file"),
        (["--server-log", str(GOLDEN)], "Is a directory"),
        (["--server-log", CONFIG], "holds no line of a vLLM start-up"),
        (["--metrics", CONFIG], "no vllm:cache_config_info"),
        (["--config", PAGE], "is not JSON"),
        (["--config", CONFIG, "--gpu-gib", "-1"], "--gpu-gib -1"),
        (["--config", CONFIG, "--gpu-gib", "nan"], "--gpu-gib nan"),
        (["--config", CONFIG, "--utilization", "90"], "--utilization 90"),
        (["--config", CONFIG, "--overhead-gib", "-3"], "--overhead-gib -3"),
        (["--config", CONFIG, "--kv-cache-dtype", "int3"], "int3"),
        (["--server-log", FP8, "--capability", "Ada"], "'Ada' is no compute capability"),
        (["--metrics", PAGE, "--baseline-log", BF16], "--baseline-log needs --server-log"),
    ],
)
def test_mistakes_are_exit_code_2_and_a_sentence(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "examples:" in capsys.readouterr().out
