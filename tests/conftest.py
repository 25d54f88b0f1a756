"""Switches of our own."""

from __future__ import annotations

import signal

import pytest

# Started in the background (nohup, a shell without job control) this process ignores Ctrl-C, and its children inherit that: tests of Ctrl-C
# could not pass.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden reports anew instead of comparing")
