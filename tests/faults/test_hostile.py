"""Input that lies: a run directory from somebody else, pages and environments with anything in them. Nothing of it may crash us, hang
us, make us read without bound, or run."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peer import Talk, peer
from rig import ROOT, RSS_LIMIT_MIB, Byzantine, at, base_of, bench, byzantine, fine, the_run

from client.cli import build_parser
from client.config import build_plan
from client.core import counters, facts, runpod
from client.core.analysis import analyse
from client.core.greeting import birth_marks, choose_model, clock_offset_s, read_models, read_version, refusal
from client.core.measured import measured_in
from client.core.outcomes import message_of, one_line
from client.core.plan import Target
from client.core.records import ServerSnapshot
from client.errors import HalfweightError, TargetError, UsageError
from client.report import write_reports
from client.reports import markdown, terminal
from client.rundir import read_run

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
EXAMPLES = int(os.environ.get("HALFWEIGHT_FUZZ", "100"))
FEW = settings(QUICK, max_examples=EXAMPLES)
FULL = settings(QUICK, max_examples=max(3, EXAMPLES // 25))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run against a server that errs now and then."""

    def chat(talk: Talk, number: int, request: bytes) -> None:
        if number % 7 == 3:
            talk.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
        else:
            fine(talk, number, request)

    out = tmp_path_factory.mktemp("saved")
    with byzantine(chat) as (_, url):
        bench(*at(url), "--requests", "12", out=out)
    run = the_run(out)
    for name in ("findings.json", "report.md", "report.html"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "charts", ignore_errors=True)
    return run


def copy_of(run: Path, where: Path) -> Path:
    shutil.rmtree(where, ignore_errors=True)
    return Path(shutil.copytree(run, where))


# ---------------------------------------------------------------- run directories

FILES = ("manifest.json", "requests.jsonl", "images.jsonl", "phases.jsonl", "health.jsonl", "servers/t/server.json")
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=30),
    st.sampled_from(["\x1b[2J", "<script>", "../../etc/passwd", "ok", "measure", "NaN"]),
    st.just([]),
    st.just({}),
    st.just([{"a": [[[]]]}]),
)


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def put(value: object, path: tuple[object, ...], new: object) -> None:
    for key in path[:-1]:
        value = value[key]  # type: ignore[index]
    value[path[-1]] = new  # type: ignore[index]


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, str, int, int, object]:
    kind = draw(st.sampled_from(["value", "value", "value", "cut", "flip", "twice", "gone", "bytes"]))
    return draw(st.sampled_from(FILES)), kind, draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6)), draw(VALUES)


def harm(run: Path, what: tuple[str, str, int, int, object]) -> None:
    name, kind, a, b, value = what
    file = run / name
    data = file.read_bytes()
    if kind == "gone":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(data[: a % len(data)])
    elif kind == "twice":
        file.write_bytes(data * 3)
    elif kind == "flip":
        place = a % len(data)
        file.write_bytes(data[:place] + bytes([b % 256]) + data[place + 1 :])
    elif kind == "bytes":
        file.write_bytes(os.urandom(200) + data)
    else:
        lines = data.split(b"\n") if name.endswith("l") else [data]
        number = a % len(lines)
        if not lines[number].strip():
            return
        try:
            parsed = json.loads(lines[number])
        except ValueError:
            return  # an earlier harm has torn it
        ways = places(parsed)
        if not ways:
            return
        put(parsed, ways[b % len(ways)], value)
        lines[number] = json.dumps(parsed).encode()
        file.write_bytes(b"\n".join(lines))


HARMS = st.lists(damage(), min_size=1, max_size=3)


def damaged(saved: Path, where: Path, harms: list[tuple[str, str, int, int, object]]) -> Path:
    run = copy_of(saved, where / "damaged" / saved.name)
    for what in harms:
        if (run / what[0]).exists() and (run / what[0]).stat().st_size:
            harm(run, what)
    return run


@FEW
@given(harms=HARMS)
def test_a_damaged_run_directory_gives_findings_or_one_sentence(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, harms: list[tuple[str, str, int, int, object]]
) -> None:
    run = damaged(saved, tmp_path_factory.getbasetemp(), harms)
    refused = ""
    try:
        evidence = read_run(run)
        found = analyse(evidence, measured_in(evidence))
    except HalfweightError as error:
        refused = str(error)
    else:
        shown = terminal.render(found)
        assert all(char.isprintable() or char == "\n" for char in shown)
        assert "<script>" not in markdown.render(found)
    assert len(refused) < 2000


@FULL
@given(harms=HARMS)
def test_a_damaged_run_directory_gives_all_its_reports_or_one_sentence(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, harms: list[tuple[str, str, int, int, object]]
) -> None:
    run = damaged(saved, tmp_path_factory.getbasetemp(), harms)
    with contextlib.suppress(HalfweightError):
        write_reports(run)
        assert "\x1b" not in (run / "report.html").read_text()


def command(*argv: str) -> tuple[subprocess.Popen[str], float]:
    """A command in a process of its own, and its memory peak in MiB."""
    process = subprocess.Popen(
        [sys.executable, "-m", *argv], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert "Traceback" not in out + err, err
    return process, usage.ru_maxrss / 1024


@pytest.mark.parametrize("name", ["requests.jsonl", "servers/t/server.log", "manifest.json"])
def test_a_line_of_a_gigabyte_is_not_read_into_memory(name: str, saved: Path, tmp_path: Path) -> None:
    run = copy_of(saved, tmp_path / "run")
    with (run / name).open("ab") as file:
        file.truncate(file.tell() + (1 << 30))  # a hole: it takes no room on the disk
    process, rss_mib = command("client.report", str(run))
    assert process.returncode == (6 if name == "manifest.json" else 0)
    assert rss_mib < RSS_LIMIT_MIB


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(saved: Path, tmp_path: Path) -> None:
    for name in (
        "manifest.json",
        "requests.jsonl",
        "phases.jsonl",
        "servers/t/server.json",
        "servers/t/server.log",
        "gpu-0.json",
    ):
        run = copy_of(saved, tmp_path / "run")
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
        if name == "manifest.json":
            with pytest.raises(HalfweightError, match=r"manifest\.json"):
                read_run(run)
        else:
            read_run(run)


def test_names_in_a_manifest_lead_nowhere_else(saved: Path, tmp_path: Path) -> None:
    """A target called `../../secret`, read and reported: nothing outside the run directory is read or written."""
    run = copy_of(saved, tmp_path / "a" / "b" / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["plan"]["targets"][0]["name"] = "../../../secret"
    (run / "manifest.json").write_text(json.dumps(manifest))
    secret = tmp_path / "a" / "secret"
    secret.mkdir()
    (secret / "server.log").write_text("a secret")
    before = sorted(str(p) for p in tmp_path.rglob("*") if run not in p.parents)
    evidence = read_run(run)
    assert all(server.log_text is None for server in evidence.servers.values())
    write_reports(run)
    assert sorted(str(p) for p in tmp_path.rglob("*") if run not in p.parents) == before


def test_nothing_that_is_read_back_can_run() -> None:
    """No pickle, eval or the like outside the socket pair between a fleet and its own workers."""
    allowed = {"client/workers/wire.py": {"pickle"}}
    dangerous = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "xml", "jsonpickle"}
    found = []
    for file in sorted([*ROOT.glob("client/**/*.py"), *ROOT.glob("server/**/*.py")]):
        name = str(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules = [m.split(".")[0] for m in modules]
            found += [f"{name}: {m}" for m in modules if m in dangerous - allowed.get(name, set())]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                found.append(f"{name}: {node.func.id}()")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", False):
                found.append(f"{name}: allow_pickle")
    assert found == []


# ---------------------------------------------------------------- pages and words of a server

TARGET = Target(name="t", base_url="http://h")
PIECES = st.lists(
    st.one_of(
        st.sampled_from(["vllm:prefix_cache_hits_total", "{", "}", "=", '"', "\\", " ", "\n", "# TYPE a counter\n", "1e999", "NaN", "_created ", ",", "-5"]),
        st.text(max_size=6),
    ),
    max_size=40,
).map("".join)  # fmt: skip


@QUICK
@given(before=PIECES, after=PIECES)
def test_any_two_pages_give_a_difference(before: str, after: str) -> None:
    pages = [ServerSnapshot(target="t", mono_ns=n, wall_ns=n, text=text) for n, text in enumerate((before, after))]
    counters.difference(*pages)
    facts.read_cache_config(before)
    birth_marks(pages[0])


@QUICK
@given(page=st.one_of(st.binary(max_size=200), PIECES.map(str.encode), VALUES.map(lambda v: json.dumps({"data": [{"id": v}], "version": v, "workers": {"ready": v}}).encode())))  # fmt: skip
def test_any_first_answer_is_read_or_refused(page: bytes) -> None:
    read_models(page)
    read_version(page)
    runpod.read_workers(page, 0)
    assert one_line(message_of(page)).isprintable()
    for status in (200, 302, 401, 500):
        refused = refusal(TARGET, status, [("Location", page.decode("latin-1"))], page)
        assert (refused is None) == (status in (200, 500))
    refused_words = "fine"
    try:
        choose_model(TARGET, 200, page)
    except TargetError as error:
        refused_words = str(error)
    assert refused_words.isprintable()


@QUICK
@given(date=st.one_of(st.none(), st.text(max_size=40), st.sampled_from(["Wed, 25 Nov 2026 03:00:00 GMT", "Wed, 99 Nov 2026 03:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"])))  # fmt: skip
def test_any_date_gives_an_offset_or_none(date: str | None) -> None:
    clock_offset_s(date, 1_795_575_600 * 10**9, 1_795_575_601 * 10**9)


def test_a_clock_that_is_wrong_is_told_and_one_that_agrees_is_not() -> None:
    at_3 = 1_795_575_600 * 10**9  # Wed, 25 Nov 2026 03:00:00 UTC
    assert clock_offset_s("Wed, 25 Nov 2026 03:00:00 GMT", at_3 + 900_000_000, at_3 + 950_000_000) == 0.0
    ahead = clock_offset_s("Wed, 25 Nov 2026 03:01:00 GMT", at_3, at_3 + 100_000_000)
    assert ahead is not None
    assert 60 <= ahead <= 61
    assert clock_offset_s(None, at_3, at_3) is None


@pytest.mark.parametrize("piece", ["a", "{", '{a="', "\\", '"', "# HELP ", "1 ", 'x{y="z"} 1\n'])
def test_pages_cost_no_more_than_their_length(piece: str) -> None:
    """Twice the page may cost about twice the time: eight times would be quadratic and more."""

    def cost(size: int) -> float:
        text = piece * (size // len(piece))
        page = ServerSnapshot(target="t", mono_ns=0, wall_ns=0, text=text)
        started = time.process_time()
        counters.difference(page, page)
        facts.read_cache_config(text)
        birth_marks(page)
        return time.process_time() - started

    small, large = min(cost(50_000) for _ in range(3)), min(cost(400_000) for _ in range(2))
    assert large < 0.2 or large < 24 * small, (small, large)


# ---------------------------------------------------------------- environment and files of the user


@QUICK
@given(field=st.sampled_from(["URL", "MODEL", "PRICE_USD_PER_HOUR", "API_KEY_ENV", "ARGS", "SIDECAR", "KIND", "IMAGE", "NOPE"]), value=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40))  # fmt: skip
def test_any_environment_gives_a_plan_or_a_usage_error(field: str, value: str) -> None:
    arguments = build_parser().parse_args(["--target", "fp8"])
    words = "fp8"
    try:
        build_plan(arguments, {f"HALFWEIGHT_FP8_{field}": value})
    except UsageError as error:
        words = str(error)
    assert "fp8" in words


@pytest.mark.parametrize(
    "flags", [("--targets", "FILE"), ("--images", "FILE"), ("--api-key-file", "FILE"), ("--ca-file", "FILE")]
)
def test_a_file_without_end_is_not_read_into_memory(flags: tuple[str, str], tmp_path: Path) -> None:
    """/dev/zero, and a file of a gigabyte that is all hole: one sentence, exit code 2, bounded memory."""
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    for place in ("/dev/zero", str(large)):
        asked = ["--target", "t", "--url", "t=http://127.0.0.1:9", flags[0], place]
        done = bench(*asked, out=tmp_path / "out", limit_s=30)
        assert (done.code, "Traceback" in done.all) == (2, False), done.all
        assert done.line
        assert done.rss_mib < RSS_LIMIT_MIB


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.csv"])
def test_an_answer_line_of_a_gigabyte_is_not_read_into_memory(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as file:
        file.write(b'{"prediction": "' if name.endswith("l") else b"prediction,gt_boxes\n")
        file.truncate(1 << 30)
    process, rss_mib = command("client.score", str(tmp_path / name))
    assert process.returncode == 2
    assert rss_mib < RSS_LIMIT_MIB


def test_pages_that_are_bombs_are_not_blown_up(tmp_path: Path) -> None:
    """A megabyte of gzip that would be a gigabyte, in the place of each page that a server is asked for."""
    bomb = zipped_zeros(1 << 30)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
    for place in ("/metrics", "/version", "/v1/models"):

        class Bomber(Byzantine):
            def page(self, path: str, place: str = place) -> bytes:
                return head % len(bomb) + bomb if path == place else super().page(path)

        with peer(Bomber(fine)) as served:
            done = bench(*at(base_of(served)), "--requests", "2", out=tmp_path / place.strip("/").replace("/", "-"))
        assert "Traceback" not in done.all
        assert done.rss_mib < RSS_LIMIT_MIB
        assert done.code in ((3,) if place == "/v1/models" else (0, 4)), done.all  # 4: a busy machine cannot measure
        assert "compressed (gzip)" in done.all or place == "/version"


def zipped_zeros(size: int) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(press.compress(bytes(1 << 20)) for _ in range(size >> 20)), press.flush()])
