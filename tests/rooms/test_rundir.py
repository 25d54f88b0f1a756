"""The run directory survives what happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from client.core.evidence import ServerEvidence
from client.core.plan import RunPlan, Target
from client.core.records import ImageFact, Outcome, Phase, PhaseWindow, RequestRecord, ServerSnapshot
from client.core.secrets import Mask
from client.errors import RunDirError
from client.rundir import MAX_LINE_BYTES, JsonLines, Manifest, RunDir, lines_of, read_lines, read_run

PLAN = RunPlan(targets=(Target(name="bf16", base_url="http://h:1"), Target(name="fp8", base_url="http://h:2")))


def record(index: int, target: str = "bf16") -> RequestRecord:
    return RequestRecord(
        target=target,
        phase=Phase.MEASURE,
        index=index,
        image_id=f"i{index}",
        outcome=Outcome.OK,
        intended_ns=index,
        block=0,
    )


def begun(tmp_path: Path) -> RunDir:
    run_dir = RunDir.create(tmp_path)
    run_dir.write_manifest(Manifest(run_id=run_dir.run_id, started_utc="2026-11-25T00:00:00Z", plan=PLAN))
    return run_dir


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    run_dir = begun(tmp_path)
    for i in range(3):
        run_dir.append("requests", record(i))
    fact = ImageFact(image_id="i0", width=4, height=3, sent_bytes=9, sha256="x", boxes=((0.1, 0.2, 0.3, 0.4),))
    window = PhaseWindow(target="fp8", phase=Phase.MEASURE, start_ns=1, end_ns=2, block=0)
    run_dir.append("images", fact)
    run_dir.append("phases", window)
    page = ServerSnapshot(target="fp8", mono_ns=1, wall_ns=2, text="vllm:x 1.0\n")
    run_dir.write_server(ServerEvidence(target="fp8", version="0.20.2", before=page, log_text="hello\n"))
    run_dir.close()

    evidence = read_run(run_dir.path)
    assert evidence.plan == PLAN
    assert len(evidence.records) == 3
    assert evidence.images == {"i0": fact}
    assert evidence.windows == (window,)
    assert evidence.servers["fp8"].before == page
    assert evidence.servers["fp8"].log_text == "hello\n"
    assert evidence.servers["bf16"].version is None
    assert evidence.torn_lines == 0
    assert not evidence.complete


@pytest.mark.parametrize("tail", [b'{"target":"bf16","phase":"meas', b"\x00\xff\xfe\n", b"[1,2]\n", b'{"target":3}\n'])
def test_a_torn_or_foreign_line_is_set_aside_and_counted(tmp_path: Path, tail: bytes) -> None:
    run_dir = begun(tmp_path)
    run_dir.append("requests", record(0))
    run_dir.close()
    with (run_dir.path / "requests.jsonl").open("ab") as file:
        file.write(tail)
    evidence = read_run(run_dir.path)
    assert len(evidence.records) == 1
    assert evidence.torn_lines == 1


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.write(b"x" * (MAX_LINE_BYTES + 10) + b"\n")
        file.write(b"short\n")
    lines = list(lines_of(path))
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, 5]


def test_every_line_written_before_a_kill_is_whole(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from client.rundir import JsonLines; from client.core.records import PhaseWindow, Phase\n"
        "out = JsonLines(Path(sys.argv[1])); i = 0\n"
        "while True:\n"
        "    out.append(PhaseWindow(target='t', phase=Phase.MEASURE, start_ns=i, end_ns=i)); i += 1\n"
    )
    path = tmp_path / "phases.jsonl"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    while not path.exists() or path.stat().st_size < 50_000:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    windows, torn = read_lines(path, PhaseWindow)
    assert torn <= 1
    assert [window.start_ns for window in windows] == list(range(len(windows)))


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"no manifest\.json"):
        read_run(tmp_path)


def test_an_unwritable_place_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="--out"):
        RunDir.create(tmp_path / "file")


def test_a_full_disk_is_an_error_of_ours() -> None:
    out = JsonLines(Path("/dev/full"))
    with pytest.raises(RunDirError, match="cannot write /dev/full"):
        out.append(record(0))


def test_whole_files_are_replaced_in_one_step(tmp_path: Path) -> None:
    run_dir = begun(tmp_path)
    run_dir.write_file("report.md", "one")
    run_dir.write_file("report.md", "two")
    assert (run_dir.path / "report.md").read_text() == "two"
    assert not list(run_dir.path.glob(".*"))


def test_what_is_masked_reaches_no_file(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, mask=Mask(["sk-0123456789"]))
    run_dir.append("answers", {"text": "my key is sk-0123456789"})
    run_dir.write_file("server.log", "--api-key sk-0123456789")
    run_dir.close()
    assert (run_dir.path / "answers.jsonl").read_text() == '{"text":"my key is ***"}\n'
    assert (run_dir.path / "server.log").read_text() == "--api-key ***"


def test_the_records_of_several_workers_come_in_the_order_in_which_they_ended(tmp_path: Path) -> None:
    run_dir = begun(tmp_path)
    done = {0: [(0, 50), (1, 90), (2, 120)], 1: [(0, 60), (1, 61), (2, 300)]}
    for worker, answers in done.items():
        with (run_dir.path / f"requests-{worker}.jsonl").open("wb") as file:
            for index, done_ns in answers:
                ended = msgspec.structs.replace(record(index), worker=worker, done_ns=done_ns)
                file.write(msgspec.json.encode(ended) + b"\n")
            file.write(b'{"torn')
    found = read_run(run_dir.path)
    assert list(found.records["done_ns"]) == [50, 60, 61, 90, 120, 300]
    assert found.torn_lines == 2
