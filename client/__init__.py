"""Halfweight's client: load, measurement, verdict."""

import sys

# httpx imports its own command line with it, and that imports a syntax highlighter: a fifth of a second in which no request is sent.
# A None in sys.modules makes that import fail, which httpx is prepared for (it is an optional extra).
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
