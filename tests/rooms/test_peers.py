"""The bench of peers with peers of our own making: small scripts that load the real truth server, well, badly, or not at all."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import bodies, peer_install, peer_table, peers
from benchmarks.figures import Lab
from benchmarks.peer_install import NotInstalled, install
from benchmarks.peer_tools import OWN, PEERS, Call, Case, Peer, Ttft
from benchmarks.peer_watch import members, watch
from benchmarks.truth_server import Truth, build, serving

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")

SENDER = """
import http.client, json, sys, time
url, count, report, code = sys.argv[1:]
connection = http.client.HTTPConnection(url.removeprefix("http://"))
body = json.dumps({"stream": True, "max_tokens": 16, "picture": "x" * 20_000}, separators=(",", ":"))
for _ in range(int(count)):
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    connection.getresponse().read()
if report != "none":
    open(report, "w").write(json.dumps({"p50": 60.0, "p99": 70.0}))
print("last words")
sys.exit(int(code))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    return Lab(folder, folder, None, None)


@pytest.fixture(scope="module")
def servers(lab: Lab) -> Iterator[tuple[Truth, Truth]]:
    server = build("server", lab.cache)
    with serving(server, "burst", None) as burst, serving(server, "paced", None) as paced:
        yield burst, paced


def sender(*, sent: float = 1.0, report: bool = True, code: int = 0) -> Peer:
    """A tool that sends a share of what it was asked for, says 60 and 70 ms, and ends with `code`."""

    def command(case: Case) -> Call:
        script = case.folder / "sender.py"
        script.write_text(SENDER)
        said = str(case.folder / "report.json") if report else "none"
        return [sys.executable, str(script), case.url, str(int(sent * case.requests)), said, str(code)], {}

    def ttft(case: Case) -> Ttft:
        found = json.loads((case.folder / "report.json").read_text())
        return Ttft(found["p50"], found["p99"])

    return Peer("sender", None, command, ttft, requests=20, burst_requests=50)


def row_of(
    lab: Lab, servers: tuple[Truth, Truth], peer: Peer, monkeypatch: pytest.MonkeyPatch, python: Path | NotInstalled
) -> peers.Row:
    monkeypatch.setitem(PEERS, "sender", peer)
    monkeypatch.setattr(peers, "FEW", 10)
    return peers.measure(lab, "sender", python, *servers)


def test_a_tool_is_held_against_what_the_server_did(
    lab: Lab, servers: tuple[Truth, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_of(lab, servers, sender(), monkeypatch, Path(sys.executable))
    found = row.figures()
    assert None not in found.values(), row.remarks
    assert not row.remarks
    assert row.ttft_off_p50_ms == pytest.approx(10, abs=3)  # says 60, the server took 50
    assert row.paced_rps == pytest.approx(1 / 0.127, rel=0.2)  # one at a time: 50 ms and 15 tokens more, every 5 ms
    assert row.burst_rps is not None
    assert row.burst_rps > 20 * row.paced_rps
    assert row.body_kb == pytest.approx(20.05, abs=0.05)


@pytest.mark.parametrize(
    ("peer", "missing", "said"),
    [
        (sender(sent=0.5), set(peer_table.COLUMNS), r"few: 5 of 10 requests answered; see .*sender\.few\.log"),
        (
            sender(report=False),
            {"ttft_off_p50_ms", "ttft_off_p99_ms"},
            r"its report gives no .*see .*sender\.paced\.log",
        ),
        (sender(code=3), {"cpu_ms"}, r"burst: exit code 3, 50 of 50 requests answered; see .*sender\.burst\.log"),
    ],
)
def test_what_a_run_does_not_give_is_missing_alone_and_the_log_is_named(
    lab: Lab,
    servers: tuple[Truth, Truth],
    peer: Peer,
    missing: set[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = row_of(lab, servers, peer, monkeypatch, Path(sys.executable))
    assert {name for name, value in row.figures().items() if value is None} == missing
    assert any(re.search(said, remark) for remark in row.remarks), row.remarks
    log = lab.cache / "peers" / "logs" / "sender.few.log"
    assert log.read_text() == "last words\n"


def test_a_tool_that_cannot_be_installed_has_a_row(
    lab: Lab, servers: tuple[Truth, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_of(lab, servers, sender(), monkeypatch, NotInstalled("could not be installed: see x.log"))
    assert set(row.figures().values()) == {None}
    assert row.remarks == ["could not be installed: see x.log"]


def test_an_installation_that_fails_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    peer = Peer("none", f"{tmp_path}/not-there.whl==1", sender().command, sender().ttft)
    with pytest.raises(NotInstalled, match=r"could not be installed: see .*\.install\.log") as caught:
        install(tmp_path, "none", peer, lambda line: None)
    log = Path(str(caught.value).rpartition(" ")[2])
    assert "pip install" in log.read_text()
    assert not list(tmp_path.rglob("installed"))  # so that the next start tries again


def test_without_the_small_torch_the_tool_is_installed_all_the_same_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "tinytool-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinytool.py", "")
        wheel.writestr("tinytool-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinytool\nVersion: 1\n")
        wheel.writestr("tinytool-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tinytool-1.dist-info/RECORD", "")
    peer = Peer("tinytool", "tinytool==1", sender().command, sender().ttft, light=True)
    said: list[str] = []
    python = install(tmp_path, "tinytool", peer, said.append)
    assert subprocess.run([python, "-c", "import tinytool"], check=False).returncode == 0
    assert (tmp_path / "peers" / "logs" / "tinytool.install.log").read_text().count("pip install") == 3
    assert install(tmp_path, "tinytool", peer, said.append) == python
    assert len(said) == 1


def test_a_python_that_nobody_has_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotInstalled, match=r"needs Python 3\.99 or newer"):
        peer_install._find_python((3, 99))


def test_children_count_and_none_is_left_running(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "busy = 'import time\\nwhile time.process_time() < 0.6: pass'\n"
        "subprocess.run([sys.executable, '-c', busy])\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('session', 'w').write(str(os.getsid(0)))\n"
    )
    seen = watch([sys.executable, "-c", script], tmp_path, {}, tmp_path / "log", timeout_s=30)
    assert seen.code == 0
    assert not seen.timed_out
    assert seen.cpu_s > 0.6
    assert seen.pss_mb > 1
    assert members(int((tmp_path / "session").read_text())) == []


def test_a_tool_that_hangs_is_ended(tmp_path: Path) -> None:
    begun = time.monotonic()
    seen = watch([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, {}, tmp_path / "log", timeout_s=0.6)
    assert seen.timed_out
    assert seen.code != 0
    assert time.monotonic() - begun < 20


def test_the_table_fits_a_terminal_of_100_columns() -> None:
    full = dict.fromkeys(peer_table.COLUMNS, 12_345.6)
    rows = [peers.Row(peer.name_and_version, **full, remarks=["word " * 40]) for peer in PEERS.values()]
    rows[2].cpu_ms = None
    printed = peer_table.text(rows)
    assert max(map(len, printed.splitlines())) <= 100
    assert all(printed.count(peer.name_and_version) >= 2 for name, peer in PEERS.items() if name != OWN)
    assert " - " in printed
    assert "1x" in printed


def test_units_of_reports_are_theirs(lab: Lab, tmp_path: Path) -> None:
    case = Case(lab, Path(sys.executable), "http://127.0.0.1:1", 1, tmp_path, tmp_path)
    folder = tmp_path / "20260101" / "tiny"
    folder.mkdir(parents=True)
    for unit, scale in (("ms", 1.0), ("s", 1e-3)):
        rows = [{"Percentiles": f"{p}%", f"TTFT ({unit})": 1000.0 * p * scale} for p in (50, 99)]
        (folder / "benchmark_percentile.json").write_text(json.dumps(rows))
        found = PEERS["evalscope"].ttft(case)
        assert (found.p50_ms, found.p99_ms) == pytest.approx((50_000.0, 99_000.0))


def test_every_tool_gets_our_address_and_the_number_of_requests(lab: Lab, tmp_path: Path) -> None:
    folder = bodies.ensure(tmp_path / "bodies")
    for name, peer in PEERS.items():
        own = tmp_path / name
        own.mkdir()
        case = Case(Lab(tmp_path, folder, None, None), Path("/x/bin/python"), "http://127.0.0.1:7777", 321, own, own)
        command, told = peer.command(case)
        everything = " ".join([*command, *told.values(), *(path.read_text() for path in own.glob("config.yml"))])
        assert "127.0.0.1:7777" in everything, name
        assert "321" in everything, name
