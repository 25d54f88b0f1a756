#!/usr/bin/env bash
# Records the real thing on a GPU host, beside a load that is already running: what NVML answers here, 60 s of samples at 10 Hz with
# memory at 50 Hz and the energy counter every 5 s, and what the sidecar itself costs.
#   benchmarks/sidecar/record.sh OUT_DIR [SECONDS]
# Needs python3 (PYTHON=… chooses another) with nvidia-ml-py, starlette, uvicorn, prometheus-client and msgspec; see README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:?usage: record.sh OUT_DIR [SECONDS]}
seconds=${2:-60}
python=${PYTHON:-python3}
mkdir -p "$out"

"$python" -m server.nvml_sidecar --once > "$out/once.jsonl"
"$python" -m server.nvml_sidecar --gpu 0 --rate 10 --memory-rate 50 --energy-every 5 \
    --duration "$seconds" --port 9401 --out "$out/raw.jsonl" &
sidecar=$!
# Meanwhile: the pages as they look under load, and what ten reads of the energy counter cost through HTTP.
sleep "$((seconds / 2))"
for route in info health metrics; do
    "$python" - "$route" > "$out/$route.txt" <<'PY'
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:9401/{sys.argv[1]}", timeout=5).read().decode(), end="")
PY
done
"$python" - > "$out/energy-ms.txt" <<'PY'
import time, urllib.request
for _ in range(10):
    t = time.monotonic()
    urllib.request.urlopen("http://127.0.0.1:9401/energy", timeout=5).read()
    print(f"{1000 * (time.monotonic() - t):.1f}")
PY
wait "$sidecar"
"$python" benchmarks/sidecar/trim.py "$out/raw.jsonl" "$out/h100.gpu.jsonl"
"$python" benchmarks/sidecar/cost.py --real --seconds 15 | tee "$out/cost.txt"
ls -l "$out"
