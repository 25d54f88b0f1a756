"""Lets torchvision from PyPI be imported beside a CPU build of torch.

Its compiled part is built for CUDA and does not load, and its import then stops at two operators that it expects to be registered.
Nothing that vLLM does on a CPU calls them: declaring them is enough. Installed into the server's environment by scripts/vllm-cpu.
"""

import importlib.abc
import sys


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Acts once, just before the first import of torchvision, and takes itself away."""

    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            for operator in ("nms", "qnms"):
                torch.library.define(f"torchvision::{operator}", signature)


sys.meta_path.insert(0, DeclareOperators())
