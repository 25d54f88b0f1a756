"""The parts of the simulated vLLM server behind `python -m server.sim`."""

import os

# One thread for numpy's matrix products: a second one would take the core on which tokens are paced. Read when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
