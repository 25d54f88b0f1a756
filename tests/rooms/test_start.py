"""The client's start is part of what it measures (start to first request): it loads what a run needs, and the rest when it is needed."""

from __future__ import annotations

import subprocess
import sys


def test_the_client_starts_without_the_libraries_of_its_analysis() -> None:
    code = (
        "import sys, client.bench; print([m for m in ('scipy', 'vl_convert', 'pyarrow', 'docker') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
