"""The house plan holds: imports point only where ARCHITECTURE.md lets them."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMANDS = {"bench", "report", "compare", "memory", "score", "make_images", "ready"}
BORDER = {"config", "cli", "load_options", "remote"}
ROOMS = {
    "answerfile", "campaign", "clock", "connection", "containers", "endpoint", "exchange", "failures", "generator", "health", "host", "hostcheck",
    "launch", "logfile", "loop", "page", "preflight", "probe", "progress", "rundir", "serverless", "session", "sockets", "summaries", "telemetry", "transport",
    "workers", "workload",
}  # fmt: skip
# A room receives its neighbours as arguments. The exceptions, each with its reason:
SIDEWAYS = {
    "hostcheck": {"containers"},  # one of the things that it asks is the container engine
    "session": ROOMS - {"session"},  # opens the rooms of one run and hands them to each other
    "campaign": {"preflight", "progress", "rundir", "serverless"},  # types of what it is given
    "workers": {
        "generator",
        "endpoint",
        "transport",
        "workload",
        "rundir",
        "clock",
        "loop",
    },  # builds the client inside the child process
    "endpoint": {"transport", "exchange"},  # reads the stamps that the transport leaves, and names what it raises
    "generator": {"clock", "health"},  # one thing in three files: when, what was late, and the walk
    "transport": {
        "connection",
        "exchange",
        "sockets",
    },  # one thing in four files: pool, wire, one exchange, opening a socket
    "health": {"clock"},
    "preflight": {"page"},
    "probe": {"endpoint", "transport"},  # the same door that the load goes through
    "serverless": {"page"},
    "connection": {"exchange", "sockets"},
    "sockets": {"exchange", "connection", "loop"},
}
# One door per package: only these modules may import it.
DOORS = {
    "httpx": {
        "client.transport",
        "client.sockets",
        "client.connection",
        "client.exchange",
        "client.endpoint",
        "client.telemetry",
        "client.preflight",
        "client.page",
        "client.serverless",
        "client.hostcheck",
    },
    "asyncio_throttle": {"client.preflight"},
    "docker": {"client.containers"},
    "pydantic": {"client.config", "client.workload", "server"},
    "pynvml": {"server"},
    "PIL": {
        "client.reports.charts",
        "client.core.images",
        "client.core.pictures",
        "client.reports.gallery",
        "client.workload",
        "server",
    },
    "rich": {"client.progress", "client.reports.terminal", "client.bench"},
    "tabulate": {
        "client.reports.terminal",
        "client.reports.markdown",
        "client.reports.tables",
        "client.memory",
        "client.score",
    },
    "starlette": {"server"},
    "uvicorn": {"server"},
    "prometheus_client": {"client.core.facts", "client.core.counters", "server"},
    "scipy": {"client.core"},
    "vl_convert": {"client.reports.charts"},
    "pyarrow": {"client.reports.export", "client.workload.parquet"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("client", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(module: str) -> str:
    """client.core.x -> core, client.reports.x -> reports, client.bench -> bench, server.x -> server."""
    parts = module.split(".")
    return "server" if parts[0] == "server" else (parts[1] if len(parts) > 1 else "client")


def allowed(source: str, target: str) -> bool:
    a, b = room(source), room(target)
    if a == b or b in ("errors", "client"):
        return True
    if (a == "server") != (b == "server"):
        return False
    if a == "errors":
        return False
    if a in ("core", "client"):
        return b == "core" and a == "core"
    if a == "reports":
        return b == "core"
    if a in BORDER:
        return b in {"core"} | BORDER
    if a in COMMANDS:
        return b not in COMMANDS or b == "report"  # every command that ends in a report writes it in the same way
    if b == "core":
        return True
    return b in SIDEWAYS.get(a, set())


def forbidden_arrows(found: dict[str, set[str]]) -> list[str]:
    own = set(found)
    return [
        f"{source} -> {target}"
        for source, targets in sorted(found.items())
        for target in sorted(targets & own)
        if not allowed(source, target)
    ]


def test_no_arrow_points_where_the_plan_forbids() -> None:
    assert forbidden_arrows({name: imports(path) for name, path in modules().items()}) == []


def test_each_package_has_one_door() -> None:
    wrong = []
    for name, path in modules().items():
        for imported in imports(path):
            doors = DOORS.get(imported.split(".")[0])
            if doors is not None and not any(name == door or name.startswith(door + ".") for door in doors):
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_the_walk_can_fail() -> None:
    assert forbidden_arrows({"client.core.a": {"client.bench"}, "client.bench": set()}) == [
        "client.core.a -> client.bench"
    ]
    assert forbidden_arrows({"client.generator": {"client.transport"}, "client.transport": set()}) != []
    assert forbidden_arrows({"server.sim": {"client.core.plan"}, "client.core.plan": set()}) != []
