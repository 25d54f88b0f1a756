"""A small Qwen2-VL that can really do the task: a model to serve on a machine without a GPU. See `train.py`."""
